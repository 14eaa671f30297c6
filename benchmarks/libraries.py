"""Events of libraries that the probes see, one group for each library, in which they can be made to happen."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import repeat
from time import perf_counter
from typing import Any

import fastobs
from fastobs import catalogue
from fastobs._exchange import CURRENT
from fastobs._process import process
from fastobs.catalogue import Metric
from fastobs.probes._sites import call_site

from . import fresh, shop
from .least import MadeOf, keep

__all__ = ["GROUPS", "PIECES", "Beside", "Drive", "Event", "Group", "idle"]

ADD, OBSERVE, CLOCK, ASK, FIND, KEEP, LINE = PIECES = (
    "a counter's row: `add()`",
    "a histogram's row: `observe()`",
    "the clock: `perf_counter()`",
    "whose request it is: `CURRENT.get()`",
    "whose event it is: a dict by `id()`",
    "who has a connection: an object, kept and dropped",
    "the app's line: `call_site()`, one function of a package away",
)
"""What numbers are made with; no events themselves."""

HIT = (
    "to tell a hit from a miss, which is known when the answer is there, and so takes a coroutine around "
    "the library's"
)
HELD = (
    "the time that was waited, the time of use, and the line of the app that holds a connection for long; "
    "with them who has the oldest one"
)
DECORATES = "what is decided for functions that it decorates, which takes another hook within"
"""What would have to go for the budget, where that is the same for several."""

Drive = Callable[[int], Awaitable[None]]
"""Makes the event happen so many times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a probe sees.

    Attributes:
        title: For the table.
        drive: Makes it happen.
        metric: Grows by it, in a request at the latest.
        plain: What the app would do without us; by default the same, with the probes detached.
        sql: Whether it has the budget of a statement.
        count: Events that it consists of, each with a budget of its own.
        made_of: What it is told by, if it is seen by hooks.
        without: What would have to go for the budget.
    """

    title: str
    drive: Drive
    metric: Metric | None
    plain: Drive | None = None
    sql: bool = False
    count: int = 1
    made_of: MadeOf | None = None
    without: str = ""


class Beside:
    """What is done after each call of a function that is driven; None if nothing is."""

    pieces: Callable[[], object] | None = None


def calling(call: Callable[[], object]) -> Drive:
    """Drives a function."""

    async def drive(times: int) -> None:
        if (pieces := Beside.pieces) is None:
            for _ in repeat(None, times):
                call()
        else:
            for _ in repeat(None, times):
                call()
                pieces()

    return drive


def awaiting(call: Callable[[], Awaitable[object]]) -> Drive:
    """Drives a coroutine function."""

    async def drive(times: int) -> None:
        if (pieces := Beside.pieces) is None:
            for _ in repeat(None, times):
                await call()
        else:
            for _ in repeat(None, times):
                await call()
                pieces()

    return drive


async def idle(times: int) -> None:
    """Drives nothing: the loop of the others."""
    for _ in repeat(None, times):
        pass


@asynccontextmanager
async def functools() -> AsyncIterator[list[Event]]:
    cached = lru_cache(lambda: 1)
    fastobs.watch(cached, name="bench")
    yield [
        Event(
            title="functools: a hit of `lru_cache`",
            drive=calling(cached),
            metric=catalogue.CACHE_REQUESTS,
        )
    ]


@asynccontextmanager
async def cachetools() -> AsyncIterator[list[Event]]:
    from cachetools import LRUCache, TTLCache, cached

    cache: LRUCache[Any, int] = LRUCache(100)
    expiring: TTLCache[Any, int] = TTLCache(100, ttl=3600)
    for one in (cache, expiring):
        fastobs.watch(one, name=type(one).__name__)
    yield [
        Event(
            title=f"cachetools: a hit of `@cached({type(one).__name__})`",
            drive=calling(cached(one)(lambda: 1)),
            metric=catalogue.CACHE_REQUESTS,
        )
        for one in (cache, expiring)
    ]


@asynccontextmanager
async def aiocache() -> AsyncIterator[list[Event]]:
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()
    await cache.set("key", 1)
    yield [
        Event(
            title="aiocache: a hit in memory",
            drive=awaiting(lambda: cache.get("key")),
            metric=catalogue.CACHE_REQUESTS,
            made_of=MadeOf(adds=1, parts=1),
            without=HIT,
        )
    ]


@asynccontextmanager
async def cashews() -> AsyncIterator[list[Event]]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://")
    await cache.set("key", 1)
    yield [
        Event(
            title="cashews: a hit in memory",
            drive=awaiting(lambda: cache.get("key")),
            metric=catalogue.CACHE_REQUESTS,
            made_of=MadeOf(adds=1, parts=1),
            without=HIT,
        )
    ]


@asynccontextmanager
async def dogpile() -> AsyncIterator[list[Event]]:
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory")
    region.set("key", 1)
    yield [
        Event(
            title="dogpile.cache: a hit in memory",
            drive=calling(lambda: region.get("key")),
            metric=catalogue.CACHE_REQUESTS,
            made_of=MadeOf(adds=1, parts=1),
        )
    ]


@asynccontextmanager
async def fastapi_cache() -> AsyncIterator[list[Event]]:
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.inmemory import InMemoryBackend

    FastAPICache.init(InMemoryBackend())
    await FastAPICache.get_backend().set("key", b"1", 3600)
    yield [
        Event(
            title="fastapi-cache2: a hit in memory",
            drive=awaiting(lambda: FastAPICache.get_backend().get_with_ttl("key")),
            metric=catalogue.CACHE_REQUESTS,
            made_of=MadeOf(adds=1, parts=1),
            without=HIT,
        )
    ]


@asynccontextmanager
async def limits() -> AsyncIterator[list[Event]]:
    from limits import parse
    from limits.aio import strategies as aio
    from limits.aio.storage import MemoryStorage as AwaitedStorage
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    limiter = FixedWindowRateLimiter(MemoryStorage())
    awaited = aio.FixedWindowRateLimiter(AwaitedStorage())
    limit = parse("1000000000/day")
    yield [
        Event(
            title="limits: a decision, memory storage",
            drive=calling(lambda: limiter.hit(limit, "somebody")),
            metric=catalogue.LIMIT_DECISIONS,
            made_of=MadeOf(adds=1),
        ),
        Event(
            title="limits, awaited: a decision, memory storage",
            drive=awaiting(lambda: awaited.hit(limit, "somebody")),
            metric=catalogue.LIMIT_DECISIONS,
            made_of=MadeOf(adds=1),
        ),
    ]


@asynccontextmanager
async def pyrate_limiter() -> AsyncIterator[list[Event]]:
    from pyrate_limiter import InMemoryBucket, Limiter, Rate

    limiter = Limiter(InMemoryBucket([Rate(1_000, 1)]))
    yield [
        Event(
            title="pyrate-limiter: a decision in memory",
            drive=calling(lambda: limiter.try_acquire("somebody")),
            metric=catalogue.LIMIT_DECISIONS,
            made_of=MadeOf(adds=1),
            without=DECORATES,
        ),
        Event(
            title="pyrate-limiter, awaited: a decision in memory",
            drive=awaiting(lambda: limiter.try_acquire_async("somebody")),
            metric=catalogue.LIMIT_DECISIONS,
            made_of=MadeOf(adds=1),
            without=DECORATES,
        ),
    ]


@asynccontextmanager
async def hand() -> AsyncIterator[list[Event]]:
    cache, limiter = fastobs.cache("bench"), fastobs.limiter("bench")
    store = {"key": 1}
    part = fastobs.section("bench")

    async def measured(times: int) -> None:
        for _ in repeat(None, times):
            with part:
                pass

    yield [
        Event(
            title="`fastobs.cache()`: a look-up",
            drive=calling(lambda: cache(store.get("key"))),
            plain=calling(lambda: store.get("key")),
            metric=catalogue.CACHE_REQUESTS,
        ),
        Event(
            title="`fastobs.limiter()`: a decision",
            drive=calling(lambda: limiter.decision(True, limit="5 per minute")),
            plain=calling(lambda: True),
            metric=catalogue.LIMIT_DECISIONS,
        ),
        Event(
            title="`fastobs.section()`: begin and end",
            drive=measured,
            plain=idle,
            metric=catalogue.HTTP_PART,
        ),
    ]


@asynccontextmanager
async def cells() -> AsyncIterator[list[Event]]:
    meters = process().meters
    counter = meters.counter(catalogue.CACHE_REQUESTS, "bench", "hit")
    histogram = meters.histogram(catalogue.CACHE_LOAD, "bench")
    rows = {id(counter): counter}

    async def find(times: int) -> None:
        for _ in repeat(None, times):
            rows[id(counter)]

    def from_a_package(call: Callable[[], object]) -> Drive:
        # Frames are made for each call, as those of an app and of a library are.
        names: dict[str, Any] = {"call": call}
        exec(compile("def ask(): call()", "/site-packages/package.py", "exec"), names)

        def line() -> None:
            names["ask"]()

        return calling(line)

    yield [
        Event(
            title=ADD,
            drive=calling(counter.add),
            plain=idle,
            metric=catalogue.CACHE_REQUESTS,
        ),
        Event(
            title=OBSERVE,
            drive=calling(partial(histogram.observe, 0.02)),
            plain=idle,
            metric=catalogue.CACHE_LOAD,
        ),
        Event(title=CLOCK, drive=calling(perf_counter), plain=idle, metric=None),
        Event(title=ASK, drive=calling(CURRENT.get), plain=idle, metric=None),
        Event(title=FIND, drive=find, plain=idle, metric=None),
        Event(title=KEEP, drive=calling(partial(keep, {}, counter)), plain=idle, metric=None),
        Event(title=LINE, drive=from_a_package(call_site), plain=from_a_package(dict), metric=None),
    ]


@asynccontextmanager
async def sqlalchemy() -> AsyncIterator[list[Event]]:
    from sqlalchemy import Engine, QueuePool, create_engine, text

    engine, bare = (create_engine("sqlite://", poolclass=QueuePool) for _ in range(2))
    # Who has had listeners goes on looking for them after they are gone: that is part of what the
    # hooks cost, and an engine without us does not do it.
    vars(bare)["_has_events"] = vars(bare.dialect)["_has_events"] = False
    statement = text("SELECT 1")

    async def execute(on: Engine, times: int) -> None:
        with on.connect() as connection:
            await calling(partial(connection.execute, statement))(times)

    yield [
        Event(
            title="SQLAlchemy: checkout and checkin (two events)",
            drive=calling(lambda: engine.raw_connection().close()),
            metric=catalogue.POOL_USE,
            count=2,
            made_of=MadeOf(observes=2, clocks=3, keeps=1, lines=1, parts=1),
            without=HELD,
        ),
        Event(
            title="SQLAlchemy: a statement, SQLite in memory",
            drive=partial(execute, engine),
            plain=partial(execute, bare),
            metric=catalogue.DB_DURATION,
            sql=True,
            made_of=MadeOf(observes=1, clocks=2, parts=1),
        ),
    ]
    engine.dispose()
    bare.dispose()


@asynccontextmanager
async def psycopg_pool() -> AsyncIterator[list[Event]]:
    from psycopg_pool import ConnectionPool

    from tests.parts import stores

    with stores.postgresql() as server, ConnectionPool(server.url(), min_size=1, open=True) as pool:
        pool.wait()
        yield [
            Event(
                title="psycopg_pool: checkout and checkin (two events)",
                drive=calling(lambda: pool.putconn(pool.getconn())),
                metric=catalogue.POOL_USE,
                count=2,
                made_of=MadeOf(observes=2, clocks=3, keeps=1, lines=1, parts=1),
                without=HELD,
            )
        ]


@asynccontextmanager
async def asyncpg() -> AsyncIterator[list[Event]]:
    from asyncpg import create_pool

    from tests.parts import stores

    async def nothing(_: object) -> None:
        """Instead of a statement, whose way to the server and back is what varies."""

    with stores.postgresql() as server:
        async with create_pool(server.url(), min_size=1, max_size=1, reset=nothing) as pool:

            async def hold() -> None:
                await pool.release(await pool.acquire())

            yield [
                Event(
                    title="asyncpg: checkout and checkin (two events)",
                    drive=awaiting(hold),
                    metric=catalogue.POOL_USE,
                    count=2,
                    made_of=MadeOf(observes=2, clocks=3, keeps=1, lines=1, parts=1),
                    without=HELD,
                )
            ]


@asynccontextmanager
async def redis() -> AsyncIterator[list[Event]]:
    from redis import Redis

    from tests.parts import stores

    from . import wires

    with (
        stores.redis() as server,
        Redis.from_url(server.url) as client,
        wires.redis_client() as wired,
    ):
        client.set("key", "value")
        yield [
            Event(
                title=f"redis: a GET (four events){how}",
                drive=calling(partial(one.get, "key")),
                metric=catalogue.DB_DURATION,
                count=4,
                made_of=MadeOf(adds=1, observes=3, clocks=5, finds=3, keeps=1, parts=1),
                without=(
                    "three of the four: the time that was waited and the time of use, with them who has "
                    "the oldest connection, and the cache that is recognised by its replies"
                ),
            )
            for one, how in ((wired, ", no socket"), (client, ""))
        ]


@asynccontextmanager
async def httpx() -> AsyncIterator[list[Event]]:
    from httpx import Client

    from . import wires

    with _served() as url, Client(timeout=30) as client, wires.http_client() as wired:
        yield [
            Event(
                title=f"httpx: a request (three events){how}",
                drive=calling(partial(one.get, url)),
                metric=catalogue.CLIENT_USE,
                count=3,
                # Who gets a connection at once has waited 0 seconds, without a clock.
                made_of=MadeOf(adds=1, observes=1, clocks=2, parts=1),
                without=(
                    "the time in the queue for a connection and the time of use, which take hooks around the "
                    "client, its pool, the wait there and the answer, and with them upstream 429s"
                ),
            )
            for one, how in ((wired, ", no socket"), (client, " to a local server"))
        ]


@contextmanager
def _served() -> Iterator[str]:
    """The shop, in a process of its own: its CPU time is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "benchmarks.load", "bare", str(listener.fileno())]
        server = subprocess.Popen(command, cwd=fresh.HERE, pass_fds=[listener.fileno()])
        try:
            # The socket listens already: the first request waits until the server is ready.
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{shop.PATH}"
        finally:
            server.terminate()
            server.wait(timeout=10)


Group = Callable[[], AbstractAsyncContextManager[list[Event]]]

GROUPS: dict[str, Group] = {
    group.__name__: group
    for group in (
        functools,
        cachetools,
        aiocache,
        cashews,
        dogpile,
        fastapi_cache,
        limits,
        pyrate_limiter,
        hand,
        cells,
        sqlalchemy,
        psycopg_pool,
        asyncpg,
        redis,
        httpx,
    )
}
"""What is measured in processes of its own."""
