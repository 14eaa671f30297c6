"""Pools of psycopg_pool, on a real server."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from psycopg_pool import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
    PoolTimeout,
)
from sqlalchemy import create_engine, make_url, text
from starlette.concurrency import run_in_threadpool

from fastobs import _exchange, catalogue, watch
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.probes import _pools
from fastobs.probes import psycopg_pool as adapter
from fastobs.probes._pools import Account, Pools
from tests.driving import Clock, scope
from tests.parts import PATIENCE
from tests.probes.contract import PoolContract, contract_url
from tests.probes.turns import STEP

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]


def sized(kind: Any, url: str, **options: Any) -> Any:
    """A pool with room for one connection."""
    least = 0 if "Null" in kind.__name__ else 1
    chosen = {"min_size": least, "max_size": 1, "open": False, "name": "small", **options}
    return kind(url, **chosen)


@contextmanager
def pool_of(url: str, kind: Any = ConnectionPool, **options: Any) -> Iterator[Any]:
    with sized(kind, url, **options) as pool:
        if kind is ConnectionPool:
            pool.wait()
        yield pool


@asynccontextmanager
async def async_pool_of(
    url: str, kind: Any = AsyncConnectionPool, **options: Any
) -> AsyncIterator[Any]:
    async with sized(kind, url, **options) as pool:
        if kind is AsyncConnectionPool:
            await pool.wait()
        yield pool


@contextmanager
def request(route: str) -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    exchange._route = route
    token = _exchange.CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        exchange.closed = True
        _exchange.CURRENT.reset(token)


def total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


@pytest.mark.parametrize("checked", [False, True])
def test_a_connection_that_is_there_takes_no_part_of_a_request(
    checked: bool, database_url: str, probes: Any
) -> None:
    """It takes no time that would be worth telling, unless the server is asked first."""
    check = ConnectionPool.check_connection if checked else None
    with pool_of(database_url, check=check) as pool, request("/") as exchange:
        pool.putconn(pool.getconn())

    assert bool(exchange.parts) is checked


def test_opening_a_connection_is_not_waiting(
    database_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """A worker opens what a caller waits for: that is its creation, however long it takes."""
    begun, go_on = threading.Event(), threading.Event()

    def configure(_: Any) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    with sized(ConnectionPool, database_url, configure=configure) as pool:
        caller = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
        caller.start()
        assert begun.wait(PATIENCE)
        seen = read(catalogue.POOL_PENDING)
        while not seen.get(("small",)) and caller.is_alive():
            seen = read(catalogue.POOL_PENDING)
        clock.now += STEP
        go_on.set()
        caller.join(PATIENCE)

        assert seen == {("small",): 1}
        assert total(meters, catalogue.POOL_WAIT) == 0
        assert total(meters, catalogue.POOL_CREATE) == pytest.approx(STEP)
        assert read(catalogue.POOL_CREATE) == {("small",): 1}


def test_a_null_pool_opens_while_it_is_asked(
    database_url: str, probes: Any, clock: Clock, meters: Meters, read: Read
) -> None:
    """Every checkout is a creation and the database's time; nothing is ever idle."""

    def configure(_: Any) -> None:
        clock.now += STEP

    options = {"max_size": 0, "configure": configure}
    with pool_of(database_url, NullConnectionPool, **options) as pool, request("/") as exchange:
        for _ in range(2):
            with pool.connection():
                during = read(catalogue.POOL_COUNT)

        assert during == {("small", "used"): 1, ("small", "idle"): 0}
        assert read(catalogue.POOL_MAX) == {}
        assert read(catalogue.POOL_CREATE) == {("small",): 2}
        assert read(catalogue.POOL_WAIT) == {("small",): 2}
        assert total(meters, catalogue.POOL_WAIT) == 0
        assert total(meters, catalogue.POOL_CREATE) == pytest.approx(2 * STEP)
        assert exchange.parts["db"] == pytest.approx(2 * STEP)
        assert "small: psycopg NullConnectionPool, no limit" in probes.status()


