"""Puts the shop together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from httpx2 import AsyncClient, Limits
from slowapi import _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

from fastobs import instrument

from .cache import Cache
from .database import Database
from .dependencies import Shop
from .limits import Checkouts, limiter
from .routes import api, mistakes, upstream
from .seed import seed
from .settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """A shop of its own; nothing is opened before it starts."""
    settings = settings or Settings()
    shop = Shop(
        database=Database(settings.database_url),
        products=Cache("products", redis_url=settings.redis_url, seconds=60, entries=500),
        recommendations=Cache(
            "recommendations", redis_url=settings.redis_url, seconds=60, entries=5
        ),
        checkouts=Checkouts(3, window=10),
        client=AsyncClient(timeout=2, limits=Limits(max_connections=20)),
        upstream_url=settings.upstream_url,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(seed, shop.database)
        yield
        await shop.client.aclose()
        await shop.products.close()
        await shop.recommendations.close()
        await shop.database.close()

    app = FastAPI(title="shop", lifespan=lifespan)
    app.state.shop = shop
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    app.include_router(api, prefix="/api/v1")
    app.include_router(mistakes, prefix="/mistakes", tags=["mistakes"])
    app.include_router(upstream, prefix="/upstream", tags=["the other service"])

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str | int]:
        return {"status": "ok", "pid": os.getpid()}

    instrument(app)
    return app


app = create_app()
