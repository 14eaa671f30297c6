"""Reports: a heavier query in a ``def`` endpoint."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import func, select

from examples.shop.dependencies import SyncSessionDep
from examples.shop.models import Category, OrderLine, Product
from examples.shop.schemas import Sales

router = APIRouter()


@router.get("/sales")
def sales(session: SyncSessionDep) -> list[Sales]:
    """One statement; the database adds up, not Python."""
    turnover = func.sum(OrderLine.quantity * Product.cents)
    query = (
        select(Category.name, func.count(OrderLine.order_id.distinct()), turnover)
        .join(Product, Product.category_id == Category.id)
        .join(OrderLine, OrderLine.product_id == Product.id)
        .group_by(Category.name)
        .order_by(turnover.desc())
    )
    return [
        Sales(category=category, orders=orders, cents=cents)
        for category, orders, cents in session.execute(query)
    ]
