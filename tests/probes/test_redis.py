"""Pools and commands of redis-py, on a real server."""

from __future__ import annotations

import asyncio
import gc
import inspect
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import redis
from fastapi import FastAPI
from redis import asyncio as aio
from redis.connection import AbstractConnection
from starlette.concurrency import run_in_threadpool

from fastobs import _exchange, catalogue, watch
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.probes import _operations
from fastobs.probes._replies import OBSERVERS
from fastobs.probes.redis import RedisProbe
from tests.driving import Clock, scope
from tests.parts import PATIENCE
from tests.probes.contract import SECRET, PoolContract
from tests.probes.turns import STEP, take_turns
from tests.probes.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]

ASKED = ("PING",) if redis.VERSION < (5, 3) else ()
"""What a pool wants to be told by who asks for a connection."""

PATIENT = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
"""On a busy machine redis-py would open a connection again after five seconds, and be right."""

SYNC = [redis.ConnectionPool, redis.BlockingConnectionPool]
ASYNC = [aio.ConnectionPool, aio.BlockingConnectionPool]


@contextmanager
def client_of(url: str, kind: Any = redis.BlockingConnectionPool, **options: Any) -> Iterator[Any]:
    """A client of a pool with room for one connection."""
    chosen = {"max_connections": 1, "client_name": "small", **PATIENT, **options}
    client = redis.Redis.from_pool(kind.from_url(url, **chosen))
    yield client
    client.close()


@asynccontextmanager
async def async_client_of(
    url: str, kind: Any = aio.BlockingConnectionPool, **options: Any
) -> AsyncIterator[Any]:
    chosen = {"max_connections": 1, "client_name": "small", **PATIENT, **options}
    client = aio.Redis.from_pool(kind.from_url(url, **chosen))
    yield client
    await client.aclose()


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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What an observer is told: the name for which it is there, and the rest."""
    told: list[Any] = []
    for name in ("GET", "SET", "LPUSH", "PING", "NOSUCH", "WATCH"):
        monkeypatch.setitem(OBSERVERS, name, lambda *args, name=name: told.append((name, *args)))
    return told


def total(meters: Meters, metric: catalogue.Metric, label: str) -> float:
    rows = [row for row in meters.rows(metric) if label in row.values]
    return sum(row.sum for row in rows if isinstance(row, Histogram))


class Served:
    """Three commands that have the connection until the server has something for them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._given = 0

    def go_on(self) -> None:
        self._client.rpush("queue", "something")
        self._given += 1

    def has(self, number: int) -> bool:
        blocked = self._client.info("clients")["blocked_clients"]
        return self._given == number - 1 and blocked == 1


def check_waits(exchanges: list[Exchange], meters: Meters, read: Read) -> None:
    """The second waited for the first and the third for both; that is none of the commands' time."""
    waited = [exchange.parts.get("pool_wait", 0.0) for exchange in exchanges]

    assert waited == pytest.approx([0, STEP, 2 * STEP])
    assert [exchange.parts["cache"] for exchange in exchanges] == pytest.approx([STEP] * 3)
    assert total(meters, catalogue.POOL_WAIT, "small") == pytest.approx(sum(waited))
    assert total(meters, catalogue.POOL_USE, "small") == pytest.approx(3 * STEP)
    assert total(meters, catalogue.DB_DURATION, "BLPOP") == pytest.approx(3 * STEP)
    assert read(catalogue.DB_DURATION)["redis", "BLPOP", ""] == 3
    assert read(catalogue.POOL_WAIT)["small",] == 3
    assert read(catalogue.POOL_CREATE)["small",] == 1
    assert read(catalogue.POOL_PENDING)["small",] == 0
    assert read(catalogue.POOL_MAX)["small",] == 1


