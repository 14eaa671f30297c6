"""The shop, with the faults that it has no endpoint for."""

from __future__ import annotations

import uuid

from fastapi import Request

from examples.shop.app import app
from examples.shop.dependencies import ShopDep

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