async def test_a_null_pool_that_cannot_connect_leaves_nothing_behind(
    postgresql: Any, probes: Any, read: Read
) -> None:
    """Neither used nor pending, and no timeout: it did not wait for a connection."""
    url = postgresql.url("no_such_database")
    async with async_pool_of(url, AsyncNullConnectionPool) as pool:
        with pytest.raises(psycopg.OperationalError):
            await pool.getconn()

        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}
        assert read(catalogue.POOL_PENDING) == {("small",): 0}
        assert read(catalogue.POOL_CREATE) == {("small",): 0}
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 0}
        assert read(catalogue.POOL_WAIT) == {("small",): 1}


async def test_a_server_that_hangs_up_leaves_nothing_behind(
    database_url: str, probes: Any, read: Read
) -> None:
    """The lost connection is given back and replaced by another one."""
    async with async_pool_of(database_url) as pool:
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        lost = read(catalogue.POOL_COUNT)["small", "used"]
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")

        assert lost == 0
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.POOL_CREATE) == {("small",): 2}
        assert read(catalogue.POOL_USE) == {("small",): 2}


def test_a_leak_is_counted_for_the_route_that_leaked(
    database_url: str, probes: Any, read: Read
) -> None:
    """A connection that was forgotten is not used for ever, and was no use."""
    with pool_of(database_url) as pool:
        with request("/leaky"):
            connection = pool.getconn()
            ages = read(catalogue.POOL_OLDEST)
            connection.close()
            del connection
            gc.collect()

        assert ages.keys() == {("small", "/leaky")}
        assert read(catalogue.POOL_OLDEST) == {}
        assert read(catalogue.POOL_LEAKED) == {("small", ""): 0, ("small", "/leaky"): 1}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}
        assert read(catalogue.POOL_USE) == {("small",): 0}


def test_what_is_given_to_another_pool_stays_out(
    database_url: str, probes: Any, read: Read
) -> None:
    """The other pool refuses it."""
    with pool_of(database_url) as pool, pool_of(database_url, name="other") as other:
        connection = pool.getconn()
        with pytest.raises(ValueError, match="pool"):
            other.putconn(connection)
        during = read(catalogue.POOL_COUNT)["small", "used"]
        pool.putconn(connection)

        assert during == 1
        assert read(catalogue.POOL_COUNT)["small", "used"] == 0


def test_a_pool_that_is_closed_is_shown_while_something_is_out(
    database_url: str, probes: Any, read: Read
) -> None:
    """After that it is gone; what was counted stays."""
    with pool_of(database_url) as pool:
        connection = pool.getconn()
        pool.close()
        during = read(catalogue.POOL_COUNT)
        pool.putconn(connection)

    assert during == {("small", "used"): 1, ("small", "idle"): 0}
    assert read(catalogue.POOL_COUNT) == {}
    assert read(catalogue.POOL_USE) == {("small",): 1}


def test_a_pool_that_is_forgotten_is_not_kept_alive(
    database_url: str, probes: Any, read: Read
) -> None:
    """Its gauges disappear with it."""
    pool = sized(ConnectionPool, database_url)
    watch(pool)
    assert "small" in probes.status()
    del pool
    gc.collect()

    assert "small" not in probes.status()


