"""Search: the route with a rate limit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from examples.shop.dependencies import SessionDep
from examples.shop.limits import limiter
from examples.shop.models import Product
from examples.shop.schemas import ProductOut

router = APIRouter()


@router.get("")
@limiter.limit("20 per 10 second")
async def search(
    request: Request,  # noqa: ARG001 - slowapi looks for both by name
    response: Response,  # noqa: ARG001
    session: SessionDep,
    q: Annotated[str, Query(min_length=2, max_length=40)],
) -> list[ProductOut]:
    query = select(Product).where(Product.name.icontains(q, autoescape=True)).limit(20)
    return [ProductOut.model_validate(product) for product in await session.scalars(query)]