async def test_three_commands_through_one_connection_wait_for_each_other(
    redis_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """The connection is opened once; the waits are those of the two that came too late."""
    async with async_client_of(redis_url) as client:
        with client_of(redis_url, client_name="other") as other:
            exchanges = await take_turns(
                lambda: client.blpop(["queue"]), turns=Served(other), clock=clock, read=read
            )

        check_waits(exchanges, meters, read)


async def test_three_commands_of_def_endpoints_wait_for_each_other(
    redis_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """The same from threads."""
    with client_of(redis_url) as client, client_of(redis_url, client_name="other") as other:
        exchanges = await take_turns(
            lambda: run_in_threadpool(client.blpop, ["queue"]),
            turns=Served(other),
            clock=clock,
            read=read,
        )

        check_waits(exchanges, meters, read)


def test_a_thread_gives_up(redis_url: str, probes: Any, read: Read) -> None:
    """A sync timeout is the same; the command was never sent, and took no time."""
    with client_of(redis_url, timeout=0.01) as client:
        held = client.connection_pool.get_connection(*ASKED)
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        client.connection_pool.release(held)

    assert read(catalogue.POOL_TIMEOUTS) == {("small",): 1}
    assert read(catalogue.POOL_PENDING) == {("small",): 0}
    assert read(catalogue.POOL_COUNT)["small", "used"] == 0
    assert read(catalogue.DB_DURATION) == {("redis", "GET", "redis.exceptions.ConnectionError"): 1}


async def test_a_pool_that_does_not_block_has_no_timeouts(
    redis_url: str, probes: Any, read: Read
) -> None:
    """It refuses at once, which is an error of the command."""
    async with async_client_of(redis_url, aio.ConnectionPool) as client:
        held = await client.connection_pool.get_connection(*ASKED)
        # By which kind of it depends on the release.
        with pytest.raises(redis.ConnectionError) as refused:
            await client.get("key")
        await client.connection_pool.release(held)

        error = f"redis.exceptions.{refused.type.__name__}"
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 0}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.DB_DURATION) == {("redis", "GET", error): 1}


@pytest.mark.parametrize("kind", SYNC)
def test_every_sync_pool_is_counted(kind, redis_url, probes, read) -> None:
    """A connection is used until it is given back, and idle after that; opened once."""
    with client_of(redis_url, kind) as client:
        connection = client.connection_pool.get_connection(*ASKED)
        during = read(catalogue.POOL_COUNT)
        client.connection_pool.release(connection)
        client.ping()

        assert during == {("small", "used"): 1, ("small", "idle"): 0}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.POOL_CREATE) == {("small",): 1}
        assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 2}
        client.close()
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}


@pytest.mark.parametrize("kind", ASYNC)
async def test_every_async_pool_is_counted(kind, redis_url, probes, read) -> None:
    """The same with await."""
    async with async_client_of(redis_url, kind) as client:
        connection = await client.connection_pool.get_connection(*ASKED)
        during = read(catalogue.POOL_COUNT)
        await client.connection_pool.release(connection)
        await client.ping()

        assert during == {("small", "used"): 1, ("small", "idle"): 0}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.POOL_CREATE) == {("small",): 1}
        assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 2}
        await client.aclose()
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}


@pytest.mark.parametrize("kind", SYNC)
def test_a_server_that_is_not_there_leaves_nothing_behind(kind, unused, probes, read) -> None:
    """Neither used nor idle, nor opened; it was no timeout of the pool either."""
    with client_of(f"redis://127.0.0.1:{unused}", kind, retry=None) as client:
        with pytest.raises(redis.ConnectionError):
            client.ping()

        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}
        assert read(catalogue.POOL_PENDING) == {("small",): 0}
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 0}
        assert read(catalogue.POOL_CREATE) == {("small",): 0}


@pytest.mark.parametrize("kind", ASYNC)
async def test_a_server_that_is_not_there_leaves_nothing_behind_async(
    kind, unused, probes, read
) -> None:
    """The same with await."""
    async with async_client_of(f"redis://127.0.0.1:{unused}", kind, retry=None) as client:
        with pytest.raises(redis.ConnectionError):
            await client.ping()

        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 0}
        assert read(catalogue.POOL_PENDING) == {("small",): 0}
        assert read(catalogue.POOL_TIMEOUTS) == {("small",): 0}
        assert read(catalogue.POOL_CREATE) == {("small",): 0}


@pytest.fixture
def unused() -> int:
    """A port that nobody listens at."""
    return 1


@pytest.mark.parametrize("kind", ASYNC)
async def test_a_server_that_hangs_up_leaves_nothing_behind(
    kind: Any, redis_url: str, redis_server: Any, probes: Any, read: Read
) -> None:
    """The lost connection is opened again, and both openings are counted."""
    async with async_client_of(redis_url, kind) as client:
        await client.ping()
        await asyncio.to_thread(redis_server.command, "CLIENT", "KILL", "TYPE", "normal")
        # Perhaps the pool notices, perhaps the command does.
        with suppress(redis.ConnectionError):
            await client.ping()
        await client.ping()

        # The client that hung up is one of this process, too.
        assert read(catalogue.POOL_COUNT)["small", "used"] == 0
        assert read(catalogue.POOL_COUNT)["small", "idle"] == 1
        assert read(catalogue.POOL_CREATE)["small",] == 2
        assert read(catalogue.POOL_USE)["small",] == 3


