"""Statements of psycopg, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.config import Pools
from tests.driving import Clock
from tests.probes.contract import SECRET, Contract, contract_url
from tests.probes.upstream import request

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]
NOTICE = "DO $$ BEGIN RAISE NOTICE 'by now'; END $$"
"""A statement that has the client told something while it runs."""
SLEEP = "DO $$ BEGIN RAISE NOTICE 'by now'; PERFORM pg_sleep(60); END $$"
"""The same, that goes on until it is cancelled."""
NOTHING_ASKED = Pools(server_limits=None)
"""Statements of ours would be counted, too."""
ONE_SELECT = {("postgresql", "SELECT", ""): 1}


def total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


def test_every_way_to_send_a_statement_is_timed(database_url: str, probes: Any, read: Read) -> None:
    """Once each, by the statement's first word, on any cursor."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE t (a int)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
            cursor.execute(query="SELECT a FROM t")
            assert cursor.fetchall() == [(1,), (2,)]
        with connection.cursor("named") as server:
            assert server.execute("SELECT a FROM t").fetchone() == (1,)
        for kind in (psycopg.ClientCursor, psycopg.RawCursor):
            kind(connection).execute("UPDATE t SET a = 1")

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "CREATE", ""): 1,
        ("postgresql", "INSERT", ""): 1,
        ("postgresql", "SELECT", ""): 2,
        ("postgresql", "UPDATE", ""): 2,
    }


async def test_every_async_way_to_send_a_statement_is_timed(
    database_url: str, probes: Any, read: Read
) -> None:
    """The same."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
            await cursor.execute("SELECT a FROM t")
        async with connection.cursor("named") as server:
            await server.execute("SELECT a FROM t")
        for kind in (psycopg.AsyncClientCursor, psycopg.AsyncRawCursor):
            await kind(connection).execute("UPDATE t SET a = 1")

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "CREATE", ""): 1,
        ("postgresql", "INSERT", ""): 1,
        ("postgresql", "SELECT", ""): 2,
        ("postgresql", "UPDATE", ""): 2,
    }


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        (b"SELECT 1", "SELECT"),
        (sql.SQL("SELECT {}").format(1), "SELECT"),
        (sql.SQL("SELECT 1"), "SELECT"),
        (sql.Composed([sql.SQL("WITH a AS "), sql.SQL("(SELECT 1) SELECT 1")]), "WITH"),
        (sql.Composed([]), "_OTHER"),
        (sql.Composed([sql.Identifier("secret")]), "_OTHER"),
    ],
)
def test_a_statement_may_be_composed(
    statement: Any, operation: str, database_url: str, probes: Any, read: Read
) -> None:
    """What it begins with tells what it is; a name or a value in it is never looked at."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.SyntaxError:
            error = "psycopg.errors.SyntaxError"
        else:
            error = ""

    assert read(catalogue.DB_DURATION) == {("postgresql", operation, error): 1}


async def test_a_statement_that_fails_is_told_with_its_error(
    database_url: str, probes: Any, read: Read
) -> None:
    """Also one whose task was cancelled."""
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.UndefinedTable),
    ):
        connection.execute("SELECT * FROM nothing")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        begun = asyncio.Event()
        other.add_notice_handler(lambda _: begun.set())
        sleeping = asyncio.create_task(other.execute(SLEEP))
        await begun.wait()
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "SELECT", "psycopg.errors.UndefinedTable"): 1,
        ("postgresql", "_OTHER", "asyncio.exceptions.CancelledError"): 1,
    }


def test_a_pipeline_is_not_timed(database_url: str, probes: Any, read: Read) -> None:
    """Its statements are not done when the calls return: a wrong time is worse than none."""
    with psycopg.connect(database_url) as connection:
        with connection.pipeline():
            connection.execute("SELECT 1")
            connection.execute("SELECT 2")
        assert read(catalogue.DB_DURATION) == {}
        connection.execute("SELECT 3")

    assert read(catalogue.DB_DURATION) == ONE_SELECT


