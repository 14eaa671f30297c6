"""Pools of asyncpg, on a real server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from asyncpg.pool import (  # type: ignore[import-untyped]
    Pool,
    PoolConnectionHolder,
)
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from fastobs import catalogue, watch
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.config import Pools as PoolSettings
from fastobs.probes import asyncpg as adapter
from tests.driving import Clock
from tests.probes.contract import PoolContract, contract_url
from tests.probes.turns import STEP
from tests.probes.upstream import going_on, request
from tests.probes.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]
SLEEP = "SELECT pg_sleep(600)"
NOTHING_ASKED = PoolSettings(server_limits=None)
"""Statements of ours would be counted, too."""


@asynccontextmanager
async def pool_of(url: str, **options: Any) -> AsyncIterator[Any]:
    """A pool with room for one connection."""
    sizes = {"min_size": 1, "max_size": 1, **options}
    async with asyncpg.create_pool(url, **sizes) as pool:
        yield pool


def total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


async def test_a_server_that_hangs_up_leaves_nothing_behind(
    database_url: str, probes: Any, read: Read
) -> None:
    """A connection that is lost while it is out is neither used nor idle, and its use has ended."""
    async with pool_of(database_url, min_size=0) as pool:
        watch(pool, name="small")
        async with pool.acquire() as connection:
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await until(lambda: not sum(read(catalogue.POOL_COUNT).values()))
        uses = read(catalogue.POOL_USE)
        await pool.execute("SELECT 1")

        assert uses == {("small",): 1}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.POOL_CREATE) == {("small",): 2}
        assert read(catalogue.POOL_USE) == {("small",): 2}


async def test_a_connection_that_cannot_be_opened_leaves_nothing_behind(
    database_url: str, postgresql: Any, probes: Any, read: Read
) -> None:
    """It was no wait that timed out; and neither used nor created."""
    missing = postgresql.url("no_such_database")
    async with asyncpg.create_pool(missing, min_size=0, max_size=1) as pool:
        watch(pool, name="small")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await pool.acquire()

        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}
        assert read(catalogue.POOL_PENDING) == {("small",): 0}
        assert read(catalogue.POOL_CREATE) == {("small",): 0}
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 0}
        assert read(catalogue.POOL_OLDEST) == {}


async def test_a_pool_that_is_closed_is_not_shown(
    database_url: str, probes: Any, read: Read
) -> None:
    """Not while it closes but still has a connection out; what was counted stays."""
    async with pool_of(database_url) as pool:
        watch(pool, name="small")
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close())
        await until(pool.is_closing)
        during = read(catalogue.POOL_COUNT)
        await pool.release(connection)
        await closing

    assert during == {("small", "used"): 1, ("small", "idle"): 0}
    assert read(catalogue.POOL_COUNT) == {}
    assert read(catalogue.POOL_USE) == {("small",): 1}
    assert "small" not in probes.status()


async def test_a_pool_that_is_forgotten_is_not_kept_alive(
    database_url: str, probes: Any, read: Read
) -> None:
    """Nobody closed it, and it is gone, with what was out."""
    pool = asyncpg.create_pool(database_url, min_size=0, max_size=1)
    watch(pool, name="small")
    assert read(catalogue.POOL_MAX) == {("small",): 1}
    await pool
    connection = await pool.acquire()
    during = read(catalogue.POOL_OLDEST)
    pool.terminate()
    del pool, connection
    gc.collect()

    assert during.keys() == {("small", "")}
    assert read(catalogue.POOL_OLDEST) == {}
    assert read(catalogue.POOL_MAX) == {}


async def test_names_come_from_the_most_telling_source(
    database_url: str, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """watch() over the variable over driver, host and database, without credentials."""
    module = __import__(__name__, fromlist=["x"])
    url = make_url(database_url).set(username="postgres", password="secret").render_as_string(False)
    async with pool_of(url) as watched, pool_of(url) as variable, pool_of(url) as local:
        watch(watched, name="watched")
        monkeypatch.setattr(module, "a_variable", variable, raising=False)
        for pool in (watched, variable, local):
            await pool.execute("SELECT 1")
        watch(local)
        before = {name for (name,) in read(catalogue.POOL_MAX)}
        watch(local, name="renamed")
        watch(local, name="renamed")

        described = "asyncpg:" + database_url.rpartition("@")[2]
        assert before == {"watched", f"{__name__}.a_variable", described}
        assert ("renamed",) in read(catalogue.POOL_MAX)
        assert "renamed: asyncpg Pool, at most 1 connections" in probes.status()
        assert read(catalogue.POOL_CREATE)["watched",] == 1


@pytest.mark.parametrize(
    ("dsn", "options", "name"),
    [
        ("postgresql://me:secret@db/shop?password=x", {}, "asyncpg:db/shop"),
        ("postgresql://me:secret@one:1,two:2/shop", {}, "asyncpg"),
        (None, {"host": "db", "port": 6432, "database": "shop"}, "asyncpg:db:6432/shop"),
        (None, {"host": ["one", "two"]}, "asyncpg"),
        (None, {}, "asyncpg"),
    ],
)
async def test_an_address_has_no_credentials(dsn, options, name, probes, read) -> None:
    """Of what a pool connects with only host, port and database are told."""
    pool = asyncpg.create_pool(dsn, **options)
    watch(pool)

    assert read(catalogue.POOL_MAX) == {(name,): 10}


async def test_an_engine_over_asyncpg_is_one_pool(
    database_url: str, probes: Any, read: Read
) -> None:
    """SQLAlchemy has pools of its own; what it does is counted once."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_logging_name="engine")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))

    assert read(catalogue.POOL_WAIT) == {("engine",): 1}
    assert read(catalogue.POOL_CREATE) == {("engine",): 1}
    assert read(catalogue.DB_DURATION)["postgresql", "SELECT", ""] == 1
    await engine.dispose()


