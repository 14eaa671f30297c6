"""Connections and requests of httpx and httpx2."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partialmethod
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue, watch
from fastobs.cells.meters import Histogram
from fastobs.probes import _clients
from fastobs.probes.httpx import SENDING, _kind_beside, _queue_of
from tests.probes.contract import ClientContract
from tests.probes.upstream import Upstream, calls, going_on, request, upstream
from tests.probes.waiting import until


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: Any) -> Any:
    """Both have the same classes."""
    return importlib.import_module(request.param)


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


@pytest.fixture
def client(library: Any, server: Upstream) -> Iterator[Any]:
    """Made before the probes are attached, since it is asked for first."""
    with library.Client(base_url=server.url, trust_env=False) as client:
        yield watch(client, name="shop")


def asynchronous(library: Any, server: Upstream, **options: Any) -> Any:
    return library.AsyncClient(base_url=server.url, trust_env=False, **options)


def test_a_sync_clients_connections_are_told_apart(client, server, probes, read):
    """A connection is active while a request has it, and idle after that."""
    held = threading.Thread(target=client.get, args=("/hold",))
    held.start()
    asyncio.run(until(lambda: server.holding))
    during = read(catalogue.CLIENT_OPEN)
    server.release.set()
    held.join()

    assert during == {("active", "shop"): 1, ("idle", "shop"): 0}
    assert read(catalogue.CLIENT_OPEN) == {("active", "shop"): 0, ("idle", "shop"): 1}


@pytest.mark.anyio
async def test_a_client_from_before_keeps_the_pool_that_it_has(library, server, attach, read):
    """Connections that were open before the probes are attached are seen with its next request."""
    async with asynchronous(library, server) as client:
        await client.get("/")
        attach()
        await client.get("/")

        assert read(catalogue.CLIENT_OPEN)["idle", library.__name__] == 1


@pytest.mark.anyio
@pytest.mark.parametrize("sync", [True, False])
async def test_a_wait_is_told_once_and_whole(library, server, sync, clock, meters):
    """It ends with the connection, not with the answer; who is told of a connection that somebody else
    takes before him waits on, and who need not wait has waited for no time."""
    limits = library.Limits(max_connections=1)
    kind = library.Client if sync else library.AsyncClient
    client = kind(base_url=server.url, trust_env=False, limits=limits)

    async def get(path: str) -> None:
        await (run_in_threadpool(client.get, path) if sync else client.get(path))

    def queued() -> int:
        return sum(one.connection is None for one in client._transport._pool._requests)

    await get("/")
    tasks = [asyncio.create_task(get(path)) for path in ("/hold", "/hold", "/hold")]
    await until(lambda: server.holding and queued() == 2)
    clock.now += 0.25
    server.release.set()
    await asyncio.gather(*tasks)
    await (run_in_threadpool(client.close) if sync else client.aclose())
    (row,) = meters.rows(catalogue.CLIENT_QUEUE)

    assert isinstance(row, Histogram)
    assert (row.count, row.buckets[0], row.sum) == (4, 2, 0.5)


@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_is_one(library, server, clock, meters):
    """As long as it was."""
    async with asynchronous(library, server, limits=library.Limits(max_connections=1)) as client:
        pool = client._transport._pool
        first = asyncio.create_task(client.get("/hold"))
        await until(lambda: server.holding)
        second = asyncio.create_task(client.get("/"))
        await until(lambda: any(one.connection is None for one in pool._requests))
        clock.now += 0.25
        second.cancel()
        await asyncio.wait({second})
        (row,) = meters.rows(catalogue.CLIENT_QUEUE)
        waited = row.count, row.sum
        server.release.set()
        await first

    assert waited == (1, 0.25)
    assert (row.count, row.sum) == (2, 0.25)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.anyio
async def test_a_stream_has_its_connection_until_it_is_closed(
    library, server, sync, clock, meters, read
):
    """Whether it is read or not, and once, however often it is closed."""
    kind = library.Client if sync else library.AsyncClient
    client = kind(base_url=server.url, trust_env=False)
    asked = client.build_request("GET", "/")
    if sync:
        with client:
            response = client.send(asked, stream=True)
            before, clock.now = read(catalogue.CLIENT_USE), clock.now + 0.25
            response.close()
            response.stream.close()
    else:
        async with client:
            response = await client.send(asked, stream=True)
            before, clock.now = read(catalogue.CLIENT_USE), clock.now + 0.25
            await response.aclose()
            await response.stream.aclose()
    (row,) = meters.rows(catalogue.CLIENT_USE)

    assert before == {}
    assert isinstance(row, Histogram)
    assert (row.count, row.sum) == (1, 0.25)


def test_a_request_that_fails_gives_its_connection_back(library, client, server, probes, read):
    """One that never had any has nothing to give."""
    for url in ("http://127.0.0.1:1/", "gopher://127.0.0.1/"):
        with pytest.raises(library.TransportError):
            client.get(url)
    without = read(catalogue.CLIENT_USE)
    with pytest.raises(library.ReadTimeout):
        client.get("/hold", timeout=library.Timeout(30, read=0.001))

    assert (without, read(catalogue.CLIENT_USE)) == ({}, {("shop",): 1})


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.anyio
async def test_a_connection_that_was_taken_unseen_is_given_back_unseen(
    library, server, sync, attach, read
):
    """How long it was out is not known."""
    kind = library.Client if sync else library.AsyncClient
    client = kind(base_url=server.url, trust_env=False)
    probes = attach()
    probes.detach()
    asked = client.build_request("GET", "/")
    response = client.send(asked, stream=True) if sync else await client.send(asked, stream=True)
    attach()
    if sync:
        response.close()
        client.close()
    else:
        await response.aclose()
        await client.aclose()

    assert read(catalogue.CLIENT_USE) == {}


@pytest.mark.anyio
async def test_who_waited_before_we_came_is_let_through(library, server, attach, read):
    """What is not known is not told."""
    async with asynchronous(library, server, limits=library.Limits(max_connections=1)) as client:
        probes = attach()
        await client.get("/")
        probes.detach()
        first, second = (asyncio.create_task(client.get(path)) for path in ("/hold", "/hold"))
        await until(lambda: server.holding)
        attach()
        server.release.set()
        answers = await asyncio.gather(first, second)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert read(catalogue.CLIENT_QUEUE) == {(library.__name__,): 1}


def test_a_request_is_a_part_of_the_exchange(client, probes):
    """Its time is told under http, and none goes on when it has failed."""
    with request() as exchange:
        client.get("/")
        sent = exchange.parts["http"]
        with pytest.raises(
            importlib.import_module(client.__module__.partition(".")[0]).ConnectError
        ):
            client.get("http://127.0.0.1:1/")
        unfinished = going_on(exchange)

    assert sent > 0
    assert exchange.parts["http"] > sent
    assert calls(exchange) == 2
    assert unfinished == []


@pytest.mark.anyio
async def test_a_cancelled_request_ends_its_part(library, server, probes):
    """Whatever the client was waiting for."""
    async with asynchronous(library, server) as client:
        with request() as exchange:
            task = asyncio.create_task(client.get("/hold"))
            await until(lambda: server.holding)
            task.cancel()
            await asyncio.wait({task})

            assert going_on(exchange) == []
            assert SENDING.get() is None


def test_a_streamed_body_is_waited_for_chunk_by_chunk(client, probes):
    """What the app does between two chunks is not the upstream's time."""
    with request() as exchange, client.stream("GET", "/") as response:
        before = exchange.parts["http"]
        unfinished = [going_on(exchange) for _ in response.iter_raw(2)]

    assert unfinished == [[], [], []]
    assert exchange.parts["http"] > before


