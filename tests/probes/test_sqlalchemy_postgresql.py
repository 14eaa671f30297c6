"""Waiting for connections to a real server: who waits, how long, and who gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, QueuePool
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from tests.probes.contract import PoolContract, contract_url
from tests.probes.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture
def small(database_url: str) -> Callable[..., Any]:
    """Makes an engine with room for one connection."""

    def make(maker: Callable[..., Any], driver: str, **options: Any) -> Any:
        url = make_url(database_url).set(drivername=f"postgresql+{driver}")
        return maker(url, pool_size=1, max_overflow=0, pool_logging_name="small", **options)

    return make


def total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


async def test_a_query_that_is_cancelled_is_timed(
    small: Callable[..., Any], probes: Any, read: Read
) -> None:
    """It ended with an error of its own, and its connection is not in use any more."""
    engine: AsyncEngine = small(create_async_engine, "asyncpg")

    async def query() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await connection.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(query())
    await until(lambda: read(catalogue.DB_DURATION).get(("postgresql", "SELECT", "")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    errors = {error for _, _, error in read(catalogue.DB_DURATION)}
    assert errors == {"", "asyncio.exceptions.CancelledError"}
    assert read(catalogue.POOL_COUNT)["small", "used"] == 0
    await engine.dispose()


async def test_a_server_that_hangs_up_leaves_nothing_behind(
    small: Callable[..., Any], postgresql: Any, probes: Any, read: Read
) -> None:
    """The broken connection is neither used nor idle, and the next one is opened and counted."""
    engine = small(create_engine, "psycopg", pool_pre_ping=True)

    def query() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    with ThreadPoolExecutor() as threads:
        await asyncio.wrap_future(threads.submit(query))
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{engine.url.database}'"
        )
        await asyncio.wrap_future(threads.submit(query))

    assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
    assert read(catalogue.POOL_CREATE) == {("small",): 2}
    assert read(catalogue.POOL_USE) == {("small",): 2}
    engine.dispose()


class TestContract(PoolContract):
    """SQLAlchemy, from threads."""

    row = ("sqlalchemy", ".sqlalchemy")
    inner = ("_account", "_acquiring", "_leaked")
    gives_up = PoolTimeout
    cancels = False

    @pytest.fixture
    def place(self, postgresql: Any) -> str:
        return contract_url(postgresql, driver="psycopg")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        engine = create_engine(place, pool_size=1, max_overflow=0)
        yield engine
        await run_in_threadpool(engine.dispose)

    def marks(self, it: Any) -> object:
        # Listeners of classes are in no class.
        events = (Pool.dispatch.connect, Pool.dispatch.checkin, Pool.dispatch.detach)  # type: ignore[attr-defined]
        return [len(event._clslevel[QueuePool]) for event in events]

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        it.pool._timeout = 30 if within is None else within
        return await run_in_threadpool(it.raw_connection)

    async def release(self, it: Any, connection: Any) -> None:
        await run_in_threadpool(connection.close)


class TestAsyncContract(TestContract):
    """SQLAlchemy, from tasks."""

    cancels = True

    @pytest.fixture
    def place(self, postgresql: Any) -> str:
        return contract_url(postgresql, driver="asyncpg")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        engine = create_async_engine(place, pool_size=1, max_overflow=0)
        yield engine
        await engine.dispose()

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        it.pool._timeout = 30 if within is None else within
        return await it.connect()

    async def release(self, it: Any, connection: Any) -> None:
        await connection.close()