async def test_every_way_to_send_a_statement_is_timed(
    database_url: str, probes: Any, read: Read, tmp_path: Path
) -> None:
    """By the statement's first word; also when it was prepared, and when rows are copied."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("create table t (a int)")
    await connection.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
    assert await connection.fetch("SELECT a FROM t") == [(1,), (2,)]
    assert await connection.fetchval(query="SELECT count(*) FROM t") == 2
    assert await connection.fetchrow("SELECT a FROM t") == (1,)
    await connection.fetchmany("DELETE FROM t WHERE a = $1 RETURNING a", [(1,), (2,)])
    await connection.copy_records_to_table("t", records=[(3,)])
    for copied in (tmp_path / "table", tmp_path / "query"):
        await connection.copy_from_table("t", output=copied)
        await connection.copy_from_query("SELECT a FROM t WHERE a > $1", 0, output=copied)
        await connection.copy_to_table("t", source=copied)
    prepared = await connection.prepare("UPDATE t SET a = $1 RETURNING a")
    await prepared.fetch(1)
    await prepared.fetchval(1)
    await prepared.fetchrow(1)
    await prepared.fetchmany([(1,)])
    await prepared.executemany([(1,)])
    await connection.close()

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "CREATE", ""): 1,
        ("postgresql", "INSERT", ""): 1,
        ("postgresql", "SELECT", ""): 3,
        ("postgresql", "DELETE", ""): 1,
        ("postgresql", "COPY", ""): 7,
        ("postgresql", "UPDATE", ""): 5,
    }


async def test_a_pools_own_statements_are_not_the_apps(
    database_url: str, probes: Any, read: Read
) -> None:
    """It resets each connection that it gets back; what frames a transaction is the app's."""
    async with pool_of(database_url) as pool:
        await pool.execute("SELECT 1")
        async with pool.acquire() as connection:
            await connection.add_listener("channel", print)
            await connection.remove_listener("channel", print)
            async with connection.transaction():
                await connection.fetchval("SELECT 1")

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "SELECT", ""): 2,
        ("postgresql", "BEGIN", ""): 1,
        ("postgresql", "COMMIT", ""): 1,
    }