@pytest.mark.anyio
async def test_a_body_that_is_left_early_is_closed(library, server, probes):
    """As without us."""
    async with asynchronous(library, server) as client:
        with request() as exchange:
            async with client.stream("GET", "/") as response:
                chunks = response.aiter_raw(2)
                first = await anext(chunks)
                await chunks.aclose()
            async with client.stream("GET", "/") as whole:
                rest = [chunk async for chunk in whole.aiter_raw()]
            unfinished = going_on(exchange)

    assert (first, rest, unfinished) == (b"he", [b"hello"], [])
    assert response.is_closed


def test_a_429_outside_of_requests_has_no_route(client, probes, read):
    """A background job was turned away."""
    client.get("/429")
    client.get("/")

    assert read(catalogue.LIMIT_REJECTED)["", "upstream"] == 1


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.anyio
async def test_hooks_that_others_wrapped_count_nothing_any_more(
    library, server, sync, monkeypatch, attach, read
):
    """They cannot be taken out: a 429 is passed on, and a stream as it is."""
    name = {"httpx": "httpcore", "httpx2": "httpcore2"}[library.__name__]
    core = importlib.import_module(name)
    kind, pool = (
        (library.Client, core.ConnectionPool)
        if sync
        else (library.AsyncClient, core.AsyncConnectionPool)
    )
    places = [(kind, "send"), (pool, "handle_request" if sync else "handle_async_request")]
    for owner, at in places:
        # It shall be there again in the end.
        monkeypatch.setattr(owner, at, vars(owner)[at])
    probes = attach()
    for owner, at in places:
        setattr(owner, at, partialmethod(vars(owner)[at]))
    probes.detach()
    before = read(catalogue.LIMIT_REJECTED)
    client = kind(base_url=server.url, trust_env=False)
    asked, options = client.build_request("GET", "/429"), {"stream": True}
    with request() as exchange:
        if sync:
            body = client.send(asked, **options).read()
            client.close()
        else:
            body = await (await client.send(asked, **options)).aread()
            await client.aclose()

    assert body == b"hello"
    assert exchange.parts == {}
    assert read(catalogue.LIMIT_REJECTED) == before
    assert read(catalogue.CLIENT_QUEUE) == {}