@pytest.mark.parametrize("kind", SYNC)
def test_a_connection_that_is_lost_while_it_is_out_is_opened_again(
    kind: Any, redis_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """Nobody asks the pool for it, and it is counted all the same."""
    with client_of(redis_url, kind) as client:
        client.ping()
        connection = client.connection_pool.get_connection(*ASKED)
        connection.disconnect()
        connection.connect()
        clock.now += STEP
        client.connection_pool.release(connection)

    assert read(catalogue.POOL_CREATE) == {("small",): 2}
    assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 2}
    assert total(meters, catalogue.POOL_USE, "small") == pytest.approx(STEP)


def test_a_connection_with_data_is_opened_again_by_its_pool(
    redis_url: str, probes: Any, read: Read
) -> None:
    """That is one call for it, and one wait."""
    with client_of(redis_url, redis.ConnectionPool, protocol=2) as client:
        connection = client.connection_pool.get_connection(*ASKED)
        connection.send_command("PING")
        client.connection_pool.release(connection)
        # It is there when nothing is left to be read but the reply.
        while not connection.can_read(PATIENCE):
            pass
        assert client.echo("one") == b"one"

    assert read(catalogue.POOL_CREATE) == read(catalogue.POOL_WAIT) == {("small",): 2}


@pytest.mark.parametrize("kind", ASYNC)
async def test_who_is_cancelled_while_a_connection_is_opened_leaves_nothing_behind(
    kind: Any, redis_url: str, probes: Any, read: Read
) -> None:
    """They waited for it, and then it was not opened."""
    opening = asyncio.Event()

    async def stuck(_: Any) -> None:
        opening.set()
        await asyncio.Event().wait()

    async with async_client_of(redis_url, kind, redis_connect_func=stuck) as client:
        watch(client)
        assert read(catalogue.POOL_WAIT) == {("small",): 0}
        task = asyncio.create_task(client.ping())
        async with asyncio.timeout(PATIENCE):
            await opening.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert read(catalogue.POOL_COUNT)["small", "used"] == 0
        assert read(catalogue.POOL_PENDING) == read(catalogue.POOL_CREATE) == {("small",): 0}
        assert read(catalogue.POOL_WAIT) == {("small",): 1}
        assert _redis(probes)._opened_in == {}


def _redis(probes: Any) -> RedisProbe:
    (probe,) = [each for each in probes._attached.values() if isinstance(each, RedisProbe)]
    return probe


@pytest.mark.parametrize("kind", SYNC)
@pytest.mark.parametrize("asked", SYNC)
def test_a_pool_that_is_asked_while_a_connection_is_opened_has_its_own_numbers(
    kind: Any, asked: Any, redis_url: str, clock: Clock, meters: Meters, read: Read
) -> None:
    """The password of one server is kept in another: the innermost call opens the connection."""
    with client_of(redis_url, asked, client_name="inner") as inner:

        class Kept(redis.CredentialProvider):
            def get_credentials(self) -> tuple[str, str]:
                clock.now += STEP
                inner.get("password")
                return "default", "anything"

        with client_of(redis_url, kind, credential_provider=Kept()) as client:
            # The first call gives a pool its name, and is not the usual one.
            for again in (False, True):
                client.ping()
                client.connection_pool.disconnect()
                inner.connection_pool.disconnect()
                assert again or read(catalogue.POOL_CREATE) == {("small",): 1, ("inner",): 1}

    assert read(catalogue.POOL_CREATE) == {("small",): 2, ("inner",): 2}
    assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 2, ("inner",): 2}
    assert total(meters, catalogue.POOL_CREATE, "small") == pytest.approx(2 * STEP)
    assert total(meters, catalogue.POOL_CREATE, "inner") == 0
    assert total(meters, catalogue.POOL_WAIT, "small") == 0


class Apart(aio.Connection):
    """It is connected in a task of its own."""

    async def connect(self) -> None:
        await asyncio.create_task(super().connect())


