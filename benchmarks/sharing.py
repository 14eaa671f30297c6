"""What a request costs in a worker that shares its metrics, beside the same process alone."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import process_time

from fastobs._process import process
from fastobs._service import Identity
from fastobs.config import Workers

from .variants import VARIANTS, Subject

__all__ = ["ALONE", "BARE", "SHARED", "THEIRS", "TICK", "time_sharing"]

BARE, ALONE, SHARED, THEIRS = "bare", "alone", "shared", "theirs"
TICK = "tick"


def time_sharing(variant: str, *, rounds: int, batch: int, warm_up: int) -> dict[str, list[float]]:
    """Microseconds of CPU per request, by way and round, all ways in turn in this process.

    Theirs is prometheus-fastapi-instrumentator, in prometheus_client's multiprocess mode if the
    environment asks for that. A tick is what a worker tells its siblings once a second.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        return asyncio.run(_time(variant, Path(folder), rounds, batch, warm_up))


async def _time(
    variant: str, folder: Path, rounds: int, batch: int, warm_up: int
) -> dict[str, list[float]]:
    bare, ours, theirs = (Subject(VARIANTS[name]) for name in ("bare", variant, "instrumentator"))
    ways: dict[str, tuple[Subject, Callable[[], None]]] = {
        BARE: (bare, _nothing),
        ALONE: (ours, _part),
        SHARED: (ours, lambda: _join(folder)),
        THEIRS: (theirs, _nothing),
    }
    took: dict[str, list[float]] = {way: [] for way in (*ways, TICK)}
    async with AsyncExitStack() as stack:
        for subject in (bare, ours, theirs):
            await stack.enter_async_context(subject.running())
            await subject.drive(warm_up)
        for _ in range(rounds):
            # Nobody always comes after the same neighbour.
            for way in random.sample(list(ways), len(ways)):
                subject, prepare = ways[way]
                prepare()
                # The first tick comes at once; it is no part of a request.
                await asyncio.sleep(0.1)
                await subject.drive(20)
                began = process_time()
                await subject.drive(batch)
                took[way].append((process_time() - began) * 1e6 / batch)
                if way == SHARED:
                    began = process_time()
                    process().workers.tell()
                    took[TICK].append((process_time() - began) * 1e6)
        _part()
    return took


def _join(folder: Path) -> None:
    _part()
    workers = process().workers
    workers.join(Workers(directory=folder), Identity("bench", "", ""))
    if "slot" not in workers.status():
        msg = f"The process does not share: {workers.status()}"
        raise RuntimeError(msg)


def _part() -> None:
    workers = process().workers
    workers.close()
    workers.begin_anew()


def _nothing() -> None:
    pass
