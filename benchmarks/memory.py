"""What remains in memory after an attack with paths that do not exist and methods that nobody knows."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from resource import getpagesize

from . import driver
from .variants import VARIANTS, Subject

__all__ = ["attack", "grow"]

PATHS = 20_000
METHODS = 100
MEBIBYTE = 1 << 20


def attack() -> Iterator[tuple[str, str]]:
    """Paths and methods without end: 20,000 different paths, each hundredth with an odd method."""
    while True:
        for number in range(PATHS):
            odd = f"ODD{number // 100 % METHODS}" if number % 100 == 0 else "GET"
            yield f"/unknown/{number:x}", odd


def grow(name: str, *, requests: int) -> float:
    """Mebibytes by which this process is larger after so many requests than after a tenth of them."""
    return asyncio.run(_grow(Subject(VARIANTS[name]), requests))


async def _grow(subject: Subject, requests: int) -> float:
    calls = attack()

    async def some(count: int) -> int:
        for path, method in islice(calls, count):
            await driver.ask(subject.app, path, method)
        gc.collect()
        return _resident()

    async with subject.running():
        with subject.world():
            # What is made once (caches of libraries, free lists) is not what an attacker can grow.
            before = await some(requests // 10)
            return (await some(requests) - before) / MEBIBYTE


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()