async def test_a_statement_that_fails_is_told_with_its_error(
    database_url: str, probes: Any, read: Read
) -> None:
    """Also one that took too long, and one whose task was cancelled."""
    connection = await asyncpg.connect(database_url)
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT * FROM nothing")
    with pytest.raises(TimeoutError):
        await connection.execute(SLEEP, timeout=0.01)
    sleeping = asyncio.create_task(connection.execute(SLEEP))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await connection.close()

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "SELECT", "asyncpg.exceptions.UndefinedTableError"): 1,
        ("postgresql", "SELECT", "TimeoutError"): 1,
        ("postgresql", "SELECT", "asyncio.exceptions.CancelledError"): 1,
    }


async def test_a_statement_is_the_databases_part_of_a_request(
    database_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """Waiting for a connection is not."""
    async with pool_of(database_url) as pool:
        with request("/") as exchange:
            async with pool.acquire() as connection:
                statement = asyncio.create_task(connection.execute("SELECT 1"))
                await until(lambda: going_on(exchange) == ["db"])
                clock.now += STEP
                await statement
                clock.now += STEP

    assert exchange.parts == pytest.approx({"db": STEP})
    assert total(meters, catalogue.DB_DURATION) == pytest.approx(STEP)
    assert read(catalogue.DB_DURATION)["postgresql", "SELECT", ""] == 1


async def test_a_connection_that_is_there_takes_no_part_of_a_request(
    database_url: str, probes: Any
) -> None:
    """It takes no time that would be worth telling."""
    async with pool_of(database_url) as pool:
        with request("/") as exchange:
            async with pool.acquire():
                pass

    assert not exchange.parts


@pytest.mark.parametrize("first", ["direct", "engine"])
async def test_what_sqlalchemy_sends_is_counted_once(
    first: str, database_url: str, attach: Any, read: Read
) -> None:
    """By its own adapter, whoever was there first; what the app sends on its connection by itself is
    counted here."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_pre_ping=True)

    async def with_engine() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            await connection.execute(text("SELECT :a"), [{"a": "1"}, {"a": "2"}])
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.execute("EXPLAIN SELECT 1")

    async def directly() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("SET work_mem = 1024")
        await connection.close()

    await with_engine()
    attach(pools=NOTHING_ASKED)
    ways = [directly, with_engine]
    for way in ways if first == "direct" else reversed(ways):
        await way()
    await engine.dispose()

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "SELECT", ""): 2,
        ("postgresql", "SET", ""): 1,
        ("postgresql", "EXPLAIN", ""): 1,
        ("postgresql", "COMMIT", ""): 1,
    }


@pytest.mark.parametrize(
    ("owner", "name", "unknown"),
    [
        (Pool, "_acquire", {catalogue.POOL_WAIT, catalogue.POOL_USE, catalogue.POOL_PENDING}),
        (Pool, "_get_new_connection", {catalogue.POOL_CREATE}),
        (PoolConnectionHolder, "_release", {catalogue.POOL_USE}),
    ],
)
async def test_what_a_release_hides_is_unknown(
    owner, name, unknown, database_url, attach, read, monkeypatch
) -> None:
    """Its series are absent, the others are right, and status() says so."""

    def known(kind: type) -> dict[str, Any]:
        return {n: v for n, v in vars(kind).items() if (kind, n) != (owner, name)}

    monkeypatch.setattr(adapter, "vars", known, raising=False)
    probes = attach()
    async with pool_of(database_url) as pool:
        watch(pool, name="small")
        await pool.execute("SELECT 1")
        timed = {catalogue.POOL_WAIT, catalogue.POOL_CREATE, catalogue.POOL_USE}
        shown = {m for m in {*timed, catalogue.POOL_PENDING} if read(m)}

        assert shown == {*timed, catalogue.POOL_PENDING} - unknown
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert "asyncpg: this release hides some of its times: " in probes.status()


class TestContract(PoolContract):
    """asyncpg."""

    row = ("asyncpg", ".asyncpg")
    inner = ("_account", "_end", "_hand_out", "_take_back")
    gives_up = TimeoutError

    @pytest.fixture
    def place(self, postgresql: Any) -> str:
        return contract_url(postgresql)

    def made(self, place: str) -> Any:
        return asyncpg.create_pool(place, min_size=0, max_size=1)

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        return await it.acquire(timeout=within)

    async def release(self, it: Any, connection: Any) -> None:
        await it.release(connection)
