"""`python -m benchmarks.events`: what one event costs, by probe, outside and inside a request.

Every group of events has fresh processes of its own, in which the library's adapter is attached and
detached again and again. The same calls are timed in both states, and the differences of neighbours
are kept.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial, partialmethod
from importlib.metadata import version
from inspect import Parameter, iscoroutinefunction, signature
from itertools import repeat
from math import floor
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

import fastobs
from fastobs import catalogue
from fastobs._exchange import CURRENT
from fastobs._process import process
from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.config import load
from fastobs.probes._sites import call_site
from tests.parts.programs import MissingPart

from . import driver, fresh, shop

__all__ = ["GROUPS", "time_events"]

OUTSIDE, INSIDE, SQL = 0.3, 3.0, 12.0
"""Microseconds that an event may cost."""

TRIES = 3
"""Times that each number is taken, of which the best one counts."""

FEWEST = 10
"""Requests of one try at least; of fewer, one that a neighbour held up is most of the number."""

LONG = 100
"""Microseconds. Of an event that takes longer, a neighbour hits most tries that have so many."""
OF_LONG = {"tries": 40, "requests": 2}
"""So these are shorter, and there are more of them."""

PER_REQUEST = 10
"""Events of one request; what its end costs for them is shared by so many."""

PACKAGES = (
    "fastobs",
    "starlette",
    "cachetools",
    "aiocache",
    "cashews",
    "dogpile.cache",
    "fastapi-cache2",
    "limits",
    "pyrate-limiter",
    "sqlalchemy",
    "psycopg-pool",
    "asyncpg",
    "redis",
    "httpx",
)

SECTIONS: dict[str, Any] = {"traces": None, "profiles": None, "slow": None, "runtime": None}
"""What does not look at events of libraries."""

METHOD = (
    "Microseconds of CPU. The same calls are timed with the library as the probes hook it and as it "
    f"is without them, in turn in one process, {TRIES} times of which the best counts, {OF_LONG['tries']} "
    f"shorter ones of an event that takes over {LONG} us; given are the medians of the paired differences, "
    "and between what they are with 95 % certainty. The garbage collector is off. What is not hooked but "
    "written into the app by hand is compared with the "
    f"code without it. Inside, a request has {PER_REQUEST} events, and what its end costs for them "
    "is in. Checkout and checkin are two events; a GET of redis-py is four: checkout, command, look-up "
    "of a cache, checkin. Each has its budget. Rows without a socket have a connection whose other end "
    "answers at once: they judge us, since a round trip through the kernel varies by more than what is "
    "looked for here. *The least* is what an adapter of this kind comes to if it does nothing but this: the "
    "same methods and events hooked with functions that only pass on, each with the arguments of the original "
    "(around a coroutine, one that awaits it), and the readings of the clock, the look-ups, the writes to rows, "
    "the app's line and, inside, the part of the request that the numbers consist of, each as it is measured "
    "here, where all of it is in the processor's caches. What holds them together is not in: comparisons, the "
    "containment of errors, exceptions. Where that is above the budget, Python does not allow it; what is over "
    "is told, not hidden."
)

ADD, OBSERVE, CLOCK, ASK, FIND, KEEP, LINE, PART = (
    "a counter's row: `add()`",
    "a histogram's row: `observe()`",
    "the clock: `perf_counter()`",
    "whose request it is: `CURRENT.get()`",
    "whose event it is: a dict by `id()`",
    "who has a connection: an object, kept and dropped",
    "the app's line: `call_site()`, one function of a package away",
    "`fastobs.section()`: begin and end",
)
"""What numbers are made with."""
PIECES = (ADD, OBSERVE, CLOCK, ASK, FIND, KEEP, LINE)
"""Those which are no events themselves."""

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

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Held:
    """What an adapter knows of a connection that is out."""

    account: object
    exchange: object
    proxy: object
    site: object
    since: float


Drive = Callable[[int], Awaitable[None]]
"""Makes the event happen so many times."""


class MadeOf(NamedTuple):
    """What is needed to tell of an event: how often, or how long it takes. Parts only in a request."""

    adds: float = 0
    observes: float = 0
    clocks: float = 0
    asks: float = 1
    finds: float = 1
    keeps: float = 0
    lines: float = 0
    parts: float = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an event costs; microseconds of CPU.

    Attributes:
        plain: Of the call without us, outside a request.
        outside: More with us, one number for each round.
        inside: The same within a request, a share of the request's end included.
        budgets: What it may cost outside and inside.
        empty: More with hooks that only pass on, outside.
        empty_inside: The same within a request.
        made_of: As of the event.
        without: As of the event.
    """

    title: str
    plain: float
    outside: list[float]
    inside: list[float]
    budgets: tuple[float, float]
    empty: list[float]
    empty_inside: list[float]
    made_of: MadeOf | None
    without: str


