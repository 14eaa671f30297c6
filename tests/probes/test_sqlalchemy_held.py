"""The line about a connection that is not given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from fastobs import _exchange
from fastobs._exchange import Exchange
from fastobs._process import Process
from fastobs._routes import Routes
from fastobs.cells import Meters
from tests.driving import scope

FILE = "tests/probes/test_sqlalchemy_held.py"
SOON = {"held_after": 1e-9, "server_limits": None}


class Lines:
    """Keeps the lines that it is given."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, dict[str, Any]]] = []
        self.put = self.kept.append


@pytest.fixture
def lines(shared: Process) -> list[tuple[str, dict[str, Any]]]:
    """What was written."""
    lines = Lines()
    shared.__dict__["lines"] = lines
    return lines.kept


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db", pool_logging_name="shop")
    yield engine
    engine.dispose()


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


def line_of(function: Callable[..., Any], more: int) -> str:
    return f"{FILE}:{function.__code__.co_firstlineno + more}"


def take(engine: Engine) -> Any:
    return engine.connect()


def test_a_connection_that_is_held_has_one_line(engine, attach, lines, meters: Meters):
    """With pool, route and the line that took it; once, however often metrics are shown."""
    attach(pools=SOON)
    with request("/orders") as exchange, take(engine):
        meters.refresh()
        meters.refresh()

    ((level, fields),) = lines
    assert level == "warning"
    assert fields.pop("duration") > 0
    assert fields.keys() >= {"timestamp", "pid"}
    assert {name: fields[name] for name in fields if name not in {"timestamp", "pid"}} == {
        "event": "connection_held",
        "level": "warning",
        "threshold": 1e-9,
        "pool": "shop",
        "route": "/orders",
        "at": line_of(take, 1),
        "trace_id": exchange.trace_id,
        "request_id": exchange.trace_id,
        "request_over": False,
    }


def test_each_checkout_has_a_line_of_its_own(engine, attach, lines, meters):
    """The second one is another story, though the connection is the same."""
    attach(pools=SOON)
    for _ in range(2):
        with take(engine):
            meters.refresh()

    assert len(lines) == 2


def test_what_was_forgotten_says_that_its_request_is_over(engine, attach, lines, meters):
    """Nobody will give it back; one without a request has no ids."""
    attach(pools=SOON)
    with request("/orders"):
        forgotten = take(engine)
    outside = take(engine)
    meters.refresh()
    forgotten.close()
    outside.close()

    (_, first), (_, second) = lines
    assert (first["route"], first["request_over"]) == ("/orders", True)
    assert second["route"] == ""
    assert "request_over" not in second


@pytest.mark.parametrize("after", [None, 3600.0])
def test_before_the_limit_and_without_one_there_is_no_line(engine, attach, lines, meters, after):
    """None is off."""
    attach(pools={"held_after": after})
    with take(engine):
        meters.refresh()

    assert lines == []


def test_a_pool_that_no_line_of_the_app_uses_has_none(engine, attach, lines, meters):
    """A library may work on its own account."""
    attach(pools=SOON)
    names: dict[str, Any] = {"engine": engine}
    code = "import threading, queue; out = queue.SimpleQueue()\n"
    code += "threading.Thread(target=lambda: out.put(engine.raw_connection())).start()\n"
    code += "taken = out.get()"
    exec(compile(code, "<library>", "exec"), names)
    meters.refresh()
    names["taken"].detach()
    names["taken"].close()

    assert [fields["at"] for _, fields in lines] == [""]


async def take_awaited(connection: AsyncConnection) -> None:
    await connection.start()


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_async_connection_names_the_line_of_its_task(
    database_url: str, attach: Any, lines: Any, meters: Meters
) -> None:
    """The checkout runs in a greenlet."""
    attach(pools=SOON)
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    connection = engine.connect()
    await take_awaited(connection)
    await connection.execute(text("SELECT 1"))
    meters.refresh()
    await connection.close()
    await engine.dispose()

    assert [fields["at"] for _, fields in lines] == [line_of(take_awaited, 1)]
