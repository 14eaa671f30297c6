"""The routers, nested as in a real application."""

from __future__ import annotations

from fastapi import APIRouter

from . import mistakes as _mistakes
from . import orders, products, reports, reviews, search
from . import upstream as _upstream

__all__ = ["api", "mistakes", "upstream"]

products.router.include_router(reviews.router, prefix="/{product_id}/reviews")

api = APIRouter()
api.include_router(products.router, prefix="/products", tags=["products"])
api.include_router(orders.router, prefix="/orders", tags=["orders"])
api.include_router(reports.router, prefix="/reports", tags=["reports"])
api.include_router(search.router, prefix="/search", tags=["search"])

mistakes = _mistakes.router
upstream = _upstream.router
