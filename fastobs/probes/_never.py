"""A cache that never hits: it only costs, and nobody who looks for what is slow would see it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from fastobs._exchange import CURRENT
from fastobs.cells.meters import Counter

from ._sites import FRAMES, call_site, written

__all__ = ["MISSES", "Judge"]

MISSES, SECONDS = 10, 5.0
"""Without a hit, and for how long after half of them. A cache that is empty yet misses at first, maybe
once when the app starts and then all at once; but in that time something is asked again."""


class Judge:
    """Tells of one cache, once.

    Args:
        name: The cache's.
        tell: Takes the line.
        clock: Seconds.

    Attributes:
        over: Whether there is nothing to tell any more.
    """

    __slots__ = ("_began", "_clock", "_name", "_tell", "over")

    def __init__(
        self,
        name: str,
        tell: Callable[[tuple[str, dict[str, object]]], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._tell = tell
        self._clock = clock
        self._began: float | None = None
        self.over = False

    def look(self, hits: Counter, misses: Counter) -> None:
        """A value was loaded; called below the line of the app that wanted it, until it is `over`."""
        if hits.value:
            self.over = True
            return
        if misses.value < MISSES / 2:
            return
        now = self._clock()
        if self._began is None:
            self._began = now
        if misses.value < MISSES or now - self._began < SECONDS:
            return
        self.over = True
        exchange = CURRENT.get()
        line: dict[str, object] = {
            "event": "cache_never_hits",
            "level": "warning",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "cache": self._name,
            "misses": int(misses.value),
            "route": "" if exchange is None else exchange.route,
            "at": _asked_from(),
            "pid": os.getpid(),
        }
        self._tell(("warning", line))


def _asked_from() -> str:
    """The app's line that asks for a value: outside of the file in which it keeps its cache."""
    first = call_site()
    if first is None:
        return ""
    for inner in range(FRAMES):
        try:
            site = call_site(inner=inner)
        except ValueError:
            # The stack is not that deep.
            break
        if site is not None and site[1].co_filename != first[1].co_filename:
            return written(site)
    return written(first)