def test_without_the_limits_section_no_429_is_counted(client, attach, read):
    """The family is switched off, its client's pool is not."""
    attach(limits=None)
    client.get("/429")

    assert read(catalogue.LIMIT_REJECTED)["", "upstream"] == 0
    assert read(catalogue.CLIENT_QUEUE)[("shop",)] == 1


def test_the_apps_own_trace_is_told_as_always(client, probes, read):
    """We are not in its way."""
    events: list[str] = []
    client.get("/", extensions={"trace": lambda name, info: events.append(name)})

    assert "connection.connect_tcp.started" in events
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1}


@pytest.mark.anyio
async def test_what_opens_no_connection_shows_none(library, probes, read):
    """Transports that answer in process have no pool, and are no upstream."""
    transport = library.MockTransport(lambda request: library.Response(429))
    app = library.ASGITransport(FastAPI())
    with library.Client(transport=transport, base_url="http://mock") as mock:
        mock.get("/")
    async with library.AsyncClient(transport=app, base_url="http://app") as client:
        watch(client, name="app")
        await client.get("/")

        assert read(catalogue.CLIENT_OPEN) == {}
    assert read(catalogue.LIMIT_REJECTED)["", "upstream"] == 0


def test_a_pool_within_a_transport_of_the_apps_is_found(library, server, probes, read):
    """Retrying, caching: whatever a client goes through, the pool at the end is the client's."""

    class Retrying(library.BaseTransport):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.inner = library.HTTPTransport()

        def handle_request(self, request: Any) -> Any:
            return self.inner.handle_request(request)

        def close(self) -> None:
            self.inner.close()

    with library.Client(transport=Retrying(), base_url=server.url) as client:
        watch(client, name="shop")
        client.get("/")

        assert read(catalogue.CLIENT_OPEN)["idle", "shop"] == 1


@pytest.mark.anyio
async def test_a_transport_may_call_its_pool_from_elsewhere(library, server, probes, read):
    """From a task or a thread of its own, where no caller tells whose request it is."""

    class Hedging(library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.inner = library.AsyncHTTPTransport()

        async def handle_async_request(self, request: Any) -> Any:
            return await asyncio.create_task(self.inner.handle_async_request(request))

        async def aclose(self) -> None:
            await self.inner.aclose()

    async with asynchronous(library, server, transport=Hedging()) as client:
        watch(client, name="shop")
        await client.get("/")

        assert read(catalogue.CLIENT_OPEN)["idle", "shop"] == 1
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1}
    assert SENDING.get() is None


