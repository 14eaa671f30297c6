"""One endpoint for each mistake that slow services have in common.

Every docstring says what is wrong and what would be right. Call one, then look at ``/metrics``, at
the ``slow_request`` line, or at a profile of it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from examples.shop.dependencies import SessionDep, ShopDep, UpstreamDep
from examples.shop.models import Order, Product
from examples.shop.schemas import ProductOut, Rated

router = APIRouter()


@router.get("/blocking-call")
async def blocking_call() -> dict[str, str]:
    """A call that blocks, in an ``async def``.

    Wrong: ``time.sleep`` stands for requests.get, a database driver without await, bcrypt, a large
    json.loads. While it runs, every other request of this worker waits, on every route.

    Right: ``await asyncio.sleep(...)``, an asynchronous driver, ``def`` instead of ``async def``,
    or ``await asyncio.to_thread(...)``.
    """
    _render_invoice()
    return {"invoice": "ready"}


def _render_invoice() -> None:
    time.sleep(0.25)


@router.get("/lazy-loads")
async def lazy_loads(session: SessionDep) -> list[Rated]:
    """Lazy loads in a loop (N+1).

    Wrong: one query for the products, then one more for each of them.

    Right: ``select(Product).options(selectinload(Product.reviews))`` (two queries), or let the
    database average: ``select(Product, func.avg(Review.stars)).join(...).group_by(...)`` (one).
    """
    products = await session.scalars(select(Product).order_by(Product.id).limit(40))
    answer = []
    for product in products:
        reviews = await product.awaitable_attrs.reviews
        stars = sum(review.stars for review in reviews) / len(reviews) if reviews else None
        answer.append(
            Rated(product=ProductOut.model_validate(product), stars=stars, reviews=len(reviews))
        )
    return answer


@router.get("/small-pool")
async def small_pool(shop: ShopDep) -> dict[str, int]:
    """A pool that is too small, and a connection that is held while something else is awaited.

    Wrong: the pool has one connection, and the endpoint keeps it while it waits for something that
    is not the database. The others queue, and some run into the pool's timeout: a 500.

    Right: take the connection as late and give it back as early as possible; then size the pool
    for what is left (requests per second times seconds that one holds a connection).
    """
    async with shop.database.cramped.connect() as connection:
        orders = await connection.scalar(select(func.count()).select_from(Order))
        await asyncio.sleep(0.15)
    return {"orders": orders or 0}


@router.get("/cold-cache")
async def cold_cache(shop: ShopDep) -> list[str]:
    """A cache that never hits.

    Wrong: the key has a part that is different each time (a request id, a timestamp, an unsorted
    set), so every look-up is a miss, and each miss throws out an entry as useless as itself.

    Right: a key of only what the answer depends on; here nothing at all, or the customer's segment.
    """

    async def load() -> str:
        async with shop.database.session() as session:
            names = await session.scalars(select(Product.name).order_by(Product.cents).limit(5))
            return "\n".join(names)

    found = await shop.recommendations.get(f"recommended:{uuid.uuid4()}", load)
    return found.split("\n")


@router.get("/unhandled-error")
async def unhandled_error() -> dict[str, int]:
    """An exception that nobody handles.

    Wrong: the stock of a product that has none is looked up as if it were there; the customer gets
    a 500 and nobody learns of it.

    Right: ``stock.get(...)`` with a decision, or an exception handler that turns the known case
    into a 404 or 409. What is left over belongs in an alert.
    """
    stock = {"lamp": 3}
    return {"left": stock["kettle"]}


@router.get("/slow-upstream")
async def slow_upstream(shop: ShopDep, upstream: UpstreamDep) -> dict[str, int]:
    """A slow upstream, asked one question after the other, without a limit on the time.

    Wrong: two calls that do not need each other run in sequence, and ``timeout=None`` lets a
    partner's bad day become ours.

    Right: ``asyncio.gather`` (or a task group), a timeout below what the caller will wait, and an
    answer for when it strikes: the last known value, or none.
    """
    days = 0
    for supplier in (1, 2):
        answer = await shop.client.get(f"{upstream}/upstream/suppliers/{supplier}", timeout=None)
        days = max(days, answer.json()["days"])
    return {"days": days}


@router.get("/slow-stream")
async def slow_stream(shop: ShopDep) -> StreamingResponse:
    """A stream that is slow, and holds a connection until its last byte.

    Wrong: the headers leave at once, so a timer that stops there calls this fast; meanwhile the
    reader waits, and a slow reader keeps the database connection for as long as it likes.

    Right: read a page, give the connection back, send, read the next page.
    """

    async def rows() -> AsyncIterator[str]:
        async with shop.database.session() as session:
            for product in await session.scalars(select(Product).order_by(Product.id).limit(8)):
                await asyncio.sleep(0.06)
                yield f"{product.id},{product.name},{product.cents}\n"

    return StreamingResponse(rows(), media_type="text/csv")
