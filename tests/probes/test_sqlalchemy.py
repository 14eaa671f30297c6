"""Pools and statements of SQLAlchemy, on SQLite."""

from __future__ import annotations

import gc
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import (
    DisconnectionError,
    InvalidRequestError,
    OperationalError,
    ProgrammingError,
    SAWarning,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import (
    AssertionPool,
    AsyncAdaptedQueuePool,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)
from sqlalchemy.pool.base import _ConnectionRecord
from starlette.testclient import TestClient

from fastobs import _exchange, catalogue, watch
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.config import load
from fastobs.probes import _executions
from tests.driving import scope

ROLLBACK = ("sqlite", "ROLLBACK", "")
"""What every connection ends with that was not committed."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Made before the probes are attached, since it is asked for first."""
    engine = create_engine(url, pool_logging_name="shop", pool_size=2, max_overflow=1)
    yield engine
    engine.dispose()


@contextmanager
def request(route: str = "") -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    exchange._route = route
    token = _exchange.CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        exchange.closed = True
        _exchange.CURRENT.reset(token)


def test_connections_in_use_and_idle_are_told_apart(engine, probes, read):
    """A connection is used until it is given back, and idle after that."""
    with engine.connect():
        during = read(catalogue.POOL_COUNT)

    assert during == {("shop", "used"): 1, ("shop", "idle"): 0}
    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}


def test_limits_are_those_of_the_pool(engine, probes, read):
    """The most connections are size and overflow; kept idle is only the size."""
    engine.connect().close()

    assert read(catalogue.POOL_MAX) == {("shop",): 3}
    assert read(catalogue.POOL_IDLE_MAX) == {("shop",): 2}


@pytest.mark.parametrize(
    ("options", "most", "idle"),
    [
        ({"poolclass": NullPool}, {}, {}),
        ({"poolclass": StaticPool}, {}, {}),
        ({"poolclass": SingletonThreadPool}, {}, {}),
        ({"poolclass": AssertionPool}, {("p",): 1}, {}),
        ({"pool_size": 0}, {}, {}),
        ({"pool_size": 2, "max_overflow": -1}, {}, {("p",): 2}),
    ],
)
def test_what_has_no_size_shows_none(url, probes, read, options, most, idle):
    """Every kind of pool counts its checkouts; limits are shown where there are any."""
    engine = create_engine(url, pool_logging_name="p", **options)
    with engine.connect():
        used = read(catalogue.POOL_COUNT)["p", "used"]

    assert used == 1
    assert read(catalogue.POOL_COUNT)["p", "used"] == 0
    assert read(catalogue.POOL_MAX) == most
    assert read(catalogue.POOL_IDLE_MAX) == idle
    engine.dispose()


def test_a_thread_that_connects_twice_waits_once(url, probes, read):
    """A SingletonThreadPool hands out what the thread already has; nobody waits for that."""
    engine = create_engine(url, poolclass=SingletonThreadPool, pool_logging_name="p")
    with engine.connect(), engine.connect():
        pass

    assert read(catalogue.POOL_WAIT) == {("p",): 1}
    engine.dispose()


def test_each_event_of_a_connection_is_counted_once(engine, probes, read):
    """Two checkouts of one connection: two waits, one creation, two uses."""
    for _ in range(2):
        engine.connect().close()

    assert read(catalogue.POOL_WAIT) == {("shop",): 2}
    assert read(catalogue.POOL_CREATE) == {("shop",): 1}
    assert read(catalogue.POOL_USE) == {("shop",): 2}


def test_a_timeout_is_a_timeout_and_a_wait(url, probes, read):
    """Whoever gave up has waited, is counted, and is pending no more."""
    engine = create_engine(
        url, pool_size=1, max_overflow=0, pool_timeout=0.01, pool_logging_name="p"
    )
    with engine.connect(), pytest.raises(PoolTimeout):
        engine.connect()

    assert read(catalogue.POOL_TIMEOUTS) == {("p",): 1}
    assert read(catalogue.POOL_WAIT) == {("p",): 2}
    assert read(catalogue.POOL_PENDING) == {("p",): 0}
    engine.dispose()


