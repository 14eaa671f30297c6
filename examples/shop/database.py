"""The engines: one for ``async def``, one for ``def``, and one that is too small on purpose."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

DRIVERS = {
    "sqlite": ("sqlite+aiosqlite", "sqlite+pysqlite"),
    "postgresql": ("postgresql+asyncpg", "postgresql+psycopg"),
}


class Database:
    """Opens connections when they are needed; `close` gives all of them back."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in DRIVERS:
            msg = (
                f"SHOP_DATABASE_URL begins with {parsed.drivername!r}, which the shop cannot use. "
                "Write sqlite:///path or postgresql://user:password@host/name."
            )
            raise ValueError(msg)
        self.url: URL = parsed
        self.is_sqlite = backend == "sqlite"
        asynchronous, synchronous = (parsed.set(drivername=name) for name in DRIVERS[backend])
        # The pool's name is the one that it has in the metrics.
        common: dict[str, Any] = {"connect_args": {"timeout": 10}} if self.is_sqlite else {}
        self.engine = create_async_engine(
            asynchronous, pool_size=8, max_overflow=4, pool_logging_name="shop", **common
        )
        self.sync_engine = create_engine(
            synchronous, pool_size=8, max_overflow=4, pool_logging_name="shop-threads", **common
        )
        self.cramped = create_async_engine(
            asynchronous,
            pool_size=1,
            max_overflow=0,
            pool_timeout=0.4,
            pool_logging_name="shop-cramped",
            **common,
        )
        if self.is_sqlite:
            for engine in (self.engine.sync_engine, self.sync_engine, self.cramped.sync_engine):
                _prepare_connections(engine)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self.sync_sessions = sessionmaker(self.sync_engine, expire_on_commit=False)

    def session(self) -> AsyncSession:
        return self.sessions()

    def sync_session(self) -> Session:
        return self.sync_sessions()

    async def close(self) -> None:
        await self.engine.dispose()
        await self.cramped.dispose()
        self.sync_engine.dispose()


def _prepare_connections(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()