class Pool(aio.ConnectionPool):
    """It has its connections connected in a task of its own."""

    async def ensure_connection(self, connection: Any) -> None:
        await asyncio.create_task(super().ensure_connection(connection))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(each, {"connection_class": Apart}) for each in ASYNC] + [(Pool, {})],
)
async def test_a_connection_that_is_opened_in_a_task_of_its_own_is_counted(
    kind: Any, options: Any, redis_url: str, probes: Any, read: Read
) -> None:
    """And so is the wait before it."""
    async with async_client_of(redis_url, kind, **options) as client:
        for _ in range(3):
            await client.ping()

    assert read(catalogue.POOL_CREATE) == {("small",): 1}
    assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("small",): 3}
    assert read(catalogue.POOL_COUNT)["small", "used"] == 0


def test_a_pool_that_has_its_name_before_it_is_used_is_counted_from_its_first_connection(
    redis_url: str, probes: Any, read: Read
) -> None:
    """As one that is shown before, or is watched."""
    with client_of(redis_url, redis.ConnectionPool) as client:
        watch(client, name="shop")
        before = read(catalogue.POOL_COUNT)
        client.ping()

    assert before == {("shop", "used"): 0, ("shop", "idle"): 0}
    assert read(catalogue.POOL_CREATE) == read(catalogue.POOL_WAIT) == {("shop",): 1}


async def test_probes_may_go_while_a_connection_is_out(
    redis_url: str, attach: Any, read: Read
) -> None:
    """Of a pool that does not block, too: it is given back as always, and is forgotten."""
    async with async_client_of(redis_url, aio.ConnectionPool) as client:
        probes = attach()
        await client.ping()
        connection = await client.connection_pool.get_connection(*ASKED)
        probes.detach()
        await client.connection_pool.release(connection)
        attach()
        await client.ping()

        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0, ("small", "idle"): 1}
        assert read(catalogue.POOL_USE) == {("small",): 2}


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("name", ["_seen", "_lease_in", "_plain_call", "_waited", "_take_back"])
async def test_an_error_of_ours_stays_ours(
    name: str, redis_url: str, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is done for pools that do not block, too."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    with client_of(redis_url, redis.ConnectionPool) as client:
        async with async_client_of(redis_url, aio.ConnectionPool) as other:
            # What has no name yet goes another way.
            watch(client)
            watch(other)
            assert set(read(catalogue.POOL_PENDING)) == {("small",), ("small#2",)}
            monkeypatch.setattr(RedisProbe, name, broken)
            answers = [client.ping(), await other.ping()]
            answers += [client.ping(), await other.ping()]

    assert answers == [True] * 4
    assert _redis(probes)._opened_in == {}


def test_a_connection_of_nobodys_pool_is_not_counted(
    redis_url: str, redis_server: Any, probes: Any, read: Read
) -> None:
    """Somebody made it by hand."""
    connection = redis.Connection(host="127.0.0.1", port=redis_server.port)
    connection.connect()
    connection.disconnect()

    assert read(catalogue.POOL_CREATE) == {}


def test_a_forgotten_connection_stays_in_use_with_its_route(redis_url, probes, read) -> None:
    """Its pool keeps it, so it is no leak that could be counted; it goes with the pool."""
    with client_of(redis_url, redis.ConnectionPool) as client:
        with request("/leaky"):
            client.connection_pool.get_connection(*ASKED).disconnect()
        gc.collect()
        ages = read(catalogue.POOL_OLDEST)
        during = read(catalogue.POOL_COUNT)
    del client
    gc.collect()

    assert ages.keys() == {("small", "/leaky")}
    assert during == {("small", "used"): 1, ("small", "idle"): 0}
    assert read(catalogue.POOL_OLDEST) == read(catalogue.POOL_COUNT) == {}
    assert read(catalogue.POOL_LEAKED) == {}


def test_what_is_given_to_another_pool_stays_out(redis_url, probes, read) -> None:
    """The other pool does not know it."""
    with (
        client_of(redis_url, redis.ConnectionPool) as client,
        client_of(redis_url, redis.ConnectionPool, client_name="other") as other,
    ):
        client.ping()
        connection = client.connection_pool.get_connection(*ASKED)
        other.connection_pool.release(connection)
        watch(other)
        during = read(catalogue.POOL_COUNT)["small", "used"]
        client.connection_pool.release(connection)

        assert during == 1
        assert read(catalogue.POOL_COUNT)["small", "used"] == 0


@pytest.mark.parametrize("kind", SYNC)
def test_a_connection_that_connects_in_a_way_of_its_own_gives_no_waits(
    kind: Any, redis_url: str, probes: Any, read: Read
) -> None:
    """They could not be told from connecting; what is used still can."""
    unhooked = inspect.unwrap(AbstractConnection.connect)
    other: Any

    class Own(redis.Connection):
        def connect(self) -> None:
            # What is connected meanwhile is another pool's.
            other.ping()
            unhooked(self)

    with (
        client_of(redis_url, redis.ConnectionPool, client_name="other") as other,
        client_of(redis_url, kind, connection_class=Own) as client,
    ):
        client.ping()
        client.ping()

    assert read(catalogue.POOL_WAIT) == {("small",): 0, ("other",): 2}
    assert read(catalogue.POOL_CREATE) == {("small",): 0, ("other",): 1}
    assert read(catalogue.POOL_USE) == {("small",): 2, ("other",): 2}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("get", "key"), "GET"),
        ((b"GET", "key"), "GET"),
        (("CONFIG GET", "maxmemory"), "CONFIG"),
        (("GET key",), "GET"),
    ],
)
def test_commands_are_timed_by_name(command, name, redis_url, probes, read) -> None:
    """The label is the first word, whatever follows it."""
    with client_of(redis_url) as client:
        client.execute_command(*command)

    assert read(catalogue.DB_DURATION) == {("redis", name, ""): 1}


