"""What `fastobs doctor` checks; each answers with findings and prints nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import SecretStr

from fastobs import Settings, catalogue
from fastobs._version import __version__
from fastobs.config import SECTIONS

from .exposition import Samples, fallen, live_workers, select, total

__all__ = [
    "Finding",
    "content_type",
    "differing",
    "overruled",
    "release",
    "steady",
    "strangers",
    "trust",
    "workers",
]

PREFIX = "FASTOBS_"
OTHERS = {"FASTOBS_STRICT"}
"""Variables that are ours, and no settings."""
OF_KUBERNETES = re.compile(r"FASTOBS_(SERVICE_(HOST|PORT.*)|PORT.*)")
"""Set in every pod beside a Service named fastobs."""


class Finding(NamedTuple):
    """One line of the check-up."""

    kind: Literal["ok", "note", "problem"]
    text: str


def differing(applied: Settings) -> Iterator[tuple[str, str]]:
    """The settings that are not the defaults, by name; secrets are stars."""
    for section, kind in SECTIONS.items():
        values = getattr(applied, section)
        if values is None:
            yield section, "None, switched off"
            continue
        for field, default in kind():
            value = getattr(values, field)
            if value != default:
                shown = str(value) if isinstance(value, SecretStr) else repr(value)
                yield f"{section}.{field}", shown


def strangers(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    known = set(OTHERS)
    for section, kind in SECTIONS.items():
        known.add(f"{PREFIX}{section.upper()}")
        known.update(_variable(section, field) for field in kind.model_fields)
    ours = {name for name in map(str.upper, variables) if name.startswith(PREFIX)}
    for name in sorted(ours - known):
        if OF_KUBERNETES.fullmatch(name):
            yield Finding("note", f"{name} is no setting: Kubernetes sets it beside a Service.")
            continue
        close = get_close_matches(name, known, n=1)
        advice = f"Is {close[0]} meant?" if close else "Unset it."
        yield Finding("problem", f"{name} is no setting and has no effect. {advice}")


def overruled(
    applied: Settings, wanted: Settings, variables: Mapping[str, str]
) -> Iterator[Finding]:
    """Variables to which the code gives another value.

    Args:
        applied: The settings of the app.
        wanted: Those of the environment alone.
        variables: The environment.
    """
    present = set(map(str.upper, variables))
    for section, kind in SECTIONS.items():
        ours, theirs = getattr(applied, section), getattr(wanted, section)
        for field in kind.model_fields:
            if theirs is None or _variable(section, field) not in present:
                continue
            if ours is None or getattr(ours, field) != getattr(theirs, field):
                text = f"{_variable(section, field)} is set, but the code says otherwise and wins."
                yield Finding("note", text)


def content_type(said: str, *, wanted: str, name: str) -> Finding:
    """Whether a page comes as what was asked for."""
    if said.startswith(wanted):
        return Finding("ok", f"answers in {name}: {said}")
    return Finding(
        "problem",
        f"asked for {name}, it answers as {said!r} instead of {wanted!r}. "
        "Does a proxy between rewrite it?",
    )


def release(found: Samples) -> Iterator[Finding]:
    """Which versions the service runs."""
    for labels in select(found, catalogue.BUILD_INFO.name):
        said = dict(labels)
        text = ", ".join(f"{name} {said[name]}" for name in catalogue.BUILD_INFO.labels)
        yield Finding("ok", f"the service runs fastobs {text}")
        if said["version"] != __version__:
            yield Finding("note", f"this command is of {__version__}; it may not know every series")


def steady(looks: Sequence[Samples]) -> Finding:
    """Whether scrapes in a row are of one and the same service."""
    for one, two in pairwise(looks):
        if names := fallen(one, two):
            return Finding(
                "problem",
                f"{names[0]} fell between two scrapes: several workers or machines answer here and "
                "do not know of each other. Set FASTOBS_WORKERS_DIRECTORY to a folder that all "
                "workers can write to, and scrape each machine by itself.",
            )
    return Finding("ok", f"no counter fell in {len(looks)} scrapes")


def workers(found: Samples) -> Finding:
    """How many workers a scrape speaks for."""
    live = live_workers(found)
    processes = len(select(found, catalogue.PROCESS_START.name))
    return Finding(
        "ok" if live else "problem",
        f"workers that are live: {live}; that show their process: {processes}",
    )


def trust(found: Samples) -> Iterator[Finding]:
    """What the service itself says of its numbers."""
    for (component,), count in _nonzero(found, catalogue.SELF_ERRORS):
        text = f"{count:.0f} errors of fastobs itself in {component!r}; the service's log has them"
        yield Finding("problem", text)
    for (metric,), count in _nonzero(found, catalogue.SELF_OVERFLOW):
        text = f"{metric} has too many label sets; {count:.0f} observations have lost theirs"
        yield Finding("problem", text)
    for (signal, reason), count in _nonzero(found, catalogue.SELF_DROPPED):
        yield Finding("note", f"{count:.0f} {signal} were dropped: {reason}")


def _nonzero(found: Samples, metric: catalogue.Metric) -> Iterator[tuple[tuple[str, ...], float]]:
    sums = total(found, metric.name, *metric.labels)
    yield from ((key, count) for key, count in sorted(sums.items()) if count)


def _variable(section: str, field: str) -> str:
    return f"{PREFIX}{section}_{field}".upper()
