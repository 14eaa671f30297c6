"""The application that is measured: fifty routes, one of which answers with a small model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

__all__ = ["PATH", "ROUTE", "make"]

ROUTE = "/items/{item_id}"
PATH = "/items/42"
NEIGHBOURS = 24
"""Routes before the measured one and, plus one, after it: whoever matches routes again pays."""


class Item(BaseModel):
    id: int
    name: str
    price: float
    tags: list[str]


async def item(item_id: int) -> Item:
    return Item(id=item_id, name="lamp", price=12.5, tags=["new", "light"])


async def neighbour(key: str) -> dict[str, str]:
    return {"key": key}


def make(**options: Any) -> FastAPI:
    """The application, without anything that observes it."""
    app = FastAPI(title="benchmark", **options)
    for number in range(NEIGHBOURS):
        app.add_api_route(f"/before{number}/{{key}}", neighbour)
    app.add_api_route(ROUTE, item)
    for number in range(NEIGHBOURS + 1):
        app.add_api_route(f"/after{number}/{{key}}", neighbour)
    return app