def test_pending_is_who_waits_now(url, probes, read):
    """A caller that waits is pending until it gets its connection."""
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_logging_name="p")
    seen = {}
    with engine.connect():
        thread = Thread(target=lambda: engine.connect().close())
        thread.start()
        while not (seen := read(catalogue.POOL_PENDING)).get(("p",)):
            pass
    thread.join()

    assert seen == {("p",): 1}
    assert read(catalogue.POOL_PENDING) == {("p",): 0}
    engine.dispose()


def test_a_detached_connection_is_the_pools_no_more(engine, probes, read):
    """Neither used nor idle: its place in the pool is empty. It is not given back either."""
    connection = engine.connect()
    connection.detach()

    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 0}
    assert read(catalogue.POOL_USE) == {("shop",): 0}
    connection.close()


def test_an_invalidated_connection_is_neither_used_nor_idle(engine, probes, read):
    """What is broken is closed; the next checkout opens another one."""
    with engine.connect() as connection:
        connection.invalidate()

    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 0}
    engine.connect().close()
    assert read(catalogue.POOL_CREATE) == {("shop",): 2}


def test_a_reconnect_that_fails_leaves_no_trace(engine, probes, read):
    """SQLAlchemy reports a return without a checkout then; a plain counter would go below zero."""
    with engine.connect() as connection:
        connection.invalidate()

    def refuse(*_: Any) -> None:
        message = "down"
        raise engine.dialect.loaded_dbapi.OperationalError(message)

    event.listen(engine, "do_connect", refuse)
    with pytest.raises(OperationalError):
        engine.connect()
    event.remove(engine, "do_connect", refuse)

    assert read(catalogue.POOL_COUNT)["shop", "used"] == 0
    assert read(catalogue.POOL_PENDING) == {("shop",): 0}
    engine.connect().close()
    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}


def test_a_pool_outlives_its_replacement(engine, probes, read):
    """After dispose() there is a new pool object under the same name, also while one is still out."""
    with engine.connect():
        engine.dispose()
        engine.connect().close()
        during = read(catalogue.POOL_COUNT)

    assert during == {("shop", "used"): 1, ("shop", "idle"): 1}
    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
    assert read(catalogue.POOL_WAIT) == {("shop",): 2}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_was_out_at_a_fork_takes_its_place_until_the_pool_is_replaced(engine, probes, read):
    """As SQLAlchemy says to do in each child; nobody there has had it for long, or waits for it."""

    def used():
        return read(catalogue.POOL_COUNT)["shop", "used"]

    held = engine.connect()
    if (child := os.fork()) == 0:
        seen = [used(), read(catalogue.POOL_OLDEST)]
        with suppress(Exception), engine.connect():
            seen.append(used())
        engine.dispose(close=False)
        with suppress(Exception), engine.connect():
            seen.append(used())
        os._exit([*seen, used()] != [1, {}, 2, 1, 0])

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert used() == 1
    held.close()


def test_a_pool_that_is_replaced_tells_no_more_of_what_was_taken_before(engine, attach, read):
    """There is no way to see it come back; of others nothing is lost."""
    held = engine.connect()
    watch(engine)
    attach()
    before = read(catalogue.POOL_COUNT)["shop", "used"]
    other = engine.connect()
    engine.dispose()
    after = read(catalogue.POOL_COUNT)["shop", "used"]
    for connection in (held, other):
        connection.close()

    assert (before, after, read(catalogue.POOL_COUNT)["shop", "used"]) == (1, 1, 0)


def test_a_pool_that_is_gone_is_not_shown(url, probes, read):
    """Gauges disappear with their pool; what was counted stays."""
    engine = create_engine(url, pool_logging_name="p")
    engine.connect().close()
    assert read(catalogue.POOL_MAX) == {("p",): 15}

    engine.dispose()
    del engine
    gc.collect()

    assert read(catalogue.POOL_MAX) == {}
    assert read(catalogue.POOL_WAIT) == {("p",): 1}