def test_the_pools_of_mounted_transports_are_the_clients(library, server, probes, read):
    """Each request is counted where it goes."""
    mounts = {"all://127.0.0.1": library.HTTPTransport()}
    with library.Client(trust_env=False, mounts=mounts) as client:
        watch(client, name="shop")
        client.get(server.url)
        client.get(server.url.replace("127.0.0.1", "localhost"))

        assert read(catalogue.CLIENT_OPEN)["idle", "shop"] == 2
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 2}


def test_a_client_within_a_transport_has_a_pool_of_its_own(library, server, probes, read):
    """The innermost client is whose pool it is."""
    inner = library.Client(base_url=server.url, trust_env=False)

    class Within(library.BaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            return library.Response(200, content=inner.get("/").content)

    with inner, library.Client(transport=Within(), base_url=server.url) as outer:
        watch(inner, name="inner")
        watch(outer, name="outer")
        outer.get("/")

        assert read(catalogue.CLIENT_QUEUE) == {("inner",): 1}


@pytest.mark.parametrize("watched", [True, False])
def test_each_answer_of_a_request_is_one(library, client, watched, probes, read):
    """A flow that asks again, an upstream that a transport asks again: what the app sees is the last."""

    class Persistent(library.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Iterator[Any]:
            yield request
            yield request

    class Retrying(library.BaseTransport):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def handle_request(self, request: Any) -> Any:
            self.inner.handle_request(request).close()
            return self.inner.handle_request(request)

        def close(self) -> None:
            self.inner.close()

    if watched:
        client.get("/429", auth=Persistent())
    else:
        client._transport = Retrying(client._transport)
        client.get("/429")

    assert read(catalogue.LIMIT_REJECTED)["", "upstream"] == 2
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 2}


def test_a_proxys_connection_is_the_pools(library, server, probes, read):
    """What lies within it is not counted a second time."""
    with library.Client(proxy=server.url, trust_env=False) as client:
        watch(client, name="shop")
        answer = client.get("http://elsewhere.example/429")

        assert read(catalogue.CLIENT_OPEN) == {("active", "shop"): 0, ("idle", "shop"): 1}
    assert answer.status_code == 429
    assert read(catalogue.LIMIT_REJECTED)["", "upstream"] == 1
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1}


def test_a_transport_without_a_client_is_nobodys(library, server, probes, read):
    """Whoever calls it counts for himself."""
    with library.HTTPTransport() as transport:
        response = transport.handle_request(library.Request("GET", server.url))
        response.read()

        assert read(catalogue.CLIENT_OPEN) == {}


def test_clients_without_a_name_share_one(library, server, probes, read):
    """There may be one per request; what is open is counted together."""
    with library.Client(trust_env=False) as one, library.Client(trust_env=False) as two:
        one.get(server.url)
        two.get(server.url)
        name = library.__name__

        assert read(catalogue.CLIENT_OPEN) == {("active", name): 0, ("idle", name): 2}
    assert read(catalogue.CLIENT_QUEUE) == {(name,): 2}


def test_a_client_is_called_after_its_variable(client, monkeypatch, attach, read):
    """Unless watch() gave it a name."""
    module: Any = ModuleType("an_app")
    module.__file__ = "/srv/an_app.py"
    library = importlib.import_module(type(client).__module__.partition(".")[0])
    module.prices, module.given = library.Client(trust_env=False), client
    monkeypatch.setitem(sys.modules, "an_app", module)
    probes = attach()
    with module.prices as prices:
        prices.get(client.base_url)
        client.get("/")

        assert ("idle", "an_app.prices") in read(catalogue.CLIENT_OPEN)
        assert ("idle", "shop") in read(catalogue.CLIENT_OPEN)
        assert f"  an_app.prices: {library.__name__} Client" in probes.status()