@pytest.mark.parametrize("command", ["no-such/command", "\N{SNOWMAN}"])
def test_what_looks_like_no_command_is_no_label(command, redis_url, probes, read) -> None:
    """It is counted under _OTHER, with its error."""
    with client_of(redis_url) as client, pytest.raises(redis.RedisError):
        client.execute_command(command)

    ((system, name, error),) = read(catalogue.DB_DURATION)
    assert (system, name) == ("redis", "_OTHER")
    assert error.startswith("redis.exceptions.")


def test_an_app_that_makes_up_commands_makes_no_series(
    redis_url: str, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many names, further ones are _OTHER."""
    monkeypatch.setattr(_operations, "NAMES", 1)
    with client_of(redis_url) as client:
        for name in ("PING", "TIME", "TIME", "PING"):
            client.execute_command(name)

    assert read(catalogue.DB_DURATION) == {("redis", "PING", ""): 2, ("redis", "_OTHER", ""): 2}


async def test_a_command_that_is_cancelled_is_timed(
    redis_url: str, redis_server: Any, probes: Any, read: Read
) -> None:
    """It ended with an error of its own, and its connection is not in use any more."""
    async with async_client_of(redis_url) as client:
        task = asyncio.create_task(client.blpop(["nothing"], timeout=30))
        async with asyncio.timeout(PATIENCE):
            while not (await asyncio.to_thread(redis_server.command, "INFO"))["blocked_clients"]:
                assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        error = "asyncio.exceptions.CancelledError"
        assert read(catalogue.DB_DURATION)["redis", "BLPOP", error] == 1
        assert read(catalogue.POOL_COUNT)["small", "used"] == 0


def test_a_pipeline_is_one_operation(redis_url: str, probes: Any, read: Read, told: Any) -> None:
    """What it is made of is told to observers; one that is empty sends nothing."""
    with client_of(redis_url, decode_responses=True) as client:
        with client.pipeline() as pipeline:
            pipeline.execute()
            pipeline.set("a", "1").get("a").execute()
        with client.pipeline(transaction=False) as pipeline:
            replies = pipeline.lpush("a", "1").get("a").execute(raise_on_error=False)

    assert read(catalogue.DB_DURATION) == {("redis", "PIPELINE", ""): 2}
    assert isinstance(replies[0], redis.ResponseError)
    assert [(name, args[1]) for name, args, _, _ in told] == [
        ("SET", "a"),
        ("GET", "a"),
        ("LPUSH", "a"),
        ("GET", "a"),
    ]
    assert [reply for _, _, reply, _ in told] == [True, "1", *replies]
    assert all(took > 0 for *_, took in told)


def test_a_pipeline_that_fails_is_timed_with_its_error(redis_url, probes, read, told) -> None:
    """Every command of it is told the error."""
    with client_of(redis_url) as client, client.pipeline() as pipeline:
        pipeline.set("a", "1").lpush("a", "1")
        with pytest.raises(redis.ResponseError) as raised:
            pipeline.execute()

    error = "redis.exceptions.ResponseError"
    assert read(catalogue.DB_DURATION) == {("redis", "PIPELINE", error): 1}
    assert [reply for _, _, reply, _ in told] == [raised.value, raised.value]


async def test_async_pipelines_are_operations_too(redis_url, probes, read, told) -> None:
    """What is asked at once, before it collects, is a command of its own."""
    async with async_client_of(redis_url) as client:
        async with client.pipeline() as pipeline:
            await pipeline.watch("a")
            await pipeline.get("a")
            pipeline.multi()
            pipeline.set("a", "1")
            await pipeline.execute()
        async with client.pipeline() as pipeline:
            pipeline.lpush("a", "1")
            with pytest.raises(redis.ResponseError):
                await pipeline.execute()

    assert read(catalogue.DB_DURATION) == {
        ("redis", "WATCH", ""): 1,
        ("redis", "GET", ""): 1,
        ("redis", "PIPELINE", ""): 1,
        ("redis", "PIPELINE", "redis.exceptions.ResponseError"): 1,
    }
    assert [name for name, *_ in told] == ["WATCH", "GET", "SET", "LPUSH"]


def test_a_watching_pipeline_asks_at_once(redis_url, probes, read) -> None:
    """The same from a thread."""
    with client_of(redis_url) as client, client.pipeline() as pipeline:
        pipeline.watch("a")
        pipeline.get("a")
        pipeline.multi()
        pipeline.set("a", "1").execute()

    assert {name for _, name, _ in read(catalogue.DB_DURATION)} == {"WATCH", "GET", "PIPELINE"}


async def test_observers_are_told_of_commands_by_name(redis_url, probes, read, told) -> None:
    """Command, reply or error, and how long it took without the wait."""
    async with async_client_of(redis_url) as client:
        await client.get("key")
        await client.ping()
        await client.exists("key")
        with pytest.raises(redis.ResponseError) as raised:
            await client.execute_command("NOSUCH", "x")

    assert [entry[:3] for entry in told] == [
        ("GET", ("GET", "key"), None),
        ("PING", ("PING",), True),
        ("NOSUCH", ("NOSUCH", "x"), raised.value),
    ]


async def test_names_come_from_the_most_telling_source(
    redis_url: str, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """watch() over the client's own name over the variable over host, port and database."""
    module = __import__(__name__, fromlist=["x"])
    connect = partial(redis.Redis.from_url, redis_url, max_connections=100)
    clients = {
        "watched": connect(client_name="own"),
        "own": connect(client_name="own"),
        "variable": connect(),
        "local": connect(socket_timeout=5),
    }
    watch(clients["watched"], name="watched")
    monkeypatch.setattr(module, "a_variable", clients["variable"], raising=False)
    for client in clients.values():
        client.ping()
    watch(clients["local"].connection_pool)
    before = {name for (name,) in read(catalogue.POOL_MAX)}
    watch(clients["local"], name="renamed")
    watch(clients["local"], name="renamed")

    described = "redis:" + redis_url.removeprefix("redis://")
    assert before == {"watched", "own", f"{__name__}.a_variable", described}
    assert ("renamed",) in read(catalogue.POOL_MAX)
    assert "renamed: Redis ConnectionPool, at most 100 connections" in probes.status()
    for client in clients.values():
        client.close()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://me:secret@db.internal/2", "redis:db.internal:6379/2"),
        ("rediss://:secret@db.internal:6380", "redis:db.internal:6380/0"),
        ("unix://me:secret@/run/redis.sock?db=1", "redis:redis.sock/1"),
    ],
)
def test_an_address_has_no_credentials(url, name, probes, read) -> None:
    """Of what a client connects with only host, port and database are told."""
    client = redis.Redis.from_url(url, max_connections=100)
    watch(client)

    assert read(catalogue.POOL_MAX) == {(name,): 100}


