"""Event loops are introduced to the probes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.signals.loops import loops
from tests.driving import scope


def test_a_loop_is_introduced_when_it_serves(shared: Any) -> None:
    """Once while it is the only one; another one as well; no reference is kept."""
    introduced: list[Any] = []
    signal = loops(lambda loop: introduced.append(id(loop)))
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)

    async def serve() -> None:
        signal(exchange)
        signal(exchange)

    asyncio.run(serve())
    first = len(introduced)
    asyncio.run(serve())

    assert first == 1
    assert len(introduced) == 2


def test_without_such_a_loop_nothing_is_introduced() -> None:
    """Starlette also runs on trio."""
    signal = loops(lambda _: pytest.fail("there is no loop"))

    assert signal(Exchange(scope("/"), Routes(FastAPI()), 0.0)) is None
