"""The Python process itself: event loop, threads, garbage collector, memory."""

from __future__ import annotations

import asyncio
import gc
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from math import isfinite
from time import perf_counter
from typing import Any
from weakref import ref

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter

from fastobs import catalogue
from fastobs._contain import contain
from fastobs.cells import Reading
from fastobs.cells.meters import Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._machine import facts

__all__ = ["Runtime", "probe"]

COMPONENT = "probes.runtime"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Runtime(kit)


class Heart:
    """Beats on one event loop, and notes how late each beat is.

    A timer, not a task: it ends with its loop without a word, and is not among the app's tasks.
    The loop is referred to weakly, and refers to the heart while a beat is due.
    """

    def __init__(self, loop: AbstractEventLoop, tick: float, lag: Histogram) -> None:
        self.loop = ref(loop)
        self.threads: CapacityLimiter = current_default_thread_limiter()
        self.stopped = False
        self._tick = tick
        self._lag = lag
        self._next(loop)

    def _next(self, loop: AbstractEventLoop) -> None:
        self._due = loop.time() + self._tick
        loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        loop = self.loop()
        if self.stopped or loop is None:
            return
        try:
            # uvloop counts in whole milliseconds and may be early by one.
            self._lag.observe(max(loop.time() - self._due, 0.0))
            self._next(loop)
        except Exception as error:
            contain(COMPONENT, error)


class Runtime(Probe):
    """The runtime family."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hearts: list[Heart] = []
        self._tick = 0.0
        self._began = 0.0
        self._pauses = [
            kit.meters.histogram(catalogue.GC_PAUSE, str(generation)) for generation in range(3)
        ]

    def attach(self, settings: Settings) -> None:
        assert settings.runtime is not None
        self._tick = settings.runtime.tick
        gc.callbacks.append(self._collecting)

    def detach(self) -> None:
        gc.callbacks.remove(self._collecting)
        for heart in self._hearts:
            heart.stopped = True
        self._hearts.clear()

    def on_loop(self, loop: AbstractEventLoop) -> None:
        living = self._living()
        if all(heart.loop() is not loop for heart in living):
            lag = self.kit.meters.histogram(catalogue.LOOP_LAG)
            self._hearts = [*living, Heart(loop, self._tick, lag)]

    def read(self) -> Iterator[Reading]:
        for metric, value in facts():
            yield Reading(metric, (), value)
        hearts = self._living()
        if not hearts:
            return
        tasks = sum(len(asyncio.all_tasks(loop)) for heart in hearts if (loop := heart.loop()))
        yield Reading(catalogue.TASKS, (), tasks)
        threads = [heart.threads.statistics() for heart in hearts]
        yield Reading(catalogue.THREADS, ("used",), sum(each.borrowed_tokens for each in threads))
        yield Reading(catalogue.THREADS_PENDING, (), sum(each.tasks_waiting for each in threads))
        most = sum(each.total_tokens for each in threads)
        if isfinite(most):
            yield Reading(catalogue.THREADS, ("max",), most)

    def status(self) -> Iterator[tuple[str, str]]:
        loops = len(self._living())
        yield "process", "CPU, memory, descriptors, garbage collector"
        yield "event loops", str(loops) if loops else "seen with the first request"

    def _living(self) -> list[Heart]:
        return [
            heart
            for heart in self._hearts
            if (loop := heart.loop()) is not None and not loop.is_closed()
        ]

    def _collecting(self, phase: str, info: dict[str, Any]) -> None:
        try:
            now = perf_counter()
            if phase == "start":
                self._began = now
            elif self._began:
                self._pauses[info["generation"]].observe(now - self._began)
        except Exception as error:
            contain(COMPONENT, error)
