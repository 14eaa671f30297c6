"""``fastobs token`` and ``fastobs profile``: a profile of one request, from the outside."""

from __future__ import annotations

import re
import secrets
import time
import webbrowser
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastobs.config import Profiles
from fastobs.profiling.tokens import EVERY, LONGEST, Signed, read, sign

from . import web
from .failure import Failed
from .render import seconds

__all__ = ["profile", "token"]

TRIES = 10
"""Questions for a profile that is being written; the service holds each for a second."""
NOTHING = "-"
TTL = "15m"
UNITS = {"s": 1, "m": 60, "h": 3600}
SHORT = 16
"""Characters of a secret that can be found by trying, given something that it has signed."""
REFUSALS = {
    "busy": "another request is being profiled on that event loop. Try again when it is done",
    "limited": "it has profiled as many requests in this minute as profiles.per_minute allows. "
    "Wait a minute, or raise FASTOBS_PROFILES_PER_MINUTE",
    "unavailable": "it has no folder that only it can read. Set FASTOBS_PROFILES_DIRECTORY; "
    "the service's log has the reason",
}


class Purpose(StrEnum):
    """What a token opens."""

    PROFILES = "profiles"
    METRICS = "metrics"


class Format(StrEnum):
    """The formats of the viewer."""

    HTML = "html"
    JSON = "json"
    TEXT = "text"
    SPEEDSCOPE = "speedscope"
    FOLDED = "folded"
    PPROF = "pprof"


ENDINGS = {Format.TEXT: "txt", Format.SPEEDSCOPE: "speedscope.json", Format.PPROF: "pb.gz"}
"""Of files, where they are not the format's name."""


def _key(what: str) -> Any:
    return typer.Option(
        "--token",
        envvar="FASTOBS_PROFILES_TOKEN",
        show_default=False,
        help=f"{what} Others on this machine can see it among the words of a command: better set the "
        "variable.",
    )


def token(
    *,
    purpose: Annotated[
        Purpose, typer.Option("--for", help="Profiles of requests, or the page of metrics.")
    ] = Purpose.PROFILES,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help=f"Make a signed token that ends after this time, at most 24h; {TTL} with --route.",
            show_default=False,
        ),
    ] = None,
    route: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Make a signed token for these routes: '/orders/*', or a template like "
            "'/orders/{order_id}'; all of them with --ttl.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None, _key("The service's profiles.token, of which a signed token is made.")
    ] = None,
) -> None:
    """Make a token, and print the line to set; or one that is signed, and ends by itself."""
    if ttl is not None or route is not None:
        if purpose is not Purpose.PROFILES:
            msg = "Only tokens for profiles can end by themselves; leave out --ttl and --route."
            raise Failed(msg)
        _sign(key, ttl or TTL, route or EVERY)
        return
    typer.echo(f"FASTOBS_{purpose.upper()}_TOKEN={secrets.token_urlsafe(32)}")
    typer.echo(
        "Set it where the service starts; whoever has it sees what it opens. It is shown only once.",
        err=True,
    )


def _sign(secret: str | None, ttl: str, pattern: str) -> None:
    if not secret:
        msg = (
            "A signed token is made of the secret of the service: set FASTOBS_PROFILES_TOKEN to its "
            "profiles.token, or give --token. 'fastobs token' makes a new secret."
        )
        raise Failed(msg)
    if read(secret.encode()) is not None:
        msg = "FASTOBS_PROFILES_TOKEN or --token is a signed token itself; give the secret of the service."
        raise Failed(msg)
    expires = int(time.time() + _time(ttl))
    typer.echo(sign(secret, pattern=pattern, expires=expires))
    routes = "all routes" if pattern == EVERY else pattern
    typer.echo(
        f"Until {_when(expires)} whoever has it can profile requests to {routes} and see the profiles "
        "of these routes. Only another secret of the service ends it before.",
        err=True,
    )
    if len(secret) < SHORT:
        typer.echo(
            "The secret is short: whoever has this token can find it by trying. 'fastobs token' makes "
            "a better one.",
            err=True,
        )