def calling(call: Callable[[], object]) -> Drive:
    """Drives a function."""

    async def drive(times: int) -> None:
        for _ in repeat(None, times):
            call()

    return drive


def awaiting(call: Callable[[], Awaitable[object]]) -> Drive:
    """Drives a coroutine function."""

    async def drive(times: int) -> None:
        for _ in repeat(None, times):
            await call()

    return drive


async def nothing(times: int) -> None:
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
            title=PART,
            drive=measured,
            plain=nothing,
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

    async def keep(times: int) -> None:
        kept: dict[int, Held] = {}
        for _ in repeat(None, times):
            key = id(held := Held())
            held.account = held.exchange = held.proxy = held.site = counter
            held.since = 0.0
            kept[key] = held
            del kept[key]

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
            plain=nothing,
            metric=catalogue.CACHE_REQUESTS,
        ),
        Event(
            title=OBSERVE,
            drive=calling(partial(histogram.observe, 0.02)),
            plain=nothing,
            metric=catalogue.CACHE_LOAD,
        ),
        Event(title=CLOCK, drive=calling(perf_counter), plain=nothing, metric=None),
        Event(title=ASK, drive=calling(CURRENT.get), plain=nothing, metric=None),
        Event(title=FIND, drive=find, plain=nothing, metric=None),
        Event(title=KEEP, drive=keep, plain=nothing, metric=None),
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
            for _ in repeat(None, times):
                connection.execute(statement)

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
                title=f"httpx: a request{how}",
                drive=calling(partial(one.get, url)),
                metric=catalogue.CLIENT_QUEUE,
                # Who gets a connection at once has waited 0 seconds, without a clock.
                made_of=MadeOf(adds=1, parts=1),
                without=(
                    "the time in the queue for a connection, which takes hooks around the client, its pool "
                    "and the wait there, and with it upstream 429s"
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


class Bench:
    """An observed app whose one endpoint does what is to be measured, and the probes' switch."""

    def __init__(self) -> None:
        self.drive: Drive = nothing
        self._app = Starlette(routes=[Route(shop.PATH, self._endpoint)])
        self._handle = fastobs.instrument(self._app, **SECTIONS)
        self._probes = process().probes

    def switch(self, state: str) -> None:
        """Have the probes see events, or hook the same with nothing, or leave the libraries alone."""
        self._probes.detach()
        if state == "on":
            self._probes.attach(load(None, SECTIONS))
        elif state == "empty":
            with _empty_hooks():
                self._probes.attach(load(None, SECTIONS))

    async def outside(self, drive: Drive, requests: int, tries: int = TRIES) -> float:
        """Microseconds of CPU per event, of as many as these requests would have."""
        events = requests * PER_REQUEST
        return await _took(drive, events, tries) / events

    async def inside(self, drive: Drive, requests: int, tries: int = TRIES) -> float:
        """The same with the requests."""
        self.drive = drive
        serve = partial(driver.drive, self._app, shop.PATH)
        return await _took(serve, requests, tries) / (requests * PER_REQUEST)

    def close(self) -> None:
        """Nothing is observed any more."""
        self._probes.detach()
        self._handle.uninstrument()

    async def _endpoint(self, _: object) -> Response:
        await self.drive(PER_REQUEST)
        return Response()


async def _took(drive: Drive, times: int, tries: int) -> float:
    """Microseconds of CPU, of the best of some tries: neighbours only ever make it longer."""
    # As timeit does: when the collector runs is chance.
    gc.collect()
    gc.disable()
    try:
        took = []
        for _ in range(tries):
            started = process_time()
            await drive(times)
            took.append((process_time() - started) * 1e6)
        return min(took)
    finally:
        gc.enable()


def time_events(group: str, *, rounds: int, milliseconds: float) -> list[dict[str, object]] | None:
    """Measure the events of a group in this process; None if a part of it is not installed."""
    try:
        return [asdict(cost) for cost in asyncio.run(_time(GROUPS[group], rounds, milliseconds))]
    except MissingPart as missing:
        console.print(str(missing))
        return None


async def _time(group: Group, rounds: int, milliseconds: float) -> list[Cost]:
    async with group() as events:
        bench = Bench()
        # What is there already needs no collecting.
        gc.freeze()
        try:
            return [await _cost(bench, event, rounds, milliseconds) for event in events]
        finally:
            bench.close()


async def _cost(bench: Bench, event: Event, rounds: int, milliseconds: float) -> Cost:
    plain, outside, inside, empty, empty_inside = [], [], [], [], []
    bench.switch("on")
    before = _recorded(process().meters, event.metric)
    # What is made with the first event is made now, and the second time is the usual one.
    await bench.inside(event.drive, 1)
    micros = await bench.inside(event.drive, 1) * PER_REQUEST
    if event.metric and _recorded(process().meters, event.metric) <= before:
        msg = f"{event.title}: nothing was recorded in {event.metric.name}."
        raise RuntimeError(msg)
    if micros > LONG * PER_REQUEST:
        tries, requests = OF_LONG["tries"], OF_LONG["requests"]
    else:
        tries, requests = TRIES, max(FEWEST, int(milliseconds * 1e3 / TRIES / micros))
    for _ in range(rounds):
        took: dict[str, tuple[float, float]] = {}
        states = ["on", "off"] if event.made_of is None else ["on", "off", "empty"]
        # None always comes after another.
        for state in random.sample(states, len(states)):
            bench.switch(state)
            drive = event.plain or event.drive if state == "off" else event.drive
            # The interpreter adapts to what was hooked or given back.
            await bench.inside(drive, requests // 4 + 1)
            await bench.outside(drive, requests // 4 + 1)
            took[state] = (
                await bench.outside(drive, requests, tries),
                await bench.inside(drive, requests, tries),
            )
        plain.append(took["off"][0])
        outside.append(took["on"][0] - took["off"][0])
        inside.append(took["on"][1] - took["off"][1])
        if "empty" in took:
            empty.append(took["empty"][0] - took["off"][0])
            empty_inside.append(took["empty"][1] - took["off"][1])
    return Cost(
        title=event.title,
        plain=median(plain),
        outside=outside,
        inside=inside,
        budgets=(SQL, SQL) if event.sql else (OUTSIDE * event.count, INSIDE * event.count),
        empty=empty,
        empty_inside=empty_inside,
        made_of=event.made_of,
        without=event.without,
    )


@contextmanager
def _empty_hooks() -> Iterator[None]:
    """What adapters hook meanwhile is hooked with functions that do nothing of their own."""
    from fastobs.probes._hooks import Hooks

    owners: list[tuple[Any, str, Any]] = [(Hooks, "wrap", _wrap_empty)]
    if adapter := sys.modules.get("fastobs.probes.sqlalchemy"):
        owners.append((adapter.SQLAlchemy, "_listen", _listen_empty))
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in owners]
    for owner, name, empty in owners:
        setattr(owner, name, partialmethod(empty, vars(owner)[name]))
    try:
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def _wrap_empty(hooks: Any, wrap: Any, owner: type, name: str, _around: object) -> None:
    wrap(hooks, owner, name, _passing_on)


def _listen_empty(probe: Any, listen: Any, target: Any, name: str, _listener: object) -> None:
    # Each has one of its own, as each adapter has.
    listen(probe, target, name, lambda *_: None)


def _passing_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes what the original takes, and hands it on one by one: the cheapest way."""
    takes, gives = [], []
    for name, parameter in signature(original, follow_wrapped=False).parameters.items():
        star = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        only_named = parameter.kind is Parameter.KEYWORD_ONLY
        if only_named and not any(one.startswith("*") for one in takes):
            takes.append("*")
        takes.append(star + name)
        gives.append(f"{name}={name}" if only_named else star + name)
    # What is awaited has its answer only then.
    way = ("async def", "await") if iscoroutinefunction(original) else ("def", "")
    source = f"{way[0]} hook({', '.join(takes)}): return {way[1]} original({', '.join(gives)})"
    names: dict[str, Any] = {"original": original}
    exec(source, names)
    hook = names["hook"]
    hook.__defaults__ = getattr(original, "__defaults__", None)
    hook.__kwdefaults__ = getattr(original, "__kwdefaults__", None)
    return hook  # type: ignore[no-any-return]


def _recorded(meters: Meters, metric: Metric | None) -> float:
    if metric is None:
        return 0.0
    meters.refresh()
    return sum(
        row.count if isinstance(row, Histogram) else row.cells[row.at]
        for row in meters.rows(metric)
    )


def page(costs: list[Cost], *, command: str, processes: int, missing: list[str]) -> str:
    """All of it, in Markdown."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    least = {cost.title: _least(cost, _pieces(costs)) for cost in costs}
    events = [cost for cost in costs if cost.title not in PIECES]
    over = [line for cost in events for line in _over(cost, least[cost.title])]
    lines = [
        "<!-- Made by `python -m benchmarks.events`; do not edit. -->",
        "# What one event costs",
        "",
        f"Python {sys.version.split()[0]}; {versions}; fresh processes per library: {processes}.",
        "",
        f"    {command}",
        "",
        (
            f"{os.cpu_count()} cores with a load of {os.getloadavg()[1]:.1f} over the last minutes: neighbours "
            "on the cores and in their caches make what is here longer, also in CPU time."
        ),
        "",
        METHOD,
        "",
        (
            "| event | without us | outside, more | 95 % | the least | budget "
            "| inside, more | 95 % | the least | budget |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(cost, least[cost.title]) for cost in costs),
        "",
        "## Over budget",
        "",
        *(over or ["Nothing."]),
    ]
    if missing:
        lines += ["", "## Not measured", "", *missing]
    return "\n".join(lines) + "\n"


Least = tuple[float, float] | None
"""Outside and inside a request; None where nothing is hooked, or the pieces were not measured."""


def _pieces(costs: list[Cost]) -> MadeOf | None:
    """What each piece takes."""
    found = {cost.title: cost for cost in costs}
    if not found.keys() >= {*PIECES, PART}:
        return None
    *pieces, outside = (median(found[title].outside) for title in (*PIECES, PART))
    # Of a section, that which it does in a request only, without its readings of the clock: those may
    # be the ones of another number.
    part = max(0.0, median(found[PART].inside) - outside - 2 * median(found[CLOCK].outside))
    return MadeOf(*pieces, part)


def _least(cost: Cost, pieces: MadeOf | None) -> Least:
    """What the event costs with hooks that do nothing, and what it is told by."""
    if cost.made_of is None or pieces is None:
        return None
    *always, parts = (times * takes for times, takes in zip(cost.made_of, pieces, strict=True))
    outside = max(0.0, median(cost.empty)) + sum(always)
    inside = max(0.0, median(cost.empty_inside)) + sum(always) + parts
    return outside, inside


def _row(cost: Cost, least: Least) -> str:
    cells = [cost.title, f"{cost.plain:.2f}"]
    for at, (more, budget) in enumerate(
        zip((cost.outside, cost.inside), cost.budgets, strict=True)
    ):
        low, high = _certain(more)
        told = f"{median(more):+.2f}" if low > 0 else "none seen"
        cells += [told, f"{low:+.2f} to {high:+.2f}"]
        cells += ["" if least is None else f"{least[at]:.2f}", f"{budget:g}"]
    return f"| {' | '.join(cells)} |"


def _over(cost: Cost, least: Least) -> Iterator[str]:
    measured = zip(("outside", "inside"), (cost.outside, cost.inside), cost.budgets, strict=True)
    for at, (where, differences, budget) in enumerate(measured):
        more = median(differences)
        low, high = _certain(differences)
        if low > budget:
            line = f"- {cost.title}, {where}: {more:.2f} us, {more / budget:.1f} times the budget"
            if least is not None:
                possible = least[at] <= budget
                line += f"; the least are {least[at]:.2f} us, "
                line += "which is below it" if possible else "which is above it, too"
                if cost.without and not possible:
                    line += f". What would have to go: {cost.without}"
            yield f"{line}."
        elif high > budget:
            yield f"- {cost.title}, {where}: {low:.2f} to {high:.2f} us; cannot be told."


def _certain(differences: list[float]) -> tuple[float, float]:
    """Where their median is with 95 % certainty, however they are distributed."""
    ordered = sorted(differences)
    count = len(ordered)
    rank = max(0, floor(count / 2 - 0.98 * count**0.5))
    return ordered[rank], ordered[count - 1 - rank]


def _together(parts: list[Cost]) -> Cost:
    """One event as several processes measured it."""
    made_of = parts[0].made_of
    return Cost(
        title=parts[0].title,
        plain=median(part.plain for part in parts),
        outside=[more for part in parts for more in part.outside],
        inside=[more for part in parts for more in part.inside],
        budgets=parts[0].budgets,
        empty=[more for part in parts for more in part.empty],
        empty_inside=[more for part in parts for more in part.empty_inside],
        made_of=None if made_of is None else MadeOf(*made_of),
        without=parts[0].without,
    )


@app.command()
def main(
    *,
    rounds: Annotated[int, typer.Option(help="Rounds per event and process.")] = 40,
    milliseconds: Annotated[float, typer.Option(help="Of requests in one round, about.")] = 20,
    processes: Annotated[int, typer.Option(help="Fresh processes per library.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Of: {', '.join(GROUPS)}.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Path(__file__).parent
    / "events.md",
) -> None:
    """Measure, and write ``benchmarks/events.md``."""
    if quick:
        rounds, milliseconds, processes = 5, 5, 1
    if unknown := [name for name in only or () if name not in GROUPS]:
        msg = f"No such group: {', '.join(unknown)}. There are: {', '.join(GROUPS)}."
        raise typer.BadParameter(msg)
    costs, missing = [], []
    for group in only or GROUPS:
        console.print(f"Timing {group}")
        found = [
            fresh.run("time_events", group, rounds=rounds, milliseconds=milliseconds)
            for _ in range(processes)
        ]
        if None in found:
            missing.append(f"- {group}: a program that it needs is not installed.")
            continue
        costs += [_together([Cost(**part) for part in parts]) for parts in zip(*found, strict=True)]
    command = " ".join(["python -m benchmarks.events", *sys.argv[1:]])
    text = page(costs, command=command, processes=processes, missing=missing)
    output.write_text(text, encoding="utf-8")
    console.print(f"Wrote {output}.")


if __name__ == "__main__":
    app()
