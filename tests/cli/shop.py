"""The app that the commands of these tests look at."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException

from fastobs import cache, instrument

app = FastAPI()
prices = cache("prices")


@app.get("/items/{item_id}")
async def item(item_id: int) -> int:
    prices(item_id or None)
    return item_id


@app.get("/broken")
async def broken() -> None:
    raise HTTPException(503)


@app.get("/moved")
async def moved() -> None:
    raise HTTPException(307, headers={"Location": "/items/1"})


instrument(app, metrics={"exclude": ["/internal"]})


@app.get("/internal")
async def internal() -> str:
    return "not observed"