def test_a_leak_is_counted_for_the_route_that_leaked(engine, probes, read):
    """A connection that was forgotten is a leak, not a use, and is not counted as used for ever."""
    with request("/leaky"):
        connection = engine.raw_connection()
        del connection
        gc.collect()

    assert read(catalogue.POOL_LEAKED) == {("shop", ""): 0, ("shop", "/leaky"): 1}
    assert read(catalogue.POOL_COUNT)["shop", "used"] == 0
    assert read(catalogue.POOL_USE) == {("shop",): 0}


def test_what_a_request_forgot_in_its_state_is_a_leak_and_comes_back(url, observed, read):
    """We know by which route it is held, and do not keep it from being collected."""
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0, pool_logging_name="p")
    app = FastAPI()

    @app.get("/leaky")
    async def forget(request: Request) -> None:
        request.state.connection = engine.connect()

    observed(app)
    statuses = []
    with TestClient(app) as client:
        for _ in range(3):
            statuses.append(client.get("/leaky").status_code)
            gc.collect()

    assert statuses == [200] * 3
    assert read(catalogue.POOL_LEAKED)["p", "/leaky"] == 3
    engine.dispose()


def test_a_shared_connection_is_no_leak(url, probes, read):
    """Two users of a StaticPool's only connection give it back one after the other."""
    engine = create_engine(url, poolclass=StaticPool, pool_logging_name="p")
    first, second = engine.connect(), engine.connect()
    first.close()
    second.close()
    gc.collect()

    assert read(catalogue.POOL_LEAKED) == {("p", ""): 0}
    engine.dispose()


def test_the_oldest_checkout_names_its_route(engine, probes, read):
    """Age by route; a checkout outside of a request has none, and a returned one is not shown."""
    with engine.connect(), request("/report"), engine.connect(), engine.connect():
        ages = read(catalogue.POOL_OLDEST)

    assert ages.keys() == {("shop", ""), ("shop", "/report")}
    assert ages["shop", ""] >= ages["shop", "/report"] > 0
    assert read(catalogue.POOL_OLDEST) == {}


def test_opening_a_connection_is_not_waiting(engine, clock):
    """It takes the database's time; waiting is what came before it."""

    def opened(*_: object) -> None:
        clock.now += 0.25

    event.listen(engine, "connect", opened)
    with request() as exchange:
        engine.connect().close()
    with request() as second:
        engine.connect().close()

    assert exchange.parts == {"db": 0.25}
    assert second.parts == {}


def test_a_creator_of_the_apps_own_gives_no_waits(probes, read):
    """It opens connections unseen; rather than a wrong wait there is none for such a checkout."""
    creator: Any = lambda: sqlite3.connect(":memory:")  # noqa: E731
    pool = QueuePool(creator, logging_name="p")
    pool.connect().close()
    first = read(catalogue.POOL_WAIT)
    pool.connect().close()

    assert first == {("p",): 0}
    assert read(catalogue.POOL_WAIT) == {("p",): 1}
    assert read(catalogue.POOL_CREATE) == {("p",): 0}
    pool.dispose()


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("select 1", "SELECT"),
        ("\n   SELECT 1", "SELECT"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH"),
        ("CREATE TABLE t (i INTEGER)", "CREATE"),
        ("/* note */ SELECT 1", "_OTHER"),
    ],
)
def test_statements_are_timed_by_kind(engine, probes, read, statement, operation):
    """The label is one of a few words, whatever a statement begins with."""
    with engine.connect() as connection:
        connection.execute(text(statement))

    assert read(catalogue.DB_DURATION) == {("sqlite", operation, ""): 1, ROLLBACK: 1}


