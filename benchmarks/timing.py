"""Time per request: every variant in turn, in small batches, each batch against bare's of that round.

The cores may be shared and their clock may change; what happens to a round happens to all of its
batches. So the differences within rounds are kept, and of those the median.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from time import perf_counter, process_time

from .variants import VARIANTS, Subject

__all__ = ["Overhead", "Timing", "overheads", "time_variants"]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one process measured: microseconds per request, by variant and round."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a variant costs over bare, from all processes that measured both; microseconds."""

    cpu: float
    """Median of the paired differences in CPU time of the whole process, its threads included."""
    ratio: float
    """The same as a ratio to bare: 1.0 is no overhead."""
    processes: tuple[float, float]
    """The least and the greatest median of a single process."""
    wall: float
    """Median of the paired differences in elapsed time."""
    spread: tuple[float, float]
    """The middle half of the differences in elapsed time."""


def time_variants(
    names: Sequence[str], *, rounds: int, batch: int, warm_up: int
) -> dict[str, object]:
    """Measure these variants side by side in this process."""
    return asdict(asyncio.run(_time(names, rounds, batch, warm_up)))


async def _time(names: Sequence[str], rounds: int, batch: int, warm_up: int) -> Timing:
    subjects = {name: Subject(VARIANTS[name]) for name in names}
    timing = Timing({name: [] for name in names}, {name: [] for name in names})
    async with AsyncExitStack() as stack:
        for subject in subjects.values():
            await stack.enter_async_context(subject.running())
            await subject.drive(warm_up)
        order = list(names)
        for _ in range(rounds):
            # Nobody always comes after the same neighbour.
            random.shuffle(order)
            for name in order:
                wall, cpu = await _batch(subjects[name], batch)
                timing.wall[name].append(wall)
                timing.cpu[name].append(cpu)
        for subject in subjects.values():
            await subject.check()
    return timing


async def _batch(subject: Subject, requests: int) -> tuple[float, float]:
    cpu, wall = process_time(), perf_counter()
    await subject.drive(requests)
    return (perf_counter() - wall) * 1e6 / requests, (process_time() - cpu) * 1e6 / requests


def overheads(timings: Sequence[Timing]) -> dict[str, Overhead]:
    """What each variant costs, from the measurements of several processes."""
    names = dict.fromkeys(name for timing in timings for name in timing.wall)
    return {name: _overhead(name, [t for t in timings if name in t.wall]) for name in names}


def _overhead(name: str, timings: Sequence[Timing]) -> Overhead:
    cpu = [_differences(timing.cpu, name) for timing in timings]
    wall = [more for timing in timings for more in _differences(timing.wall, name)]
    medians = [median(differences) for differences in cpu]
    low, _, high = quantiles(wall, n=4)
    return Overhead(
        cpu=median(more for differences in cpu for more in differences),
        ratio=median(
            1 + more / median(timing.cpu["bare"])
            for more, timing in zip(medians, timings, strict=True)
        ),
        processes=(min(medians), max(medians)),
        wall=median(wall),
        spread=(low, high),
    )


def _differences(measured: dict[str, list[float]], name: str) -> list[float]:
    return [one - bare for one, bare in zip(measured[name], measured["bare"], strict=True)]
