"""``fastobs doctor``: what is watched, what is missing, and what is set but has no effect."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import isfunction
from pathlib import Path
from typing import Annotated, Any

import typer

from fastobs import Handle, Settings
from fastobs._version import __version__
from fastobs.config import load

from . import checks, web
from .checks import Finding
from .failure import Failed

__all__ = ["doctor"]

LIBRARIES = (
    *("fastapi", "starlette", "prometheus-client", "opentelemetry-sdk"),
    *("pyinstrument", "structlog", "uvicorn", "gunicorn", "granian"),
)
SCRAPES = 5
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMPORT_PATH|URL]",
            show_default=False,
            help="An app like main:app or main:create_app(), which is imported, or the address of a "
            "running service. "
            "Without: this environment only.",
        ),
    ] = None,
    *,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FASTOBS_METRICS_TOKEN", show_default=False, help="The service's metrics.token."
        ),
    ] = None,
) -> None:
    """Say what is watched, what is missing and what has no effect; 1 if there is a problem."""
    if target is None:
        found = _here()
    elif web.is_url(target):
        found = _service(web.metrics_url(target), token)
    else:
        found = _app(target)
    problems = 0
    for finding in found:
        problems += finding.kind == "problem"
        typer.echo(f"{finding.kind:9}{finding.text}")
    if problems:
        msg = f"{problems} {'problem' if problems == 1 else 'problems'}; see above."
        raise Failed(msg)


def _here() -> Iterator[Finding]:
    _show_versions()
    _show_settings(load(None, {}), "the environment alone")
    yield from checks.strangers(os.environ)


def _app(target: str) -> Iterator[Finding]:
    _show_versions()
    app = _imported(target)
    handle = getattr(getattr(app, "state", None), "fastobs", None)
    if not isinstance(handle, Handle):
        yield Finding(
            "problem",
            f"{target} is a {type(app).__name__} that nobody has instrumented when it is imported. "
            + (
                f"If it makes the app, write '{target}()'."
                if isfunction(app)
                else "Call fastobs.instrument(app) beside it; a call in its lifespan is not seen from "
                "here."
            ),
        )
        yield from checks.strangers(os.environ)
        return
    _show_settings(handle.settings, target)
    typer.echo(handle.status())
    yield Finding(
        "ok", f"{target} is instrumented; ask its address for what it does when it serves"
    )
    yield from checks.strangers(os.environ)
    yield from checks.overruled(handle.settings, load(None, {}), os.environ)
    profiles = handle.settings.profiles
    if profiles is not None and profiles.token is None:
        yield Finding("note", "profiles.token is not set: nothing is profiled but in debug mode")


def _service(where: str, token: str | None) -> Iterator[Finding]:
    for name, wanted in (("the text format", web.TEXT), ("OpenMetrics", OPENMETRICS)):
        answer = web.fetch(where, token=token, accept=wanted)
        said = answer.headers.get("content-type", "")
        yield checks.content_type(said, wanted=wanted, name=name)
    looks = [web.scrape(where, token=token) for _ in range(SCRAPES)]
    yield from checks.release(looks[-1])
    yield checks.steady(looks)
    yield checks.workers(looks[-1])
    yield from checks.trust(looks[-1])


def _imported(target: str) -> object:
    """The object of an import path, as servers write it.

    Raises:
        Failed: There is no such module or name, or importing it failed.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        msg = (
            f"{target!r} is neither an import path nor an address. "
            "Write it like main:app, or like http://127.0.0.1:8000."
        )
        raise Failed(msg)
    # As servers do: the app is in the folder from which it is started.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as error:
        msg = (
            f"{module} cannot be imported: {type(error).__name__}: {error}. "
            "Run this in the folder and with the environment of the service."
        )
        raise Failed(msg) from error
    # A factory, as gunicorn writes it.
    made = name.endswith("()")
    for part in name.removesuffix("()").split("."):
        if not hasattr(found, part):
            msg = f"{module} has no {name!r}. Give the name of the application object."
            raise Failed(msg)
        found = getattr(found, part)
    try:
        return found() if made else found
    except Exception as error:
        msg = f"{target} failed: {type(error).__name__}: {error}."
        raise Failed(msg) from error


def _show_versions() -> None:
    typer.echo(f"fastobs {__version__}, Python {platform.python_version()}")
    present = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    typer.echo(", ".join(present))


def _show_settings(applied: Settings, where: str) -> None:
    typer.echo(f"settings of {where}")
    lines = [f"  {name} = {value}" for name, value in checks.differing(applied)]
    typer.echo("\n".join(lines) or "  all defaults")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
