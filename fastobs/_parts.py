"""Where a request's time goes: every moment belongs to one part, the one that began last."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock

from ._exchange import NO_PARTS, Exchange

__all__ = ["UNACCOUNTED", "Parts", "account", "enter", "leave", "so_far"]

UNACCOUNTED = "unaccounted"
"""What of the duration belongs to no part."""


class Parts(dict[str, float]):
    """Seconds by part, and which parts are going on.

    Parts may lie within each other (a query in a section), beside each other (two queries at once)
    or across each other. A moment is counted once and for the part that began last, so that the
    parts of a request never add up to more than its duration.

    The loop and the request's threads write to it at the same time.
    """

    __slots__ = ("_lock", "_open", "_settled", "_since")

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._since = 0.0
        self._settled = False
        # Reentrant: the garbage collector may run here and give back a connection, which has a part.
        self._lock = RLock()

    def enter(self, part: str, now: float) -> None:
        """The part begins."""
        with self._lock:
            if not self._settled:
                self._turn(now)
                self._open.append(part)

    def leave(self, part: str, now: float) -> None:
        """The part ends; if it goes on several times, one of them does."""
        with self._lock:
            self._turn(now)
            going_on = self._open
            if going_on and going_on[-1] == part:
                # Nearly always.
                del going_on[-1]
                return
            for at in range(len(going_on) - 2, -1, -1):
                if going_on[at] == part:
                    del going_on[at]
                    return

    def settle(self, now: float) -> None:
        """The request ends: what goes on in a task that outlives it is not its time any more."""
        with self._lock:
            self._turn(now)
            self._open.clear()
            self._settled = True

    def so_far(self, now: float) -> dict[str, float]:
        """Seconds by part, of what goes on up to now."""
        with self._lock:
            self._turn(now)
            return dict(self)

    def _turn(self, now: float) -> None:
        since = self._since
        # Whoever read the clock first may come second, from another thread.
        if now > since:
            self._since = now
            if self._open:
                part = self._open[-1]
                self[part] = (self[part] if part in self else 0.0) + now - since  # noqa: SIM401 - faster


def enter(exchange: Exchange | None, part: str, now: float) -> None:
    """The part begins for this exchange; nothing happens outside one, and in a closed one.

    Args:
        exchange: Whose time it is.
        part: One of `catalogue.PART`, or a section's name.
        now: Seconds, as ``perf_counter`` says.
    """
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is not Parts:
        parts = _first(exchange)
    parts.enter(part, now)


def leave(exchange: Exchange | None, part: str, now: float) -> None:
    """The part ends."""
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is Parts:
        parts.leave(part, now)


def account(exchange: Exchange) -> Mapping[str, float]:
    """Where the time of a closed exchange went: seconds by part, which add up to its duration."""
    parts = exchange.parts
    if type(parts) is Parts:
        parts.settle(exchange.started + exchange.duration)
    return _completed(parts, exchange.duration)


def so_far(exchange: Exchange, now: float) -> Mapping[str, float]:
    """Where the time of an exchange that goes on went: seconds by part, which add up to its age.

    Args:
        exchange: An open one.
        now: Seconds, as ``perf_counter`` says.
    """
    parts = exchange.parts
    if type(parts) is Parts:
        parts = parts.so_far(now)
    return _completed(parts, now - exchange.started)


def _completed(parts: Mapping[str, float], whole: float) -> Mapping[str, float]:
    rest = whole - sum(parts.values())
    if rest <= 0:
        # Below zero it is the error of the sum; or the last byte went out while a thread wrote.
        return parts
    return {**parts, UNACCOUNTED: parts.get(UNACCOUNTED, 0.0) + rest}


def _first(exchange: Exchange) -> Parts:
    # Made with the first part: many requests have none. Two threads may both have a request's first;
    # between these two lines nothing is called, so no thread comes in between.
    made = Parts()
    if exchange.parts is NO_PARTS:
        exchange.parts = made
    exchange.noted = True
    parts = exchange.parts
    assert isinstance(parts, Parts)
    return parts