def test_a_failed_statement_is_timed_with_its_error(engine, probes, read):
    """The error is SQLAlchemy's class, of which there are a dozen, not the driver's."""
    with request() as exchange, engine.connect() as connection:
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
        with pytest.raises(ProgrammingError):
            connection.execute(text("SELECT :x"), {"x": object()})

    assert read(catalogue.DB_DURATION) == {
        ("sqlite", "SELECT", "sqlalchemy.exc.OperationalError"): 1,
        ("sqlite", "SELECT", "sqlalchemy.exc.ProgrammingError"): 1,
        ROLLBACK: 1,
    }
    assert exchange.parts["db"] > 0


def test_the_end_of_a_transaction_is_timed(engine, probes, read):
    """By the way it ended; it is the database's time, too."""
    with request() as exchange, engine.connect() as connection:
        before = exchange.parts.get("db", 0.0)
        connection.begin().commit()
        connection.begin().rollback()
        during = exchange.parts["db"]

    assert read(catalogue.DB_DURATION) == {("sqlite", "COMMIT", ""): 1, ROLLBACK: 1}
    assert during > before


def test_a_commit_that_fails_is_timed_with_its_error(engine, probes, read, monkeypatch):
    """It is the app's, and reaches it."""

    def refuse(*_: Any) -> None:
        message = "disk full"
        raise sqlite3.OperationalError(message)

    monkeypatch.setattr(engine.dialect, "do_commit", refuse)
    with engine.connect() as connection, pytest.raises(OperationalError):
        connection.begin().commit()

    assert read(catalogue.DB_DURATION)["sqlite", "COMMIT", "sqlalchemy.exc.OperationalError"] == 1


def test_what_is_broken_has_no_transaction_to_end(engine, probes, read):
    """An invalidated connection sends no ROLLBACK."""
    with engine.connect() as connection:
        connection.begin()
        connection.invalidate()

    assert read(catalogue.DB_DURATION) == {}


def test_a_release_without_those_methods_times_no_statements(engine, attach, read, monkeypatch):
    """Their names are private; without them the rest goes on."""
    monkeypatch.setattr(_executions, "vars", lambda owner: {}, raising=False)
    probes = attach()
    monkeypatch.undo()
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    assert read(catalogue.DB_DURATION) == {}
    assert read(catalogue.POOL_USE) == {("shop",): 1}
    probes.detach()


def test_many_kinds_of_beginnings_are_not_remembered(engine, probes, read):
    """What does not begin with a word is worked out each time, and found all the same."""
    with engine.connect() as connection:
        for blanks in range(3):
            connection.execute(text(" " * blanks + "SELECT 1"))
            connection.execute(text("SELECT 1"))

    assert read(catalogue.DB_DURATION) == {("sqlite", "SELECT", ""): 6, ROLLBACK: 1}


def test_a_failing_listener_of_the_apps_own_is_not_a_statement(engine, probes, read):
    """An error that is not a statement's is none of ours."""

    def stop(*_: Any) -> None:
        message = "no"
        raise InvalidRequestError(message)

    event.listen(engine, "begin", stop)
    with engine.connect() as connection, pytest.raises(InvalidRequestError):
        connection.execute(text("SELECT 1"))

    assert read(catalogue.DB_DURATION) == {}


