"""Who holds a connection, and for how long: by route, and in a line of the log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from threading import Lock
from time import perf_counter
from typing import Protocol

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs.cells import Reading

from . import Tell
from ._sites import Site, written

__all__ = ["FRAMES", "Held", "Holder", "Unseen", "ages", "tell_held"]

FRAMES = 40
"""So deep the caller of a checkout is looked for; it is 25 frames away in an ORM query."""

_lock = Lock()


class Unseen:
    """Connections of one pool that were taken before an app was instrumented, or before a fork.

    They are not seen to come back, but their pool tells how many are out, and they can only become
    fewer.

    Attributes:
        out: How many there were when we began to look, or were left when we looked last.
    """

    __slots__ = ("out",)

    def __init__(self, out: int = 0) -> None:
        self.out = out

    def left(self, others: int) -> int:
        """How many are still out; the pool says that so many are, beyond those that were seen."""
        # Who is just being served is among them, too: what comes later does not count.
        self.out = max(0, min(self.out, others))
        return self.out


class Holder(Protocol):
    """Whose a connection is: the account of its pool."""

    name: str


class Held(Protocol):
    """A connection that is out.

    Attributes:
        since: When it was handed out, as ``perf_counter`` says.
        site: The app's line that wanted it.
        told: Whether there was a line about it.
    """

    since: float
    told: bool

    @property
    def account(self) -> Holder: ...
    @property
    def exchange(self) -> Exchange | None: ...
    @property
    def route(self) -> str: ...
    @property
    def site(self) -> Site | None: ...


class Aged(Protocol):
    """What of one that is out is enough to tell its age."""

    @property
    def since(self) -> float: ...
    @property
    def route(self) -> str: ...


def ages(name: str, out: Iterable[Aged]) -> Iterator[Reading]:
    """Of each route the connection that has been out for the longest time."""
    now = perf_counter()
    oldest: dict[str, float] = {}
    for held in out:
        route = held.route
        oldest[route] = max(now - held.since, oldest.get(route, 0.0))
    for route, age in oldest.items():
        yield Reading(catalogue.POOL_OLDEST, (name, route), age)


def tell_held(tell: Tell, out: Iterable[Held], *, after: float) -> None:
    """Have a line written about each that has been out for so many seconds, once."""
    now = perf_counter()
    for held in out:
        duration = now - held.since
        if duration < after:
            continue
        # Metrics may be shown on two threads at once.
        with _lock:
            first, held.told = not held.told, True
        if first:
            tell(("warning", _line(held, duration, after)))


def _line(held: Held, duration: float, threshold: float) -> dict[str, object]:
    """The fields of its line."""
    fields: dict[str, object] = {
        "event": "connection_held",
        "level": "warning",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "duration": round(duration, 6),
        "threshold": threshold,
        "pool": held.account.name,
        "route": held.route,
        "at": written(held.site),
    }
    if (exchange := held.exchange) is not None:
        fields["trace_id"] = exchange.trace_id
        fields["request_id"] = exchange.request_id
        # What is held after the end of its request was forgotten, or works in the background.
        fields["request_over"] = exchange.closed
    return {**fields, "pid": os.getpid()}