def test_a_pool_without_a_limit_shows_none(redis_url, probes, read) -> None:
    """Earlier releases say 2 ** 31 for it."""
    with client_of(redis_url, redis.ConnectionPool, max_connections=2**31) as client:
        client.ping()

        assert read(catalogue.POOL_MAX) == {}
        assert "small: Redis ConnectionPool, no limit" in probes.status()


def test_what_a_queue_hides_is_unknown(redis_url, probes, read) -> None:
    """A queue of the app's own that cannot be looked into: the others are right."""

    class Closed:
        def __init__(self, size: int) -> None:
            self._inner: queue.LifoQueue[Any] = queue.LifoQueue(size)

        def __getattr__(self, name: str) -> Any:
            if name == "queue":
                raise AttributeError(name)
            return getattr(self._inner, name)

    with client_of(redis_url, queue_class=Closed) as client:
        connection = client.connection_pool.get_connection(*ASKED)
        during = read(catalogue.POOL_COUNT)
        client.connection_pool.release(connection)

        assert during == {("small", "used"): 1}
        assert read(catalogue.POOL_COUNT) == {("small", "used"): 0}
        assert "small: its idle connections are unknown" in probes.status()


def test_a_pool_that_is_gone_is_not_shown(redis_url, probes, read) -> None:
    """Its gauges disappear with it; what was counted stays."""
    with client_of(redis_url) as client:
        client.ping()
    del client
    gc.collect()

    assert read(catalogue.POOL_MAX) == {}
    assert read(catalogue.POOL_WAIT) == {("small",): 1}


