"""The shop, with the faults that it has no endpoint for."""

from __future__ import annotations

import uuid
from functools import lru_cache

from fastapi import Request
from sqlalchemy import text

import fastobs
from examples.shop.app import app
from examples.shop.dependencies import SessionDep, ShopDep
from fastobs.catalogue import LIMIT_DECISIONS

__all__ = ["app"]


@app.get("/faults/leaked-connection")
def leaked_connection(shop: ShopDep) -> None:
    """A connection that nobody gives back, until the garbage collector finds it."""
    shop.database.sync_engine.connect()


@app.get("/faults/renamed-keys")
async def renamed_keys(request: Request, shop: ShopDep) -> str:
    """A release that puts something into the key that is different each time."""

    async def load() -> str:
        return request.url.path

    return await shop.products.get(f"v2:{uuid.uuid4()}", load)


@app.get("/faults/refused-statement")
async def refused_statement(session: SessionDep) -> None:
    """A table that a migration has forgotten."""
    await session.execute(text("SELECT * FROM forgotten"))


@app.get("/faults/too-many-limits")
async def too_many_limits() -> None:
    """The names of limits are made from data, until there are more than a metric keeps."""
    probe = fastobs.limiter("made-of-data")
    for number in range(LIMIT_DECISIONS.limit + 10):
        probe.decision(True, limit=f"{number} per second")


@app.get("/faults/small-cache")
async def small_cache() -> int:
    """A cache with room for two of three."""
    return sum(map(_squared, (1, 2, 3)))


@lru_cache(maxsize=2)
def _squared(number: int) -> int:
    return number * number


fastobs.watch(_squared, name="squares")
