"""Connections and requests of aiohttp's client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from aiohttp import (
    BaseConnector,
    ClientError,
    ClientSession,
    ClientTimeout,
    TCPConnector,
    TraceConfig,
)

from fastobs import catalogue, watch
from fastobs.cells.meters import Histogram
from tests.probes.contract import ClientContract
from tests.probes.upstream import Upstream, calls, going_on, request, upstream
from tests.probes.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


@asynccontextmanager
async def a_session(server: Upstream, **options: Any) -> AsyncIterator[ClientSession]:
    """One that is called shop."""
    async with ClientSession(server.url, **options) as session:
        yield watch(session, name="shop")


async def get(session: ClientSession, path: str = "/") -> int:
    async with session.get(path) as response:
        await response.read()
        return response.status


def queued(session: ClientSession) -> int:
    connector: Any = session.connector
    return len(connector._waiters)


async def test_sessions_that_share_their_traces_count_once_each(server, attach, read):
    """A list of the app's may be that of several sessions; in the end it is the app's again."""
    shared = [TraceConfig()]
    probes = attach()
    async with (
        a_session(server, trace_configs=shared) as one,
        ClientSession(server.url, trace_configs=shared) as two,
    ):
        for session in (one, two, one):
            await get(session)
        probes.detach()

    assert len(shared) == 1
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 2, ("aiohttp",): 1}


async def test_connections_are_told_apart(server, probes, read):
    """A connection is active while a request has it, and idle after that."""
    async with a_session(server) as session:
        held = asyncio.create_task(get(session, "/hold"))
        await until(lambda: server.holding)
        during = read(catalogue.CLIENT_OPEN)
        server.release.set()
        await held
        after = read(catalogue.CLIENT_OPEN)

    assert during == {("active", "shop"): 1, ("idle", "shop"): 0}
    assert after == {("active", "shop"): 0, ("idle", "shop"): 1}
    assert read(catalogue.CLIENT_OPEN) == {}


async def test_a_session_from_before_is_seen(server, attach, read):
    """It need not be in a variable either: its next request is enough."""
    async with ClientSession(server.url) as session:
        await get(session)
        attach()
        await get(session)

        assert read(catalogue.CLIENT_OPEN) == {("active", "aiohttp"): 0, ("idle", "aiohttp"): 1}
        assert read(catalogue.CLIENT_QUEUE) == {("aiohttp",): 1}


async def test_waiting_for_a_connection_ends_with_the_connection(server, probes, read):
    """Not with the answer: the request that has one waited no longer, the next one still does."""
    async with a_session(server, connector=TCPConnector(limit=1)) as session:
        first = asyncio.create_task(get(session, "/hold"))
        await until(lambda: server.holding)
        second = asyncio.create_task(get(session))
        await asyncio.sleep(0)
        during = read(catalogue.CLIENT_QUEUE)
        server.release.set()
        await asyncio.gather(first, second)

    assert during == {("shop",): 1}
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 2}


async def test_only_who_queues_waits(server, probes, meters):
    """A connection that is free, or can be opened, is no wait."""
    async with a_session(server, connector=TCPConnector(limit=1)) as session:
        await get(session)
        await get(session)
        waits = meters.histogram(catalogue.CLIENT_QUEUE, "shop")
        free = waits.sum
        first = asyncio.create_task(get(session, "/hold"))
        await until(lambda: server.holding)
        second = asyncio.create_task(get(session))
        await until(lambda: queued(session))
        server.release.set()
        await asyncio.gather(first, second)

    assert free == 0
    assert waits.sum > 0


async def test_a_request_is_a_part_of_the_exchange(server, probes):
    """Until the headers are there, and while the body is read; none goes on when it has failed."""
    async with a_session(server) as session:
        with request() as exchange:
            response = await session.get("/")
            sent = exchange.parts["http"]
            between = going_on(exchange)
            await response.text()
            read = exchange.parts["http"]
            with pytest.raises(ClientError):
                await session.get("http://127.0.0.1:1/")
            after = going_on(exchange)

    assert calls(exchange) == 2
    assert 0 < sent < read
    assert (between, after) == ([], [])


async def test_the_apps_own_trace_is_told_as_always(server, probes, read):
    """Ours comes on top."""
    events: list[str] = []

    async def started(*_: Any) -> None:
        events.append("started")

    config = TraceConfig()
    config.on_request_start.append(started)
    async with a_session(server, trace_configs=[config]) as session:
        await get(session)

    assert events == ["started"]
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1}


async def test_a_session_is_called_after_its_variable(server, monkeypatch, attach, read):
    """Unless watch() gave it a name."""
    module: Any = ModuleType("an_app")
    module.__file__ = "/srv/an_app.py"
    monkeypatch.setitem(sys.modules, "an_app", module)
    async with ClientSession(server.url) as module.prices:
        probes = attach()
        await get(module.prices)

        assert read(catalogue.CLIENT_OPEN)["idle", "an_app.prices"] == 1
        assert "  an_app.prices: aiohttp ClientSession" in probes.status()


async def test_a_body_that_waits_to_be_read_has_its_connection(server, clock, meters, read):
    """A small one has come with the head, and its connection is back; one that is left is closed."""
    async with a_session(server) as session:
        await get(session)
        response = await session.get("/large")
        before, clock.now = read(catalogue.CLIENT_USE), clock.now + 0.25
        response.close()
        (row,) = meters.rows(catalogue.CLIENT_USE)

    assert before == {("shop",): 1}
    assert isinstance(row, Histogram)
    assert (row.count, row.sum) == (2, 0.25)


async def test_what_is_given_back_without_us_is_not_told(server, attach, read):
    """Its callback was there before."""
    probes = attach()
    async with a_session(server) as session:
        response = await session.get("/large")
        probes.detach()
        response.close()

    assert read(catalogue.CLIENT_USE) == {}


class Sends:
    """A trace of which nothing else is known."""

    def __init__(self, trace: Any) -> None:
        self.trace = trace

    def __getattr__(self, name: str) -> Any:
        if name.startswith("send_"):
            return getattr(self.trace, name)
        raise AttributeError(name)


@pytest.mark.usefixtures("contained_errors")
async def test_traces_that_look_different_tell_no_use(server, probes, read, monkeypatch):
    """All else is told."""
    hooked: Any = BaseConnector.connect

    async def connect(connector: Any, req: Any, traces: Any, **options: Any) -> Any:
        return await hooked(connector, req, [Sends(trace) for trace in traces], **options)

    monkeypatch.setattr(BaseConnector, "connect", connect)
    async with a_session(server) as session:
        await get(session)

    assert read(catalogue.CLIENT_USE) == {}
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1}


async def test_a_connector_that_looks_different_shows_nothing(server, probes, read, monkeypatch):
    """Rather nothing than something wrong."""
    async with a_session(server) as session:
        with monkeypatch.context() as patch:
            patch.delattr(session.connector, "_conns")

            assert read(catalogue.CLIENT_OPEN) == {}


class TestContract(ClientContract):
    """aiohttp."""

    row = ("aiohttp", ".aiohttp")
    gives_up = TimeoutError

    def made(self, place: str) -> Any:
        return ClientSession(place, connector=TCPConnector(limit=1))

    def marks(self, it: Any) -> object:
        return len(it.trace_configs)

    async def get(self, it: Any, path: str, *, within: float | None = None) -> int:
        async with it.get(path, timeout=ClientTimeout(connect=within)) as response:
            await response.read()
            return int(response.status)