async def _once(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def pooled(folder: Path, **options: Any) -> AsyncEngine:
    """An engine with a queue of connections; not each release has one for SQLite by itself."""
    return create_async_engine(
        f"sqlite+aiosqlite:///{folder}/a.db", poolclass=AsyncAdaptedQueuePool, **options
    )


@pytest.mark.anyio
async def test_async_engines_are_seen_as_well(tmp_path, probes, read):
    """AsyncEngine, its pool and its statements."""
    engine = pooled(tmp_path, pool_logging_name="a")
    await _once(engine)

    assert read(catalogue.POOL_COUNT) == {("a", "used"): 0, ("a", "idle"): 1}
    assert read(catalogue.POOL_MAX) == {("a",): 15}
    assert read(catalogue.POOL_WAIT) == {("a",): 1}
    assert read(catalogue.DB_DURATION) == {("sqlite", "SELECT", ""): 1, ROLLBACK: 1}
    await engine.dispose()


@pytest.mark.anyio
# Older releases of SQLAlchemy leave it to the driver, which complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_leaked_async_connection_is_counted_once(tmp_path, probes, read):
    """It comes back by other ways than a sync one: SQLAlchemy detaches it."""
    engine = pooled(tmp_path, pool_logging_name="a")
    with request("/leaky"):
        connection = await engine.raw_connection()
        # Its thread would go on in older releases of aiosqlite.
        driver: Any = connection.driver_connection
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            del connection
            gc.collect()

    assert read(catalogue.POOL_LEAKED)["a", "/leaky"] == 1
    assert read(catalogue.POOL_COUNT)["a", "used"] == 0
    await driver.close()
    await engine.dispose()


def test_names_come_from_the_most_telling_source(url, probes, read, monkeypatch):
    """watch() over the pool's own name over the variable over driver and database."""
    module = __import__(__name__, fromlist=["x"])
    engines = {
        "watched": create_engine(url, pool_logging_name="own"),
        "own": create_engine(url, pool_logging_name="own"),
        "engine_name": create_engine(url, logging_name="engine_name"),
        "variable": create_engine(url),
        "local": create_engine(url),
    }
    watch(engines["watched"], name="watched")
    monkeypatch.setattr(module, "a_variable", engines["variable"], raising=False)
    for engine in engines.values():
        engine.connect().close()

    assert {name for (name,) in read(catalogue.POOL_MAX)} == {
        "watched",
        "own",
        "engine_name",
        f"{__name__}.a_variable",
        "sqlite:shop.db",
    }
    for engine in engines.values():
        engine.dispose()


@pytest.mark.parametrize("kind", ["sessionmaker", "async_sessionmaker", "scoped_session"])
def test_an_engine_in_no_variable_is_called_after_the_one_of_its_sessions(
    kind, tmp_path, url, probes, read, monkeypatch
):
    """``Session = sessionmaker(create_engine(...))``; whose engine has a variable, too, is called after
    that. A factory that has no engine yet is none."""
    module = __import__(__name__, fromlist=["x"])
    makers: dict[str, Callable[[Any], Any]] = {
        "sessionmaker": sessionmaker,
        "async_sessionmaker": async_sessionmaker,
        "scoped_session": lambda engine: scoped_session(sessionmaker(engine)),
    }
    make = makers[kind]
    engines = [pooled(tmp_path) if "async" in kind else create_engine(url) for _ in range(2)]
    for name, value in {
        "Unbound": make(None),
        "Session": make(engines[0]),
        "OtherSession": make(engines[1]),
        "an_engine": engines[1],
    }.items():
        monkeypatch.setattr(module, name, value, raising=False)
    probes.discover()

    assert set(read(catalogue.POOL_MAX)) == {(f"{__name__}.Session",), (f"{__name__}.an_engine",)}


def test_an_address_has_no_credentials(probes, read):
    """Of a URL only driver, host, port and database are told."""
    first = create_engine("postgresql+psycopg://me:secret@db.internal:6432/shop?application_name=x")
    second = create_engine("postgresql+psycopg://me:secret@db.internal/shop")
    for engine in (first, second):
        watch(engine)

    assert set(read(catalogue.POOL_MAX)) == {
        ("postgresql+psycopg:db.internal:6432/shop",),
        ("postgresql+psycopg:db.internal/shop",),
    }


def test_equal_names_are_numbered_and_given_back(url, probes, read):
    """The second pool of a name is #2; when the first is gone, its name is free."""
    first, second = (create_engine(url, pool_logging_name="p") for _ in range(2))
    first.connect().close()
    second.connect().close()
    both = set(read(catalogue.POOL_MAX))
    first.dispose()
    del first
    gc.collect()
    third = create_engine(url, pool_logging_name="p")
    third.connect().close()

    assert both == {("p",), ("p#2",)}
    assert set(read(catalogue.POOL_MAX)) == {("p",), ("p#2",)}
    second.dispose()
    third.dispose()


def test_a_later_name_is_taken_up(engine, probes, read):
    """watch() may come after the first use; what comes from then on is under the new name."""
    engine.connect().close()
    read(catalogue.POOL_MAX)
    watch(engine, name="main")
    watch(engine, name="main")
    engine.connect().close()

    assert set(read(catalogue.POOL_MAX)) == {("main",)}
    assert read(catalogue.POOL_WAIT) == {("shop",): 1, ("main",): 1}


@pytest.mark.parametrize(
    "kind", ["sessionmaker", "async_sessionmaker", "scoped_session", "pool", "async_engine"]
)
def test_watch_takes_what_leads_to_a_pool(kind, tmp_path, url, probes, read):
    """Session factories, pools and both kinds of engine."""
    asynchronous = pooled(tmp_path)
    plain = create_engine(url)
    subject = {
        "sessionmaker": sessionmaker(plain),
        "async_sessionmaker": async_sessionmaker(asynchronous),
        "scoped_session": scoped_session(sessionmaker(plain)),
        "pool": plain.pool,
        "async_engine": asynchronous,
    }[kind]

    assert watch(subject, name="p") is subject
    assert set(read(catalogue.POOL_MAX)) == {("p",)}


def test_engines_with_options_are_the_same_pool(engine, probes, read):
    """Engine.execution_options() makes another engine over the same pool, for a moment only."""
    engine.execution_options(isolation_level="SERIALIZABLE").connect().close()
    gc.collect()

    assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}


