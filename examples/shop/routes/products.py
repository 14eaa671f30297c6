"""Products: a list, one of them from the cache, and a price in another currency."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response, status
from sqlalchemy import func, select

from examples.shop.dependencies import SessionDep, ShopDep, UpstreamDep
from examples.shop.models import Product, Review
from examples.shop.schemas import Price, ProductOut, Rated

router = APIRouter()


@router.get("")
async def products(
    session: SessionDep,
    category: int | None = None,
    after: int = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[ProductOut]:
    """One page by key, not by offset: page 500 costs what page 1 costs."""
    query = select(Product).where(Product.id > after).order_by(Product.id).limit(limit)
    if category is not None:
        query = query.where(Product.category_id == category)
    return [ProductOut.model_validate(product) for product in await session.scalars(query)]


@router.get("/{product_id}", response_model=Rated)
async def product(product_id: int, shop: ShopDep) -> Response:
    """From the cache; a session is opened only when the cache has no answer."""

    async def load() -> str:
        async with shop.database.session() as session:
            found = await session.get(Product, product_id)
            if found is None:
                raise HTTPException(status.HTTP_404_NOT_FOUND, f"No product {product_id}.")
            stars, reviews = (
                await session.execute(
                    select(func.avg(Review.stars), func.count()).where(
                        Review.product_id == product_id
                    )
                )
            ).one()
        return Rated(
            product=ProductOut.model_validate(found), stars=stars, reviews=reviews
        ).model_dump_json()

    body = await shop.products.get(str(product_id), load)
    return Response(body, media_type="application/json")


@router.get("/{product_id}/price")
async def price(
    product_id: int,
    session: SessionDep,
    shop: ShopDep,
    upstream: UpstreamDep,
    currency: str = "EUR",
) -> Price:
    """Asks the other service for the rate, with the database connection already given back."""
    cents = await session.scalar(select(Product.cents).where(Product.id == product_id))
    if cents is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"No product {product_id}.")
    await session.close()
    answer = await shop.client.get(f"{upstream}/upstream/rates/{currency}")
    if answer.status_code == status.HTTP_404_NOT_FOUND:
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, f"No rate for {currency!r}.")
    answer.raise_for_status()
    return Price(
        product_id=product_id,
        currency=currency,
        amount=round(cents / 100 * answer.json()["rate"], 2),
    )
