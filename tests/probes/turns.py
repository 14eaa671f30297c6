"""Three callers of a pool with room for one, in time that passes when the test says so.

However busy the machine is, the second waits exactly for the first and the third for both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from fastapi import FastAPI

from fastobs import catalogue
from fastobs._exchange import CURRENT, Exchange
from fastobs._routes import Routes
from tests.driving import Clock, scope
from tests.parts import PATIENCE

from .waiting import until

__all__ = ["STEP", "Turns", "take_turns"]

Read = Callable[..., dict[tuple[str, ...], float]]

STEP = 0.1
"""Seconds for which each of them has the connection."""


class Turns:
    """Where the callers keep the connection until they are told to give it back."""

    def __init__(self) -> None:
        self.came = 0
        self._go = threading.Semaphore(0)

    def go_on(self) -> None:
        """Who has the connection gives it back."""
        self._go.release()

    def has(self, number: int) -> bool:
        """Whether the connection is with the caller who gets it as this one, from 1."""
        return self.came == number

    def keep(self) -> None:
        """Called with the connection, on a thread."""
        self.came += 1
        assert self._go.acquire(timeout=PATIENCE)

    async def keep_async(self) -> None:
        """Awaited with the connection."""
        self.came += 1
        await until(lambda: self._go.acquire(blocking=False))


async def take_turns(
    ask: Callable[[], Awaitable[Any]],
    *,
    turns: Any,
    clock: Clock,
    read: Read,
    pool: str = "small",
) -> list[Exchange]:
    """Let three requests have the connection for `STEP` each, and return them in that order.

    Args:
        ask: Gets a connection, keeps it until it is told to go on, and gives it back.
        turns: Whom that is asked and told, like `Turns`.
        clock: Moved on only while one has the connection, and the others wait.
        read: The fixture.
        pool: The pool's name.
    """
    exchanges = []
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            exchange = Exchange(scope("/"), Routes(FastAPI()), clock())
            exchange._route = "/"
            exchanges.append(exchange)
            context = copy_context()
            context.run(CURRENT.set, exchange)
            group.create_task(_asked(ask), context=context)
            await until(lambda: turns.has(1) and _of(read(catalogue.POOL_PENDING), pool) == number)  # noqa: B023
        for number in range(1, 4):
            clock.now += STEP
            turns.go_on()
            await until(lambda: _of(read(catalogue.POOL_USE), pool) == number)  # noqa: B023
            await until(lambda: number == 3 or turns.has(number + 1))  # noqa: B023
    return exchanges


async def _asked(ask: Callable[[], Awaitable[Any]]) -> None:
    await ask()


def _of(values: dict[tuple[str, ...], float], pool: str) -> float:
    return values.get((pool,), 0.0)
