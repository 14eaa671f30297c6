"""Pools and commands of pymongo, on a server that speaks its protocol."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from pymongo import AsyncMongoClient, MongoClient, errors, monitoring, timeout
from pymongo.server_selectors import writable_server_selector

from fastobs import _exchange, catalogue, watch
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.probes import _operations
from fastobs.probes import pymongo as adapter
from tests.driving import scope
from tests.probes import mongo
from tests.probes.contract import PoolContract
from tests.probes.waiting import until

pytestmark = pytest.mark.anyio

Read = Callable[..., dict[tuple[str, ...], float]]

# Of any kind of document.
sync_client: Any = MongoClient
async_client: Any = AsyncMongoClient


@pytest.fixture(scope="module")
def running() -> Iterator[mongo.Server]:
    with mongo.server() as server:
        yield server


@pytest.fixture
def server(running: mongo.Server) -> mongo.Server:
    running.go.clear()
    return running


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    exchange._route = "/items"
    token = _exchange.CURRENT.set(exchange)
    yield exchange
    exchange.closed = True
    _exchange.CURRENT.reset(token)


def test_a_client_is_counted(server: Any, probes: Any, read: Read) -> None:
    """What is taken is given back; connections and commands are timed."""
    with sync_client(server.url, maxPoolSize=7) as client:
        watch(client, name="shop")
        assert list(client.shop.items.find({})) == [{"a": 1}]
        client.admin.command("ping")
        with pytest.raises(errors.OperationFailure):
            client.admin.command("nonsense")

        assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
        assert read(catalogue.POOL_MAX) == {("shop",): 7}
        assert read(catalogue.POOL_PENDING) == {("shop",): 0}
        assert read(catalogue.POOL_CREATE) == {("shop",): 1}
        assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("shop",): 3}
        assert read(catalogue.POOL_TIMEOUTS) == {("shop",): 0}
        assert read(catalogue.DB_DURATION) == {
            ("mongodb", "find", ""): 1,
            ("mongodb", "ping", ""): 1,
            ("mongodb", "nonsense", "pymongo.errors.OperationFailure"): 1,
        }
        assert "  shop: MongoDB MongoClient, at most 7 connections to a server" in probes.status()
    assert read(catalogue.POOL_COUNT) == {}


async def test_an_async_client_is_counted(server: Any, probes: Any, read: Read) -> None:
    """The same with await."""
    async with async_client(server.url, maxPoolSize=0) as client:
        watch(client, name="shop")
        assert await client.shop.items.find({}).to_list() == [{"a": 1}]

        assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
        assert read(catalogue.POOL_MAX) == {}
        assert read(catalogue.POOL_CREATE) == {("shop",): 1}
        assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("shop",): 1}
        assert read(catalogue.DB_DURATION) == {("mongodb", "find", ""): 1}
        assert "  shop: MongoDB AsyncMongoClient, no limit" in probes.status()


def test_a_thread_gives_up(server: Any, probes: Any, read: Read) -> None:
    """Who waits is pending until then."""
    with sync_client(server.url, maxPoolSize=1, waitQueueTimeoutMS=50) as client:
        watch(client, name="shop")
        client.admin.command("ping")
        thread = threading.Thread(target=client.admin.command, args=("wait",))
        thread.start()
        while read(catalogue.POOL_COUNT)["shop", "used"] < 1:
            pass
        with pytest.raises(errors.WaitQueueTimeoutError):
            client.admin.command("ping")
        server.go.set()
        thread.join()

        assert read(catalogue.POOL_TIMEOUTS) == {("shop",): 1}
        assert read(catalogue.POOL_WAIT) == {("shop",): 3}
        assert read(catalogue.POOL_PENDING) == {("shop",): 0}


async def test_a_cancelled_command_leaves_nothing_behind(
    server: Any, probes: Any, read: Read, exchange: Exchange
) -> None:
    """Its connection is closed, and its time is over; pymongo tells no end of it."""
    async with async_client(server.url) as client:
        watch(client, name="shop")
        await client.admin.command("ping")
        task = asyncio.create_task(client.admin.command("wait"))
        await until(lambda: read(catalogue.POOL_COUNT)["shop", "used"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.go.set()

        assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 0}
        assert exchange.parts._open == []  # type: ignore[attr-defined]


def test_a_server_that_is_not_there_leaves_nothing_behind(probes: Any, read: Read) -> None:
    """Neither used, nor idle, nor opened."""
    listener = adapter.Listener()
    address = ("gone", 1)
    with sync_client("mongodb://127.0.0.1:1", connect=False, event_listeners=[listener]) as client:
        watch(client, name="shop")
        publisher = client.options.pool_options._event_listeners
        assert publisher is not None
        publisher.publish_pool_created(address, {})
        publisher.publish_pool_ready(address)
        publisher.publish_connection_check_out_started(address)
        publisher.publish_connection_created(address, 1)
        publisher.publish_connection_closed(address, 1, "error")
        publisher.publish_connection_check_out_failed(address, "connectionError", 0.1)
        publisher.publish_pool_cleared(address, None)

        assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 0}
        assert read(catalogue.POOL_PENDING) == {("shop",): 0}
        assert read(catalogue.POOL_CREATE) == read(catalogue.POOL_TIMEOUTS) == {("shop",): 0}


def test_a_client_made_before_needs_a_line(server: Any, attach: Any, read: Read) -> None:
    """status() gives it; with a listener of ours it needs nothing else."""
    with (
        sync_client(server.url) as deaf,
        sync_client(server.url, event_listeners=[adapter.Listener()]) as client,
    ):
        client.admin.command("ping")
        probes = attach()
        watch(deaf)
        watch(deaf, name="deaf")
        watch(deaf)
        watch(client, name="shop")
        deaf.admin.command("ping")
        client.admin.command("ping")

        assert f"  deaf: {adapter.DEAF}" in probes.status()
        assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
        assert read(catalogue.POOL_CREATE) == {("shop",): 1}
        assert read(catalogue.POOL_WAIT) == {("shop",): 1}
    del deaf
    gc.collect()


def test_a_client_is_called_after_its_variable_or_its_server(
    server: Any, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never with credentials; a name that is given later is the better one."""
    module = __import__(__name__, fromlist=["x"])
    with sync_client(server.url) as held, sync_client(server.url) as local:
        monkeypatch.setattr(module, "a_variable", held, raising=False)
        held.admin.command("ping")
        local.admin.command("ping")
        port = server.server_address[1]
        names = {name for name, _ in read(catalogue.POOL_COUNT)}
        watch(local, name="local")

        assert names == {f"{__name__}.a_variable", f"mongodb:127.0.0.1:{port}"}
        assert {name for name, _ in read(catalogue.POOL_COUNT)} == {
            f"{__name__}.a_variable",
            "local",
        }


