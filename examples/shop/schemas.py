"""What goes in and out over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _FromRow(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ProductOut(_FromRow):
    id: int
    name: str
    cents: int


class ReviewOut(_FromRow):
    id: int
    stars: int
    text: str


class Rated(BaseModel):
    """A product with what its buyers think of it."""

    product: ProductOut
    stars: float | None
    reviews: int


class Price(BaseModel):
    product_id: int
    currency: str
    amount: float


class Line(BaseModel):
    product_id: int
    quantity: Annotated[int, Field(ge=1, le=100)] = 1


class OrderIn(BaseModel):
    customer_id: Annotated[int, Field(ge=1)]
    lines: Annotated[list[Line], Field(min_length=1, max_length=50)]


class OrderOut(_FromRow):
    id: int
    customer_id: int
    placed: datetime
    cents: int


class Sales(BaseModel):
    category: str
    orders: int
    cents: int