async def test_pending_is_who_waits_now(redis_url: str, probes: Any, read: Read) -> None:
    """Threads that wait are pending, and are none of the loop's business."""
    with client_of(redis_url) as client:
        held = client.connection_pool.get_connection(*ASKED)
        thread = threading.Thread(target=client.ping)
        thread.start()
        await until(lambda: read(catalogue.POOL_PENDING) == {("small",): 1})
        client.connection_pool.release(held)
        await run_in_threadpool(thread.join, PATIENCE)

        assert read(catalogue.POOL_PENDING) == {("small",): 0}


@pytest.mark.usefixtures("contained_errors")
def test_an_observer_that_fails_fails_alone(redis_url, probes, read, monkeypatch) -> None:
    """The command has its reply, and is counted."""
    for name in ("PING", "NOSUCH"):
        monkeypatch.setitem(OBSERVERS, name, lambda *_: 1 / 0)
    with client_of(redis_url) as client:
        assert client.ping()
        assert client.pipeline().ping().execute() == [True]
        with pytest.raises(redis.ResponseError):
            client.execute_command("NOSUCH")

    assert sum(read(catalogue.DB_DURATION).values()) == 3


class TestContract(PoolContract):
    """redis-py, from threads."""

    row = ("redis", ".redis")
    inner = ("_account", "_end", "_hand_out", "_take_back")
    gives_up = redis.ConnectionError
    tells = limited = False
    cancels = False

    @pytest.fixture
    def place(self, redis_url: str) -> str:
        # A user without a password takes any.
        return redis_url.replace("//", f"//default:{SECRET}@")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        pool = redis.BlockingConnectionPool.from_url(place, max_connections=1)
        yield pool
        pool.disconnect()

    async def use(self, it: Any) -> Any:
        client = redis.Redis(connection_pool=it)
        return await run_in_threadpool(client.set, SECRET, "value")

    async def fail(self, it: Any) -> None:
        await super().fail(it)
        with redis.Redis(connection_pool=it).pipeline() as pipeline:
            pipeline.lpush(SECRET, "value")
            with pytest.raises(redis.ResponseError):
                pipeline.execute()

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        it.timeout = within
        return await run_in_threadpool(it.get_connection, *ASKED)

    async def release(self, it: Any, connection: Any) -> None:
        await run_in_threadpool(it.release, connection)


class TestAsyncContract(TestContract):
    """redis-py, from tasks."""

    cancels = True

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        pool: Any = aio.BlockingConnectionPool.from_url(place, max_connections=1)
        yield pool
        await pool.disconnect()

    async def use(self, it: Any) -> Any:
        return await aio.Redis(connection_pool=it).set(SECRET, "value")

    async def fail(self, it: Any) -> None:
        await PoolContract.fail(self, it)
        async with aio.Redis(connection_pool=it).pipeline() as pipeline:
            pipeline.lpush(SECRET, "value")
            with pytest.raises(redis.ResponseError):
                await pipeline.execute()

    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        it.timeout = within
        return await it.get_connection(*ASKED)

    async def release(self, it: Any, connection: Any) -> None:
        await it.release(connection)