async def test_a_pools_own_statements_are_not_the_apps(
    database_url: str, probes: Any, read: Read
) -> None:
    """It may ask each connection whether it lives."""
    check: Any = ConnectionPool.check_connection
    with ConnectionPool(database_url, min_size=1, check=check, open=True) as pool:
        with pool.connection() as connection:
            connection.execute("SELECT 1")
        pool.check()
    async_check: Any = AsyncConnectionPool.check_connection
    async with AsyncConnectionPool(
        database_url, min_size=1, check=async_check, open=False
    ) as async_pool:
        async with async_pool.connection() as other:
            await other.execute("SELECT 1")
        await async_pool.check()

    assert read(catalogue.DB_DURATION) == {("postgresql", "SELECT", ""): 2}


async def test_a_statement_is_the_databases_part_of_a_request(
    database_url: str, clock: Clock, meters: Meters
) -> None:
    """As long as the server takes, of ``async def`` and of ``def`` endpoints."""

    def noticed(_: Any) -> None:
        clock.now += 0.25

    with request("/async") as of_loop:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            connection.add_notice_handler(noticed)
            await connection.execute(NOTICE)
            clock.now += 1

    def query_in_thread() -> None:
        with psycopg.connect(database_url) as connection:
            connection.add_notice_handler(noticed)
            connection.execute(NOTICE)
            clock.now += 1

    with request("/sync") as of_thread:
        await run_in_threadpool(query_in_thread)

    assert of_loop.parts["db"] == of_thread.parts["db"] == 0.25
    assert total(meters, catalogue.DB_DURATION) == 0.5


@pytest.mark.parametrize("first", ["direct", "engine"])
def test_what_sqlalchemy_sends_is_counted_once(
    first: str, database_url: str, attach: Any, read: Read
) -> None:
    """By its own adapter, whoever was there first; what the app sends on its connection by itself is
    counted here."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_pre_ping=True)

    def with_engine() -> None:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))
            driver: Any = connection.connection.driver_connection
            driver.execute("EXPLAIN SELECT 1")

    def directly() -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("SET work_mem = 1024")

    with_engine()
    attach(pools=NOTHING_ASKED)
    ways = [directly, with_engine]
    for way in ways if first == "direct" else reversed(ways):
        way()
    engine.dispose()

    assert read(catalogue.DB_DURATION) == {
        ("postgresql", "SELECT", ""): 1,
        ("postgresql", "SET", ""): 1,
        ("postgresql", "EXPLAIN", ""): 1,
        ("postgresql", "COMMIT", ""): 1,
    }


@pytest.mark.parametrize("first", ["direct", "engine"])
async def test_what_async_sqlalchemy_sends_is_counted_once(
    first: str, database_url: str, attach: Any, read: Read
) -> None:
    """The same; a stream of SQLAlchemy's included."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url, pool_pre_ping=True)

    async def with_engine() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            async with connection.stream(text("SELECT 2")) as rows:
                assert [tuple(row) async for row in rows] == [(2,)]
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.execute("EXPLAIN SELECT 1")

    async def directly() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.execute("SET work_mem = 1024")

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


HOOKED = [
    (kind, name)
    for kind in (
        psycopg.Cursor,
        psycopg.AsyncCursor,
        psycopg.ServerCursor,
        psycopg.AsyncServerCursor,
    )
    for name in ("execute", "executemany")
]


class TestContract(Contract):
    """psycopg."""

    row = ("psycopg", ".psycopg")
    name = "SELECT"
    part = "db"

    @pytest.fixture
    def place(self, postgresql: Any) -> str:
        return contract_url(postgresql)

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(place, autocommit=True) as connection:
            yield connection

    def call(self, it: Any, name: str) -> None:
        """Statements are called after what they do."""

    async def use(self, it: Any) -> Any:
        return await (await it.execute(f"SELECT '{SECRET}'")).fetchone()

    async def fail(self, it: Any) -> None:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await it.execute(f"SELECT {SECRET}")

    def events(self, read: Read, name: str) -> float:
        return read(catalogue.DB_DURATION).get(("postgresql", name, ""), 0)
