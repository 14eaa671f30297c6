"""The other service that the shop depends on; here it is the same process."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fastapi import APIRouter, HTTPException, status

router = APIRouter()

RATES = {"EUR": 1.0, "USD": 1.16, "GBP": 0.87, "JPY": 178.2}


@router.get("/rates/{currency}")
async def rate(currency: str) -> dict[str, float]:
    if currency not in RATES:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"No rate for {currency!r}.")
    await asyncio.sleep(random.uniform(0.01, 0.04))
    return {"rate": RATES[currency]}


@router.get("/suppliers/{supplier_id}")
async def supplier(supplier_id: int) -> dict[str, Any]:
    """A partner's system on a bad day."""
    await asyncio.sleep(random.uniform(0.2, 0.5))
    return {"supplier_id": supplier_id, "days": 1 + supplier_id % 5}
