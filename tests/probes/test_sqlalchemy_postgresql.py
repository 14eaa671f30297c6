"""Waiting for connections to a real server: who waits, how long, and who gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from tests.probes.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]
SLEEP = text("SELECT pg_sleep(0.1)")


@pytest.fixture
def small(database_url: str) -> Callable[..., Any]:
    """Makes an engine with room for one connection."""

    def make(maker: Callable[..., Any], driver: str, **options: Any) -> Any:
        url = make_url(database_url).set(drivername=f"postgresql+{driver}")
        return maker(url, pool_size=1, max_overflow=0, pool_logging_name="small", **options)

    return make


@asynccontextmanager
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def check_waits(app: FastAPI, meters: Meters, read: Read) -> None:
    """Of three at once, the second waits for the first and the third for both.

    The time is compared with what the queries themselves took; the connection is opened before.
    """
    async with client(app) as http:
        await http.get("/")
        (waited,), (used,) = (sums(meters, m) for m in (catalogue.POOL_WAIT, catalogue.POOL_USE))
        await asyncio.gather(*(http.get("/") for _ in range(3)))
    (waited_in_all,), (used_in_all,) = (
        sums(meters, m) for m in (catalogue.POOL_WAIT, catalogue.POOL_USE)
    )
    parts = {row.values[1]: row.cells[row.at] for row in meters.rows(catalogue.HTTP_PART)}

    assert read(catalogue.POOL_WAIT) == {("small",): 4}
    assert read(catalogue.POOL_CREATE) == {("small",): 1}
    assert read(catalogue.POOL_PENDING) == {("small",): 0}
    assert used_in_all - used > 0.3
    assert 0.7 < (waited_in_all - waited) / (used_in_all - used) < 1.6
    assert 0.99 < parts["pool_wait"] / waited_in_all < 1.01
    assert parts["db"] > 0.9 * used_in_all


def sums(meters: Meters, metric: catalogue.Metric) -> list[float]:
    return [row.sum for row in meters.rows(metric) if isinstance(row, Histogram)]


async def test_three_queries_through_one_connection_wait_for_each_other(
    small: Callable[..., Any], observed: Callable[..., Any], meters: Meters, read: Read
) -> None:
    """The connection is opened once; the waits are those of the two that came too late."""
    engine: AsyncEngine = small(create_async_engine, "asyncpg")
    app = FastAPI()

    @app.get("/")
    async def query() -> None:
        async with engine.connect() as connection:
            await connection.execute(SLEEP)

    observed(app)
    await check_waits(app, meters, read)
    await engine.dispose()


async def test_three_queries_of_def_endpoints_wait_for_each_other(
    small: Callable[..., Any], observed: Callable[..., Any], meters: Meters, read: Read
) -> None:
    """The same from threads, with a sync driver."""
    engine = small(create_engine, "psycopg")
    app = FastAPI()

    @app.get("/")
    def query() -> None:
        with engine.connect() as connection:
            connection.execute(SLEEP)

    observed(app)
    await check_waits(app, meters, read)
    await run_in_threadpool(engine.dispose)


async def test_one_gives_up_and_one_is_cancelled(
    small: Callable[..., Any], probes: Any, read: Read
) -> None:
    """An exhausted pool: one timeout is counted, and nobody is pending in the end."""
    engine: AsyncEngine = small(create_async_engine, "asyncpg", pool_timeout=0.1)
    async with engine.connect() as held:
        late = asyncio.create_task(engine.raw_connection())
        cancelled = asyncio.create_task(engine.raw_connection())
        while read(catalogue.POOL_PENDING)["small",] < 2:
            await held.execute(text("SELECT 1"))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        pending = read(catalogue.POOL_PENDING)
        with pytest.raises(PoolTimeout):
            await late

    assert pending == {("small",): 1}
    assert read(catalogue.POOL_TIMEOUTS) == {("small",): 1}
    assert read(catalogue.POOL_PENDING) == {("small",): 0}
    assert read(catalogue.POOL_WAIT) == {("small",): 3}
    await engine.dispose()


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
