"""What endpoints ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from httpx2 import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from .cache import Cache
from .database import Database
from .limits import Checkouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What lives as long as the application."""

    database: Database
    products: Cache
    recommendations: Cache
    checkouts: Checkouts
    client: AsyncClient
    upstream_url: str | None


def shop(request: Request) -> Shop:
    return cast("Shop", request.app.state.shop)


ShopDep = Annotated[Shop, Depends(shop)]


async def session(shop: ShopDep) -> AsyncIterator[AsyncSession]:
    async with shop.database.session() as session:
        yield session


def sync_session(shop: ShopDep) -> Iterator[Session]:
    with shop.database.sync_session() as session:
        yield session


def upstream(request: Request, shop: ShopDep) -> str:
    """The other service's address; by default the one that this request came in on."""
    if shop.upstream_url:
        return shop.upstream_url
    host, port = request.scope["server"]
    return f"http://{host}:{port}"


# With scope="function" the connection is back in its pool before the response is sent.
SessionDep = Annotated[AsyncSession, Depends(session, scope="function")]
SyncSessionDep = Annotated[Session, Depends(sync_session, scope="function")]
UpstreamDep = Annotated[str, Depends(upstream)]
