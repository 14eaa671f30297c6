"""Orders: written by an ``async def``, read by a ``def``."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, status
from sqlalchemy import select

from examples.shop.dependencies import SessionDep, ShopDep, SyncSessionDep
from examples.shop.models import Order, OrderLine, Product
from examples.shop.schemas import OrderIn, OrderOut
from fastobs import section

router = APIRouter()


@router.post("", status_code=status.HTTP_201_CREATED)
async def place(order: OrderIn, session: SessionDep, shop: ShopDep) -> OrderOut:
    shop.checkouts.check(order.customer_id)
    wanted = {line.product_id for line in order.lines}
    rows = await session.execute(select(Product.id, Product.cents).where(Product.id.in_(wanted)))
    prices = {row.id: row.cents for row in rows}
    if missing := wanted - prices.keys():
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"No product {min(missing)}.")
    with section("pricing"):
        cents = sum(prices[line.product_id] * line.quantity for line in order.lines)
    placed = Order(customer_id=order.customer_id, cents=cents)
    placed.lines = [
        OrderLine(product_id=line.product_id, quantity=line.quantity) for line in order.lines
    ]
    session.add(placed)
    await session.commit()
    return OrderOut.model_validate(placed)


@router.get("/{order_id}")
def order(order_id: int, session: SyncSessionDep) -> OrderOut:
    """A ``def`` endpoint runs in a thread, where a driver that blocks does no harm."""
    found = session.get(Order, order_id)
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"No order {order_id}.")
    return OrderOut.model_validate(found)
