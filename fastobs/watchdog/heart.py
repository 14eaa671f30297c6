"""The heartbeat of an event loop: how late it is, and where the watchdog has to look."""

from __future__ import annotations

import sys
import time
from asyncio import AbstractEventLoop
from math import inf
from threading import get_ident
from time import perf_counter
from types import FrameType
from weakref import ref

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter

from fastobs._contain import contain
from fastobs.cells.meters import Histogram

__all__ = ["Heart", "depth"]


class Heart:
    """Beats on one event loop, and notes how late each beat is.

    A timer, not a task: it ends with its loop without a word, and is not among the app's tasks.
    The loop is referred to weakly, and refers to the heart while a beat is due.

    Attributes:
        tick: Seconds between two beats.
        thread: The ident of the loop's thread; 0 before the first beat.
        floor: How many frames of that thread are the loop's own: what lies above is what it runs.
        due: When the next beat is, in seconds as ``perf_counter`` says.
        beaten: When it beat for the first time since somebody set this to None.
    """

    def __init__(self, loop: AbstractEventLoop, tick: float, lag: Histogram) -> None:
        self.loop = ref(loop)
        self.tick = tick
        self.threads: CapacityLimiter = current_default_thread_limiter()
        self.stopped = False
        self.thread = 0
        self.floor = 0
        self.due = inf
        self.beaten: float | None = None
        self._processor: int | None = None
        self._lag = lag
        self._next(loop)

    def cpu(self) -> float:
        """Seconds of processor time that the loop's thread has used; from any thread."""
        if self._processor is None:
            # macOS does not tell of another thread.
            return time.process_time()
        try:
            return time.clock_gettime(self._processor)
        except OSError:
            # The thread has ended, and its loop was not closed.
            return 0.0

    def _next(self, loop: AbstractEventLoop) -> None:
        self._due = loop.time() + self.tick
        self.due = perf_counter() + self.tick
        loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        loop = self.loop()
        if self.stopped or loop is None:
            return
        try:
            if self.beaten is None:
                self.beaten = perf_counter()
            # uvloop counts in whole milliseconds and may be early by one.
            self._lag.observe(max(loop.time() - self._due, 0.0))
            self._find(sys._getframe().f_back)
            self._next(loop)
        except Exception as error:
            contain("probes.runtime", error)

    def _find(self, caller: FrameType | None) -> None:
        # A step of a task has the same frames below it as a timer. Counted with each beat: a loop
        # may be run again, from elsewhere.
        self.floor = depth(caller)
        thread = get_ident()
        if thread != self.thread:
            # The clock is asked for here, since another thread cannot know whether this one lives.
            clock_of = getattr(time, "pthread_getcpuclockid", None)
            self._processor = None if clock_of is None else clock_of(thread)
            self.thread = thread


def depth(frame: FrameType | None) -> int:
    """How many frames there are from this one to the thread's first."""
    count = 0
    while frame is not None:
        count += 1
        frame = frame.f_back
    return count