def test_names_come_from_the_most_telling_source(
    database_url: str, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """watch() over the pool's own name over the variable over driver, host and database."""
    module = __import__(__name__, fromlist=["x"])
    url = make_url(database_url).set(password="secret").render_as_string(False)
    with (
        pool_of(url, name="own") as watched,
        pool_of(url, name="own") as own,
        pool_of(url, name=None) as variable,
        pool_of(url, name=None) as local,
    ):
        watch(watched, name="watched")
        monkeypatch.setattr(module, "a_variable", variable, raising=False)
        for pool in (watched, own, variable, local):
            with pool.connection():
                pass
        watch(local)
        before = {name for (name,) in read(catalogue.POOL_MAX)}
        watch(local, name="renamed")
        watch(local, name="renamed")

        described = "psycopg:" + database_url.rpartition("@")[2]
        assert before == {"watched", "own", f"{__name__}.a_variable", described}
        assert ("renamed",) in read(catalogue.POOL_MAX)
        assert "renamed: psycopg ConnectionPool, at most 1 connections" in probes.status()


@pytest.mark.parametrize(
    ("conninfo", "options", "name"),
    [
        ("host=db dbname=shop user=me password=secret", {}, "psycopg:db/shop"),
        ("postgresql://me:secret@db:6432/shop?application_name=x", {}, "psycopg:db:6432/shop"),
        ("", {"host": "db", "password": "secret"}, "psycopg:db/"),
        (lambda: "host=db", dict, "psycopg"),
        ("no such thing", None, "psycopg"),
    ],
)
def test_an_address_has_no_credentials(conninfo, options, name, probes) -> None:
    """Of what a pool connects with only host, port and database are told."""
    pool: Any = sized(ConnectionPool, conninfo, kwargs=options, name=None)
    watch(pool)

    assert f"  {name}: psycopg ConnectionPool" in probes.status()


def test_an_engine_over_psycopg_is_one_pool(database_url: str, probes: Any, read: Read) -> None:
    """SQLAlchemy has pools of its own; what it does is counted once."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_logging_name="engine")
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    assert read(catalogue.POOL_WAIT) == {("engine",): 1}
    assert read(catalogue.POOL_CREATE) == {("engine",): 1}
    assert read(catalogue.DB_DURATION)["postgresql", "SELECT", ""] == 1
    engine.dispose()


def test_what_a_release_hides_is_unknown(
    database_url: str, attach: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without creation times there are no waits without them; status() says so."""
    monkeypatch.setattr(adapter, "vars", lambda _: {}, raising=False)
    probes = attach()
    with pool_of(database_url) as pool:
        with pool.connection():
            during = read(catalogue.POOL_COUNT)
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.01)

        assert during == {("small", "used"): 1, ("small", "idle"): 0}
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 1}
        assert read(catalogue.POOL_USE) == {("small",): 1}
        assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_CREATE) == {}
        assert "psycopg_pool: this release hides" in probes.status()


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize(
    ("owner", "broken"),
    [
        (_pools, "enter"),
        (_pools, "leave"),
        (_pools, "Lease"),
        (Pools, "_take_back"),
        (Account, "opened"),
    ],
)
@pytest.mark.parametrize("kind", [ConnectionPool, NullConnectionPool])
def test_an_error_of_ours_stays_ours(
    kind, owner, broken, database_url, attach, read, monkeypatch
) -> None:
    """The app gets its connection or its own error, and nobody is left waiting."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(owner, broken, fail)
    attach()
    with pool_of(database_url, kind) as pool:
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            if kind is ConnectionPool:
                with pytest.raises(PoolTimeout):
                    pool.getconn(timeout=0.01)

        assert set(read(catalogue.POOL_PENDING).values()) <= {0}


class TestContract(PoolContract):
    """psycopg_pool, from threads."""

    row = ("psycopg_pool", ".psycopg_pool")
    inner = ("_account", "_end", "_hand_out", "_take_back")
    gives_up = PoolTimeout
    cancels = remembers = inherits = False

    @pytest.fixture
    def place(self, postgresql: Any) -> str:
        return contract_url(postgresql)

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        pool = ConnectionPool(place, min_size=0, max_size=1, open=False)
        pool.open()
        yield pool
        await run_in_threadpool(pool.close)

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        return await run_in_threadpool(it.getconn, within)

    async def release(self, it: Any, connection: Any) -> None:
        await run_in_threadpool(it.putconn, connection)


class TestAsyncContract(TestContract):
    """psycopg_pool, from tasks."""

    cancels = True

    def made(self, place: str) -> Any:
        return AsyncConnectionPool(place, min_size=0, max_size=1, open=False)

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        return await it.getconn(within)

    async def release(self, it: Any, connection: Any) -> None:
        await it.putconn(connection)
