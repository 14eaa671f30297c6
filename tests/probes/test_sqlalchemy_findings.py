"""What a request is told of connections and statements that took long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from fastobs._exchange import CURRENT, SLOWEST, Exchange
from fastobs._routes import Routes
from fastobs.probes import _findings
from fastobs.probes._shapes import shape, shown
from tests.driving import scope
from tests.parts import eventually

FILE = "tests/probes/test_sqlalchemy_findings.py"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """With one connection, which threads may share."""
    engine = create_engine(
        f"sqlite:///{tmp_path}/shop.db",
        pool_logging_name="shop",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.01,
        connect_args={"check_same_thread": False},
    )
    with engine.connect():
        pass
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def nothing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the machine is."""
    for module in ("sqlalchemy", "_executions"):
        monkeypatch.setattr(f"fastobs.probes.{module}.LONG", 1e-9)


@contextmanager
def request(route: str) -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    exchange._route = route
    token = CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        exchange.closed = True
        CURRENT.reset(token)


def findings(exchange: Exchange) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (exchange.notes or {}).get("findings", [])
    return found


def of_kind(kind: str, exchange: Exchange) -> list[dict[str, Any]]:
    return [found for found in findings(exchange) if found["kind"] == kind]


def take(engine: Engine) -> Any:
    return engine.connect()


TAKES = f"{FILE}:{take.__code__.co_firstlineno + 1}"


def test_who_gets_no_connection_is_told_who_has_it(engine: Engine, attach: Any) -> None:
    """The route, and the line that took it: whoever reads the one line knows where to look."""
    attach()
    with request("/holder"):
        held = take(engine)
    with request("/waits") as exchange, pytest.raises(PoolTimeout):
        engine.connect()
    held.close()

    (found,) = findings(exchange)
    assert found.pop("seconds") > 0
    assert found == {
        "kind": "waited_for_connection",
        "pool": "shop",
        "route": "/holder",
        "at": TAKES,
    }


def test_who_waited_is_told_who_gave_it_back(engine: Engine, attach: Any) -> None:
    """That is another one than who has it by now."""
    engine.pool._timeout = 30.0  # type: ignore[attr-defined]
    told: list[Exchange] = []
    probe = attach()
    with request("/holder"):
        held = take(engine)

    def waits() -> None:
        with request("/waits") as exchange, engine.connect():
            told.append(exchange)

    thread = threading.Thread(target=waits)
    thread.start()
    accounts = [account for account in sqlalchemy_of(probe) if account.name == "shop"]
    assert eventually(lambda: accounts[0].waiting)
    held.close()
    thread.join()

    (found,) = of_kind("waited_for_connection", told[0])
    assert (found["route"], found["at"]) == ("/holder", TAKES)


def sqlalchemy_of(probes: Any) -> list[Any]:
    (probe,) = (each for row, each in probes._attached.items() if row.library == "sqlalchemy")
    return list({id(known[1]): known[1] for known in probe._by_pool.values()}.values())


def test_who_keeps_a_connection_while_it_does_something_else_is_told(
    engine: Engine, attach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that took it, and how long no statement ran; who only asks the database is not."""
    attach()
    with request("/holds") as exchange:
        connection = take(engine)
        connection.close()
    with request("/asks") as busy:
        connection = take(engine)
        connection.execute(text("SELECT 1"))
        busy.parts["db"] = 1e9  # type: ignore[index]
        connection.close()

    (found,) = of_kind("held_connection", exchange)
    assert found.pop("seconds") >= found.pop("idle") > 0
    assert found == {"kind": "held_connection", "pool": "shop", "at": TAKES}
    assert of_kind("held_connection", busy) == []


def test_a_stream_is_told_of_some(engine: Engine, attach: Any) -> None:
    """Not of each of a thousand."""
    attach()
    with request("/stream") as exchange:
        for _ in range(20):
            take(engine).close()

    kinds = [found["kind"] for found in findings(exchange)]
    assert set(kinds) == {"waited_for_connection", "held_connection"}
    assert len(kinds) == 2 * _findings.MOST


def test_the_slowest_query_is_told_with_the_line_that_sent_it(engine: Engine, attach: Any) -> None:
    """The longest of all, without its literals."""
    attach()
    with request("/") as exchange, engine.connect() as connection:
        connection.execute(text("SELECT 42"))
        assert exchange.notes is not None
        first = exchange.notes[SLOWEST]
        exchange.notes[SLOWEST] = {**first, "seconds": 1e9}
        connection.execute(text("SELECT 43, 'a'"))

        assert exchange.notes[SLOWEST]["seconds"] == 1e9
        exchange.notes[SLOWEST] = {**first, "seconds": 0.0}
        connection.execute(text("SELECT 43, 'a'"))
        assert exchange.notes[SLOWEST]["statement"] == "SELECT ?, ?"

    assert first["statement"] == "SELECT ?"
    assert first["at"].startswith(f"{FILE}:")


SECRET = "geheim7"


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=st.text(alphabet="abc xyz(),=<>%_\n\t", max_size=20),
    quote=st.sampled_from(
        ["'{}'", "N'{}'", "E'{}'", "'it''s {}'", "'{}\\\\'", "$${}$$", "$t${}$t$"]
    ),
    after=st.text(alphabet="abc xyz(),=<>%-/*#'\"`\\\\$;\n", max_size=20),
    system=st.sampled_from(["postgresql", "mysql", "sqlite", "mssql", "oracle"]),
)
def test_no_literal_is_ever_shown(before: str, quote: str, after: str, system: str) -> None:
    """However it is quoted, and whatever comes before and after it."""
    statement = f"SELECT x FROM t WHERE {before} = {quote.format(SECRET)} {after}"

    assert SECRET not in shown(shape(statement), system)


@settings(deadline=None, max_examples=200)
@given(number=st.integers(min_value=100_000), system=st.sampled_from(["postgresql", "sqlite"]))
def test_no_number_is_ever_shown(number: int, system: str) -> None:
    """A customer's id, or a sum."""
    for statement in (
        f"SELECT x FROM t WHERE id={number}",
        f"UPDATE t SET a = {number}.5, b=-{number}",
    ):
        assert str(number) not in shown(shape(statement), system)
