"""Reviews of one product: a router inside a router."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from examples.shop.dependencies import SessionDep
from examples.shop.models import Review
from examples.shop.schemas import ReviewOut

router = APIRouter()


@router.get("")
async def reviews(product_id: int, session: SessionDep) -> list[ReviewOut]:
    query = select(Review).where(Review.product_id == product_id).order_by(Review.id.desc())
    return [ReviewOut.model_validate(review) for review in await session.scalars(query)]