def test_an_app_that_makes_up_commands_makes_no_series(
    server: Any, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many names, further ones are _OTHER."""
    monkeypatch.setattr(_operations, "NAMES", 1)
    with sync_client(server.url) as client:
        client.admin.command("ping")
        for name in ("made-up", "other"):
            with pytest.raises(errors.OperationFailure):
                client.admin.command(name)
        durations = read(catalogue.DB_DURATION)

    error = "pymongo.errors.OperationFailure"
    assert durations == {("mongodb", "ping", ""): 1, ("mongodb", "_OTHER", error): 2}


def test_the_apps_own_listeners_hear_on(server: Any, probes: Any) -> None:
    """Ours comes last; what is no list of listeners is refused as always."""

    class Own(monitoring.CommandListener):
        heard = 0

        def started(self, event: Any) -> None:
            Own.heard += 1

        def succeeded(self, event: Any) -> None: ...

        def failed(self, event: Any) -> None: ...

    with sync_client(server.url, event_listeners=[Own()]) as client:
        client.admin.command("ping")
        heard = Own.heard
    with pytest.raises(TypeError):
        sync_client(server.url, event_listeners=3)

    assert heard == 1


def test_a_pool_that_is_unknown_has_no_waiters(
    server: Any, attach: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was cancelled would be pending for ever."""
    monkeypatch.setattr(adapter, "AsyncPool", object)
    attach()
    with sync_client(server.url) as client:
        client.admin.command("ping")

        assert read(catalogue.POOL_PENDING) == {}


class TestContract(PoolContract):
    """pymongo, whose clients have to be made after instrument() or with a listener."""

    row = ("pymongo", ".pymongo")
    gives_up = errors.WaitQueueTimeoutError
    tells = limited = inherits = False

    @pytest.fixture
    def place(self, server: mongo.Server) -> str:
        return server.url

    def made(self, place: str) -> Any:
        return async_client(place, maxPoolSize=1, event_listeners=[adapter.Listener()])

    # The client looks for its server first, in a connection that is not of the pool.
    test_opening_a_connection_is_not_waiting = None  # type: ignore[assignment]

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        server = await it._topology.select_server(writable_server_selector, "ping")
        checkout = server.pool.checkout()
        with timeout(within):
            await checkout.__aenter__()
        return checkout

    async def release(self, it: Any, connection: Any) -> None:
        await connection.__aexit__(None, None, None)