def test_a_client_that_is_renamed_goes_on_under_its_new_name(client, probes, read):
    """The last watch() counts."""
    client.get("/")
    watch(client, name="prices")
    watch(client)
    client.get("/")

    assert read(catalogue.CLIENT_OPEN) == {("active", "prices"): 0, ("idle", "prices"): 1}
    assert read(catalogue.CLIENT_QUEUE) == {("shop",): 1, ("prices",): 1}


def test_ever_new_clients_do_not_search_for_ever(library, server, probes, read, monkeypatch):
    """A client per request would have each request search all variables."""
    monkeypatch.setattr(probes, "_looks", 0)
    monkeypatch.setattr(_clients, "LOOKS", 3)
    for _ in range(5):
        # With no certificates to be read, which takes longest.
        with library.Client(trust_env=False, verify=False) as one:
            one.get(server.url)

    assert probes._looks == 3
    assert read(catalogue.CLIENT_QUEUE) == {(library.__name__,): 5}


def test_one_library_under_two_names_is_counted_once(monkeypatch, attach, server, read):
    """httpx2 offers itself under the name of httpx, for libraries that import that."""
    httpx2 = importlib.import_module("httpx2")
    monkeypatch.setitem(sys.modules, "httpx", httpx2)
    attach()
    with httpx2.Client(trust_env=False) as client:
        client.get(server.url)

    assert read(catalogue.CLIENT_QUEUE) == {("httpx2",): 1}


def test_a_body_that_is_read_while_sending_is_not_hooked(client, server, probes):
    """Its time is counted already; the first body that is streamed brings the hooks."""
    kind = importlib.import_module(type(client).__module__.partition(".")[0]).Response
    before = kind.iter_raw
    with request():
        client.get("/")
    usual = kind.iter_raw
    with client.stream("GET", "/"):
        streamed = kind.iter_raw
    probes.detach()

    assert usual is before
    assert streamed is not before
    assert kind.iter_raw is before


def test_a_stream_that_was_opened_before_the_request_is_waited_for_in_it(client, probes):
    """Whoever reads it waits."""
    with client.stream("GET", "/") as response, request() as exchange:
        response.read()

    assert exchange.parts["http"] > 0
    assert calls(exchange) == 0


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.anyio
async def test_send_may_have_been_wrapped_by_others(
    library, server, sync, monkeypatch, attach, read
):
    """With keywords of theirs, and with any."""
    kind = library.Client if sync else library.AsyncClient
    original, given = kind.send, []

    def theirs(client: Any, request: Any, **options: Any) -> Any:
        given.append(options.pop("priority", 0))
        return original(client, request, **options)

    async def theirs_awaited(client: Any, request: Any, **options: Any) -> Any:
        given.append(options.pop("priority", 0))
        return await original(client, request, **options)

    monkeypatch.setattr(kind, "send", theirs if sync else theirs_awaited)
    attach()
    client = kind(base_url=server.url, trust_env=False)
    asked = client.build_request("GET", "/")
    if sync:
        answers = [client.send(asked), client.send(asked, priority=7)]
        client.close()
    else:
        answers = [await client.send(asked), await client.send(asked, priority=7)]
        await client.aclose()

    assert [answer.text for answer in answers] == ["hello", "hello"]
    assert given == [0, 7]
    assert read(catalogue.CLIENT_QUEUE) == {(library.__name__,): 2}


