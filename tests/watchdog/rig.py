"""An app under watch, without the rest of fastobs around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, TypeVar

import pytest
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from fastobs import catalogue
from fastobs._middleware import Middleware
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.watchdog import Block, Heart, Watchdog
from tests.driving import call
from tests.probes.waiting import until

TICK = 0.05
AFTER = 0.1
TRIES = 5

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
each_loop = pytest.mark.parametrize("loop", LOOPS)


def run(work: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    """Like asyncio.run, on the event loop of that name."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work)


class Told:
    """What a watchdog told."""

    def __init__(self) -> None:
        self.begun: list[Block] = []
        self.blocks: list[Block] = []

    def goes_on(self, block: Block) -> None:
        self.begun.append(block)

    def ended(self, block: Block) -> None:
        self.blocks.append(block)

    def at(self, function: Callable[[], None]) -> list[Block]:
        """The blocks that are this function's: a busy machine may make one of any other step."""
        name = function.__name__
        return [block for block in self.blocks if block.place.function == name]


def heart_of_this_loop(kind: type[Heart] = Heart) -> Heart:
    """One that beats on the running loop."""
    return kind(asyncio.get_running_loop(), AFTER, Meters().histogram(catalogue.LOOP_LAG))


async def beaten(heart: Heart) -> None:
    """As long as it takes to the next beat."""
    heart.beaten = None
    while heart.beaten is None:  # noqa: ASYNC110 - the heart is not of asyncio
        await asyncio.sleep(0)


async def blocked(
    told: Told, block: Callable[[], Awaitable[object]], by: Callable[[], None], *, count: int = 1
) -> float:
    """Have the loop blocked until so many blocks by a function were told.

    Where the machine is busy, the watchdog may come too late to be sure of one; then once more.

    Returns:
        Seconds from the beginning of the last one until it was told.
    """
    for _ in range(TRIES):
        began = perf_counter()
        await block()
        with suppress(TimeoutError):
            await until(lambda: len(told.at(by)) >= count, within=5.0)
            return perf_counter() - began
    msg = f"{by.__name__} was no block {TRIES} times."
    raise TimeoutError(msg)


def asking(app: ASGIApp, path: str) -> Callable[[], Awaitable[object]]:
    """Makes one request each time."""
    return lambda: call(app, path)


@contextmanager
def watched(heart: Heart) -> Iterator[Told]:
    """A watchdog of this loop; answers with what it tells."""
    told = Told()
    watchdog = Watchdog(told, after=AFTER, tick=TICK)
    watchdog.watch(heart)
    try:
        yield told
    finally:
        watchdog.stop()
        heart.stopped = True


def served(app: FastAPI) -> ASGIApp:
    """The app as a server calls it: every request is an exchange."""
    return Middleware(
        app,
        signals=(),
        routes=Routes(app),
        pages={},
        excluded=(),
        sockets=lambda change: None,
        started=lambda: None,
    )
