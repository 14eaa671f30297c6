"""An app that tells which worker answers, with metrics of its own and a request that never ends."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import Counter, Gauge

from fastobs import instrument

app = FastAPI(title="many")
handle = instrument(app)
orders = Counter("orders", "Orders.")
last_pid = Gauge("last_pid", "The worker's pid.")
last_pid.set(os.getpid())


@app.get("/items/{i}")
async def item(i: int) -> dict[str, int]:
    orders.inc()
    return {"pid": os.getpid(), "i": i}


@app.get("/status")
async def status() -> str:
    return handle.status()


@app.get("/stuck/{number}")
async def stuck(number: int) -> None:
    note(number)
    await asyncio.Event().wait()


def note(number: int) -> None:
    """Who has this request, for the test to find."""
    Path(os.environ["MANY_FOLDER"], f"{number}").write_text(str(os.getpid()))
