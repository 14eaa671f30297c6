"""The whole set-up: ``uvicorn examples.minimal:app``, then open ``/metrics``."""

from fastapi import FastAPI

from fastobs import instrument

app = FastAPI()


@app.get("/items/{item_id}")
async def item(item_id: int) -> dict[str, int]:
    return {"item_id": item_id}


instrument(app)