def test_status_tells_of_every_pool(engine, url, probes):
    """With its name, its class and its limit."""
    other = create_engine(url, poolclass=NullPool, pool_logging_name="none")
    watch(engine)
    watch(other)

    assert "  shop: SQLAlchemy QueuePool, at most 3 connections" in probes.status()
    assert "  none: SQLAlchemy NullPool, no limit known" in probes.status()


def test_an_unknown_kind_of_queue_is_asked_the_public_way(engine, probes, read, monkeypatch):
    """Where the pool keeps its connections is private to SQLAlchemy; if it moves, less is known."""
    engine.connect().close()

    class Elsewhere:
        maxsize = 2

        def qsize(self) -> int:
            return 7

        def get(self, *_: Any) -> Any:
            raise NotImplementedError

    monkeypatch.setattr(engine.pool, "_pool", Elsewhere())

    assert read(catalogue.POOL_COUNT)["shop", "idle"] == 7
    monkeypatch.undo()


def test_a_checkout_that_began_before_the_probes_came_is_left_alone(engine, probes, read):
    """Nothing is known of it, so nothing is said when it comes back."""
    engine.connect().close()
    probes.detach()
    connection = engine.connect()
    probes.attach(load(None, {}))
    connection.close()

    assert read(catalogue.POOL_USE) == {("shop",): 1}


def test_a_request_sums_its_queries(url, observed, meters):
    """Through the app: parts by route, and the route of what is still out."""
    engine = create_engine(url, pool_logging_name="shop")
    app = FastAPI()

    @app.get("/items/{item}")
    def item(item: int) -> int:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return item

    observed(app)
    with TestClient(app) as client:
        client.get("/items/1")
        client.get("/items/2")

    assert {row.values for row in meters.rows(catalogue.HTTP_PART)} >= {
        ("/items/{item}", "pool_wait"),
        ("/items/{item}", "db"),
    }
    engine.dispose()


def _broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError


USED_BY_BOTH = ("CURRENT", "enter", "leave", "perf_counter")

BREAKABLE = [
    *(f"{module}.{name}" for module in ("sqlalchemy", "_executions") for name in USED_BY_BOTH),
    "_executions.Executions._row",
    "_executions.sent",
    "sqlalchemy.Checkout.route",
    "sqlalchemy.SQLAlchemy._account",
    "sqlalchemy.SQLAlchemy._acquiring",
    "sqlalchemy.call_site",
]


