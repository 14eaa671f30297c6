"""The Python process itself: event loop, threads, garbage collector, memory."""

from __future__ import annotations

import asyncio
import gc
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from concurrent.futures import thread as futures
from math import isfinite
from time import perf_counter
from typing import Any

from fastobs import catalogue
from fastobs._contain import contain
from fastobs.cells import Reading
from fastobs.config import Settings
from fastobs.watchdog import Blocks, Heart, Watchdog, refusal

from . import Kit, Probe
from ._machine import facts

__all__ = ["Runtime", "probe"]

EXECUTORS = ("asyncio_", "uvloop_")
"""How the threads of the loops' default executors are called."""

COMPONENT = "probes.runtime"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Runtime(kit)


class Runtime(Probe):
    """The runtime family."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hearts: list[Heart] = []
        self._tick = 0.0
        self._after: float | None = None
        self._watchdog: Watchdog | None = None
        self._began = 0.0
        self._pauses = [
            kit.meters.histogram(catalogue.GC_PAUSE, str(generation)) for generation in range(3)
        ]

    def attach(self, settings: Settings) -> None:
        section = settings.runtime
        assert section is not None
        self._tick = section.tick
        self._after = after = section.loop_block_after
        if after is not None and not refusal():
            # A block shows as a beat that does not come.
            self._tick = min(self._tick, after)
            blocks = Blocks(
                self.kit.meters, self.kit.tell, after=after, per_minute=section.loop_block_lines
            )
            self._watchdog = Watchdog(blocks, after=after, tick=after / 2)
        gc.callbacks.append(self._collecting)

    def detach(self) -> None:
        gc.callbacks.remove(self._collecting)
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        for heart in self._hearts:
            heart.stopped = True
        self._hearts.clear()

    def on_loop(self, loop: AbstractEventLoop) -> None:
        living = self._living()
        heart = next((heart for heart in living if heart.loop() is loop), None)
        if heart is None:
            heart = Heart(loop, self._tick, self.kit.meters.histogram(catalogue.LOOP_LAG))
            self._hearts = [*living, heart]
        if self._watchdog is not None:
            self._watchdog.watch(heart)

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
        if (waiting := _in_executors()) is not None:
            yield Reading(catalogue.EXECUTOR_PENDING, (), waiting)
        most = sum(each.total_tokens for each in threads)
        if isfinite(most):
            yield Reading(catalogue.THREADS, ("max",), most)

    def status(self) -> Iterator[tuple[str, str]]:
        loops = len(self._living())
        yield "process", "CPU, memory, descriptors, garbage collector"
        yield "event loops", str(loops) if loops else "seen with the first request"
        if self._watchdog is not None:
            yield "event loop blocks", f"told of when longer than {self._after:g} s"

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        if self._after is not None and (reason := refusal()):
            yield "event loop blocks", reason

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


def _in_executors() -> float | None:
    """Calls that no thread of a default executor has taken yet; None if that cannot be known."""
    # Private, and the only way that both loops have: uvloop does not show its executor.
    queues = getattr(futures, "_threads_queues", None)
    if queues is None:
        return None
    waiting = {id(q): q for t, q in list(queues.items()) if t.name.startswith(EXECUTORS)}
    return float(sum(queue.qsize() for queue in waiting.values()))
