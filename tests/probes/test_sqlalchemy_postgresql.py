"""Waiting for connections to a real server: who waits, how long, and who gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from tests.driving import Clock
from tests.probes.turns import STEP, Turns, take_turns
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


def check_waits(exchanges: list[Exchange], meters: Meters, read: Read) -> None:
    """The second waited for the first and the third for both."""
    waited = [exchange.parts.get("pool_wait", 0.0) for exchange in exchanges]

    assert waited == pytest.approx([0, STEP, 2 * STEP])
    assert total(meters, catalogue.POOL_WAIT) == pytest.approx(sum(waited))
    assert total(meters, catalogue.POOL_USE) == pytest.approx(3 * STEP)
    assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 3}
    assert read(catalogue.POOL_CREATE) == {("small",): 1}
    assert read(catalogue.POOL_PENDING) == {("small",): 0}
    assert read(catalogue.POOL_MAX) == {("small",): 1}


def total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


async def test_three_queries_through_one_connection_wait_for_each_other(
    small: Callable[..., Any], clock: Clock, meters: Meters, read: Read
) -> None:
    """The connection is opened once; the waits are those of the two that came too late."""
    turns = Turns()
    engine: AsyncEngine = small(create_async_engine, "asyncpg")

    async def query() -> None:
        async with engine.connect():
            await turns.keep_async()

    exchanges = await take_turns(query, turns=turns, clock=clock, read=read)

    check_waits(exchanges, meters, read)
    await engine.dispose()


async def test_three_queries_of_def_endpoints_wait_for_each_other(
    small: Callable[..., Any], clock: Clock, meters: Meters, read: Read
) -> None:
    """The same from threads, with a sync driver."""
    turns = Turns()
    engine = small(create_engine, "psycopg")

    def query() -> None:
        with engine.connect():
            turns.keep()

    exchanges = await take_turns(
        lambda: run_in_threadpool(query), turns=turns, clock=clock, read=read
    )

    check_waits(exchanges, meters, read)
    await run_in_threadpool(engine.dispose)


async def test_one_gives_up_and_one_is_cancelled(
    small: Callable[..., Any], probes: Any, read: Read
) -> None:
    """An exhausted pool: one timeout is counted, and nobody is pending in the end."""
    engine: AsyncEngine = small(create_async_engine, "asyncpg")
    async with engine.connect():
        cancelled = asyncio.create_task(engine.raw_connection())
        await until(lambda: read(catalogue.POOL_PENDING)["small",] == 1)
        # For who comes now; there is no public way to wait in one pool for different times.
        engine.pool._timeout = 0.01  # type: ignore[attr-defined]
        with pytest.raises(PoolTimeout):
            await engine.raw_connection()
        pending = read(catalogue.POOL_PENDING)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

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