@pytest.mark.usefixtures("contained_errors")
def test_a_send_of_another_kind_is_left_alone(library, server, monkeypatch, attach, read):
    """What we would pass on it could not take."""
    original = library.Client.send

    def other(client: Any, request: Any) -> Any:
        return original(client, request)

    monkeypatch.setattr(library.Client, "send", other)
    status = attach().status()
    with library.Client(base_url=server.url, trust_env=False) as client:
        client.send(client.build_request("GET", "/"))

    assert library.Client.send is other
    assert "its send() does not take auth, follow_redirects, stream" in status
    assert read(catalogue.CLIENT_QUEUE) == {}


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("late", [True, False])
def test_a_pool_that_waits_in_another_way_is_not_told_as_one_that_never_waits(
    library, server, late, monkeypatch, attach, read
):
    """A number that may be wrong is left out, and said to be; requests go on."""
    core = importlib.import_module({"httpx": "httpcore", "httpx2": "httpcore2"}[library.__name__])
    queue = _queue_of(core.ConnectionPool.handle_request)
    monkeypatch.setattr(queue, "get_connection", queue.wait_for_connection, raising=False)
    monkeypatch.delattr(queue, "wait_for_connection")
    if late:
        monkeypatch.delitem(sys.modules, core.__name__)
    probes = attach()
    monkeypatch.setitem(sys.modules, core.__name__, core)
    transport = library.MockTransport(lambda _: library.Response(200))
    with request() as exchange, library.Client(transport=transport) as client:
        client.get(server.url)
        client.get(server.url)

    assert calls(exchange) == 2 if late else exchange.parts == {}
    assert "waits for a connection" in probes.status()
    assert read(catalogue.CLIENT_QUEUE) == {}


@pytest.mark.anyio
@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("late", [True, False])
async def test_a_pool_that_hides_its_times_does_not_tell_them(
    library, server, late, monkeypatch, attach, read
):
    """The status says which; all else is told."""
    core = importlib.import_module({"httpx": "httpcore", "httpx2": "httpcore2"}[library.__name__])
    body = _kind_beside(core.AsyncConnectionPool.handle_async_request, "__aiter__", "aclose")
    monkeypatch.setattr(body, "__module__", "elsewhere")
    for kind in (core.HTTPConnection, core.AsyncHTTPConnection):
        monkeypatch.setattr(kind, "open_it", kind._connect, raising=False)
        monkeypatch.delattr(kind, "_connect")
        monkeypatch.setattr(kind, "__getattr__", opened_otherwise, raising=False)
    if late:
        monkeypatch.delitem(sys.modules, core.__name__)
    probes = attach()
    monkeypatch.setitem(sys.modules, core.__name__, core)
    async with asynchronous(library, server) as client:
        await client.get("/")
        told = probes.status()

    assert read(catalogue.CLIENT_QUEUE) == {(library.__name__,): 1}
    assert read(catalogue.CLIENT_USE) == read(catalogue.CLIENT_CREATE) == {}
    assert f"{library.__name__}: this release hides some of its times: create, use." in told


def opened_otherwise(connection: Any, name: str) -> Any:
    """Its opening has another name."""
    if name == "_connect":
        return connection.open_it
    raise AttributeError(name)


class TestContract(ClientContract):
    """httpx, from tasks."""

    row = ("httpx", ".httpx")
    packages = ("httpx", "httpcore")

    @property
    def library(self) -> Any:
        return importlib.import_module(self.row[0])

    @property
    def gives_up(self) -> Any:
        return self.library.PoolTimeout

    def made(self, place: str) -> Any:
        limits = self.library.Limits(max_connections=1)
        return self.library.AsyncClient(base_url=place, limits=limits, trust_env=False)

    async def get(self, it: Any, path: str, *, within: float | None = None) -> int:
        answer = await it.get(path, timeout=self.library.Timeout(30, pool=within))
        return int(answer.status_code)


class TestSyncContract(TestContract):
    """httpx, from threads."""

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        limits = self.library.Limits(max_connections=1)
        with self.library.Client(base_url=place, limits=limits, trust_env=False) as client:
            yield client

    async def get(self, it: Any, path: str, *, within: float | None = None) -> int:
        timeout = self.library.Timeout(30, pool=within)
        return int((await run_in_threadpool(it.get, path, timeout=timeout)).status_code)


class TestContract2(TestContract):
    """httpx2, from tasks."""

    row = ("httpx2", ".httpx")
    packages = ("httpx2", "httpcore2")


class TestSyncContract2(TestSyncContract):
    """httpx2, from threads."""

    row = ("httpx2", ".httpx")
    packages = ("httpx2", "httpcore2")