def _time(ttl: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", ttl)
    lasts = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < lasts <= LONGEST:
        msg = f"--ttl {ttl} is not a time of at most 24 hours; write it like 90s, 15m or 2h."
        raise Failed(msg)
    return lasts


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def profile(
    url: Annotated[str, typer.Argument(help="The request to profile.")],
    *,
    key: Annotated[
        str | None,
        _key(
            "The service's profiles.token, or a signed one of 'fastobs token'; not needed in debug mode "
            "on the same machine."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the profile goes; else profile-ID with the format's ending, and text to the "
            "terminal."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="What to fetch: speedscope is for speedscope.app, folded for flamegraph.pl and "
            "inferno, pprof for go tool pprof and Pyroscope.",
        ),
    ] = Format.HTML,
    method: Annotated[str, typer.Option(help="Of the request.")] = "GET",
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="To send with the request; repeatable."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="The service's profiles.path, with any path in front of it.")
    ] = str(Profiles.model_fields["path"].default),
) -> None:
    """Send a request, have it profiled, and fetch the profile."""
    viewer = f"{web.origin(url)}/{prefix.strip('/')}/profiles"
    secret = {"X-Profile": key or "1"}
    started = time.perf_counter()
    answer = web.ask(url, headers={**_headers(header), **secret}, method=method)
    took = time.perf_counter() - started
    typer.echo(f"{method} {url}", err=True)
    typer.echo(f"status    {answer.status}", err=True)
    typer.echo(f"duration  {seconds(took)}, seen from here", err=True)
    typer.echo(f"trace id  {answer.headers.get('x-trace-id', NOTHING)}", err=True)
    identity = answer.headers.get("x-profile-id")
    if identity is None:
        raise Failed(_why_not(answer, viewer, secret, key))
    _deliver(
        _fetch(f"{viewer}/{identity}?format={kind}", secret), identity, kind, output, show=show
    )


def _headers(given: list[str] | None) -> dict[str, str]:
    headers = {}
    for line in given or ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            msg = f"--header {line!r} is no header; write it like --header 'Accept: text/html'."
            raise Failed(msg)
        headers[name.strip()] = value.strip()
    return headers


def _why_not(answer: web.Answer, viewer: str, secret: dict[str, str], key: str | None) -> str:
    status = answer.headers.get("x-profile-status")
    if status is not None:
        return f"The service did not profile this request: {REFUSALS.get(status, status)}."
    match web.ask(viewer, headers=secret).status, key and (read(key.encode()) or key):
        case 401, None | "":
            why = "it wants a token. Give --token or set FASTOBS_PROFILES_TOKEN"
        case 401, Signed() as signed:
            why = (
                "the token was made of another secret, or is over: its end is "
                f"{_when(signed.expires)}. Make another one with 'fastobs token --ttl 15m'"
            )
        case 200, Signed() as signed:
            why = (
                f"the token is for {signed.pattern.text}, and this path is another one, or one that the "
                "service leaves alone. See its setting metrics.exclude"
            )
        case 401, _:
            why = "its token is another one. Give the value of its profiles.token"
        case 200, _:
            why = "it leaves this path alone. See its setting metrics.exclude"
        case 403, _:
            why = "without a token it is profiled under the name of its machine only. Use 127.0.0.1"
        case _:
            why = (
                f"there is nothing at {viewer}. Set FASTOBS_PROFILES_TOKEN where it starts; if its "
                "profiles.path is another one, give --prefix"
            )
    return f"The service did not profile this request: {why}."


def _fetch(url: str, secret: dict[str, str]) -> bytes:
    for _ in range(TRIES):
        answer = web.ask(url, headers=secret)
        if answer.status == 200:
            return answer.body
        if answer.status != 404:
            break
    if answer.status == 403:
        msg = (
            "The request was profiled, but the token does not show the profile: it is for the path of the "
            "request and not for the template of its route. Make one for that, like '/orders/{order_id}'."
        )
        raise Failed(msg)
    msg = (
        f"The request was profiled, but {url} answered {answer.status}. If several machines serve "
        "this address, they need one FASTOBS_PROFILES_URL; otherwise see the service's log."
    )
    raise Failed(msg)


def _deliver(body: bytes, identity: str, kind: Format, output: Path | None, *, show: bool) -> None:
    if output is None and kind is Format.TEXT and not show:
        typer.echo(body.decode(errors="replace"))
        return
    file = output or Path(f"profile-{identity}.{ENDINGS.get(kind, kind)}")
    try:
        file.write_bytes(body)
    except OSError as error:
        msg = f"{file} cannot be written: {error}. Choose another file with --output."
        raise Failed(msg) from error
    typer.echo(f"profile   {file}", err=True)
    if show and not webbrowser.open(file.resolve().as_uri()):
        msg = f"There is no browser here that opens {file}. Open it yourself."
        raise Failed(msg)