def _break(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner, _, attribute = f"fastobs.probes.{name}".rpartition(".")
    broken = property(_broken) if attribute == "route" else _broken
    monkeypatch.setattr(f"{owner}.{attribute}", broken)


def _use(engine: Engine, within: Callable[[], None]) -> None:
    """Everything that can be done with a connection; ``within`` while it is out."""
    connection = engine.connect()
    within()
    assert connection.execute(text("SELECT 1")).scalar() == 1
    with pytest.raises(OperationalError):
        connection.execute(text("SELECT * FROM nowhere"))
    connection.close()
    forgotten = engine.raw_connection()
    within()
    del forgotten
    gc.collect()


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("when", ["before", "within"])
@pytest.mark.parametrize("name", BREAKABLE)
def test_an_error_of_ours_stays_ours(name, when, engine, url, probes, read, monkeypatch):
    """Queries go on, nothing is pending for ever, and the error is counted."""
    if when == "before":
        _break(monkeypatch, name)
    with request("/"):
        _use(engine, lambda: _break(monkeypatch, name))
        engine.dispose()
        other = create_engine(url)
        _use(other, lambda: None)
        other.dispose()
    monkeypatch.undo()

    assert set(read(catalogue.POOL_PENDING).values()) <= {0}
    assert read(catalogue.SELF_ERRORS)["probes.sqlalchemy",] > 0


def test_a_connection_that_the_app_refuses_is_opened_anew(engine, probes, read):
    """Its own check at checkout: two connections were opened, for one caller who waited once."""
    refusals = [DisconnectionError("stale")]

    def refuse(*_: Any) -> None:
        if refusals:
            raise refusals.pop()

    event.listen(engine, "checkout", refuse)
    engine.connect().close()

    assert read(catalogue.POOL_CREATE) == {("shop",): 2}
    assert read(catalogue.POOL_WAIT) == {("shop",): 1}
    assert read(catalogue.POOL_USE) == {("shop",): 1}


def test_what_is_left_of_an_engine_is_no_pool(url, probes, read):
    """Somebody may keep its dialect; there is nothing to show."""
    engine = create_engine(url, pool_logging_name="p")
    dialect = watch(engine).dialect
    del engine
    gc.collect()

    assert read(catalogue.POOL_COUNT) == {}
    assert "SQLAlchemy" not in probes.status()
    del dialect


def test_listeners_of_the_apps_own_change_nothing(engine, probes, read):
    """Nor do those of one connection."""
    seen = []
    with engine.connect() as connection:
        event.listen(connection, "after_cursor_execute", lambda *told: seen.append(told[2]))
        connection.execute(text("SELECT 1"))

    assert seen == ["SELECT 1"]
    assert read(catalogue.DB_DURATION) == {("sqlite", "SELECT", ""): 1, ROLLBACK: 1}


def test_what_sqlalchemy_asks_a_new_server_is_no_statement_of_the_apps(engine, probes, read):
    """It is part of opening the connection."""

    def ask(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1")

    with engine.connect() as connection:
        ask(Connection(engine, connection.connection, _has_events=False, _allow_autobegin=False))

    assert ("sqlite", "SELECT", "") not in read(catalogue.DB_DURATION)


def test_a_connection_without_listeners_is_the_apps_all_the_same(engine, probes, read):
    """Releases before 2.0.5x say so of each connection, later ones only of SQLAlchemy's own."""
    with engine.connect() as connection:
        connection._has_events = False
        connection.execute(text("SELECT 1"))

    assert read(catalogue.DB_DURATION)["sqlite", "SELECT", ""] == 1


def test_a_release_that_lacks_a_private_function_is_said_to(
    engine, probes, read, monkeypatch, caplog
):
    """The rest is timed; there is one warning, and a line in status()."""
    probes.detach()
    monkeypatch.delattr(Connection, "_exec_insertmany_context")
    probes.attach(load(None, {}))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    (warning,) = [each.message for each in caplog.records if each.name == "fastobs"]
    said = "this release has no _exec_insertmany_context; what goes through it is not timed"
    assert said in warning
    assert f"sqlalchemy: {said}" in probes.status()
    assert read(catalogue.DB_DURATION)["sqlite", "SELECT", ""] == 1


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("name", ["_exec_single_context", "_commit_impl"])
def test_what_a_newer_release_hands_on_besides_is_handed_on(probes, monkeypatch, name):
    """The hooks are on private functions: what they are called with may change."""
    probes.detach()
    seen = []
    monkeypatch.setattr(Connection, name, lambda *_, **options: seen.append(options))
    probes.attach(load(None, {}))

    getattr(Connection, name)(SimpleNamespace(), "dialect", "context", newer=True)

    assert seen == [{"newer": True}]


def _takes_more(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(it: Any, *args: Any, **options: Any) -> Any:
        return original(it, *args, **options)

    return method


class Opaque:
    """A method that does not tell what it takes, like one that was compiled."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original

    __signature__ = "unknown"

    def __get__(self, it: Any, _owner: type) -> Callable[..., Any]:
        return partial(self._original, it)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._original(*args, **options)


@pytest.mark.parametrize("change", [_takes_more, Opaque])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Pool, "connect"),
        (SingletonThreadPool, "connect"),
        (_ConnectionRecord, "checkin"),
        (Connection, "_exec_single_context"),
    ],
)
def test_what_takes_something_else_is_counted_as_well(
    owner, name, change, url, probes, read, monkeypatch
):
    """A newer release, or somebody's wrapper: only the usual one has a shorter way."""
    probes.detach()
    monkeypatch.setattr(owner, name, change(vars(owner)[name]))
    probes.attach(load(None, {}))
    engines = [
        create_engine(url, poolclass=kind, pool_logging_name=kind.__name__)
        for kind in (QueuePool, SingletonThreadPool)
    ]
    for engine in engines:
        with request("/leaky"):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            engine.raw_connection()
            gc.collect()
        engine.dispose()
    probes.detach()

    both = [(engine.pool.logging_name,) for engine in engines]
    assert read(catalogue.POOL_WAIT) == dict.fromkeys(both, 2)
    assert read(catalogue.POOL_CREATE) == dict.fromkeys(both, 1)
    assert read(catalogue.POOL_USE) == dict.fromkeys(both, 1)
    assert read(catalogue.DB_DURATION) == {("sqlite", "SELECT", ""): 2, ROLLBACK: 2}
    leaks = {(pool, "/leaky"): 1 for (pool,) in both}
    assert read(catalogue.POOL_LEAKED) == {**{(pool, ""): 0 for (pool,) in both}, **leaks}


def test_what_comes_besides_reaches_the_pool(engine, probes, monkeypatch):
    """With a release whose pools are asked for something in particular."""
    probes.detach()
    seen = []
    original = Pool.connect

    def connect(pool: Pool, **options: Any) -> Any:
        seen.append(options)
        return original(pool)

    monkeypatch.setattr(Pool, "connect", connect)
    probes.attach(load(None, {}))
    engine.pool.connect(newer=True).close()
    probes.detach()

    assert seen == [{"newer": True}]


def test_a_statement_without_a_context_is_not_timed(engine, probes, read):
    """Some dialects send one on their own account."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        connection._cursor_execute(cursor, "SELECT 1", ())

    assert read(catalogue.DB_DURATION) == {}


def test_what_a_statement_needs_first_is_timed_as_well(engine, probes, read):
    """A sequence or a default, whether it fails or not."""
    with engine.connect() as connection:
        context = connection.execute(text("SELECT 1")).context
        cursor = connection.connection.cursor()
        connection._cursor_execute(cursor, "SELECT 2", (), context)
        with pytest.raises(OperationalError):
            connection._cursor_execute(cursor, "SELECT * FROM nowhere", (), context)

    assert read(catalogue.DB_DURATION) == {
        ("sqlite", "SELECT", ""): 2,
        ("sqlite", "SELECT", "sqlalchemy.exc.OperationalError"): 1,
        ROLLBACK: 1,
    }
