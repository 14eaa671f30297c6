"""Work in threads that are not the endpoints' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

__all__ = ["Aside"]

T = TypeVar("T")


class Aside:
    """Runs functions in threads, so many at a time; ``def`` endpoints may hold all the others.

    An app may run on several event loops, one after the other or at once, as in the tests of many: each
    has a limit of its own, since waiting for one belongs to a loop.

    Args:
        threads: How many functions run at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        # Some releases of anyio tell them apart by name only.
        self._limiter: RunVar[CapacityLimiter] = RunVar(f"fastobs-aside-{id(self)}")

    async def run(self, work: Callable[[], T]) -> T:
        """What the function answers."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = CapacityLimiter(self._threads)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(work, limiter=limiter)
