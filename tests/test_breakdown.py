"""Where the time of whole requests went, against what the endpoints themselves measured."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any

import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from redis import asyncio as redis
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from fastobs import catalogue, current
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from tests.probes.upstream import Upstream, upstream

from .probes.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Observed = Callable[..., Any]
SLEPT = 0.2
"""Seconds that this takes, at least."""
SLEEP = text(f"SELECT pg_sleep({SLEPT})")
HELD = 0.8
"""Seconds that a loop is held."""
QUICK = {"loop_block_after": HELD / 40}
"""Of each hold up to a tick is not seen, which is half of that; and more if the watchdog's thread does not
get a processor in time."""
TRIES = 10
"""So often it may not."""

each_loop = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


class Truth(dict[str, float]):
    """Seconds by part, as an endpoint saw them."""

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.adds(part, perf_counter() - began)

    def adds(self, part: str, seconds: float) -> None:
        self[part] = self.get(part, 0.0) + seconds


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine with one connection, which is open."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=1, max_overflow=0)
    with engine.connect():
        pass
    yield engine
    engine.dispose()


@pytest.fixture
def service() -> Iterator[Upstream]:
    """Another service."""
    with upstream() as server:
        yield server


@asynccontextmanager
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def so_far(meters: Meters) -> tuple[dict[str, float], float]:
    """Seconds by part, and those of the requests as a whole."""
    parts = {row.values[1]: row.cells[row.at] for row in meters.rows(catalogue.HTTP_PART)}
    rows = meters.rows(catalogue.HTTP_DURATION)
    return parts, sum(row.sum for row in rows if isinstance(row, Histogram))


class Parts(dict[str, float]):
    """Seconds by part of the requests since this was made.

    Make it after a first request, which has more to do: pools get their names, drivers look at the
    server's types, threads start.
    """

    def __init__(self, meters: Meters) -> None:
        super().__init__()
        self._meters = meters
        self._before = so_far(meters)

    def measure(self) -> None:
        """With the rest they are what the requests took together, within 5 %."""
        parts, whole = so_far(self._meters)
        before, whole_before = self._before
        self.update({part: seconds - before.get(part, 0.0) for part, seconds in parts.items()})
        self.whole = whole - whole_before
        assert abs(sum(self.values()) - self.whole) <= 0.05 * self.whole

    def all(self, *names: str) -> float:
        """Seconds of these; where a busy machine let the loop stand still, of that as well."""
        return sum(self.get(name, 0.0) for name in (*names, "loop_wait"))


async def test_three_kinds_of_waiting_at_once_are_no_longer_than_the_request(
    observed: Observed,
    meters: Meters,
    database_url: str,
    redis_url: str,
    service: Upstream,
) -> None:
    """A query, a blocking read from Redis and a call of another service, side by side."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    cache = redis.from_url(redis_url)
    outside = httpx.AsyncClient()
    truth = Truth()
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> None:
        async def ask_database() -> None:
            async with engine.connect() as connection:
                await connection.execute(text(f"SELECT pg_sleep({3 * SLEPT})"))

        async def ask_cache() -> None:
            await cache.blpop(["nothing"], timeout=SLEPT)
            service.release.set()

        with truth.of("all"):
            await asyncio.gather(ask_database(), ask_cache(), outside.get(f"{service.url}/hold"))

    observed(app)
    async with client(app) as http:
        await http.get("/")
        parts = Parts(meters)
        truth.clear()
        service.release.clear()
        await http.get("/")
    parts.measure()
    waiting = parts.all("db", "pool_wait", "cache", "http")

    assert 3 * SLEPT <= waiting <= truth["all"]
    assert parts["db"] > 0
    assert parts["cache"] + parts["http"] > 0
    await engine.dispose()
    await cache.aclose()
    await outside.aclose()


async def test_a_def_endpoint_has_its_thread_and_the_database_its_queries(
    observed: Observed, meters: Meters, engine: Engine
) -> None:
    """What the function takes without its query is the thread's."""
    truth = Truth()
    app = FastAPI()

    @app.get("/")
    def endpoint() -> None:
        with truth.of("function"):
            with truth.of("db"), engine.connect() as connection:
                connection.execute(SLEEP)
            with truth.of("work"):
                sum(range(5_000_000))

    observed(app)
    async with client(app) as http:
        await http.get("/")
        parts = Parts(meters)
        truth.clear()
        await http.get("/")
    parts.measure()

    assert SLEPT <= parts["db"] <= truth["db"]
    assert truth["work"] <= parts["thread"]
    assert truth["function"] <= parts.all("thread", "db", "pool_wait") <= parts.whole


async def test_an_exhausted_pool_is_pool_wait(
    observed: Observed, meters: Meters, engine: Engine
) -> None:
    """Three at once, and one connection."""
    truth = Truth()
    lock = threading.Lock()
    app = FastAPI()

    @app.get("/")
    def endpoint() -> None:
        began = perf_counter()
        with engine.connect() as connection:
            got = perf_counter()
            connection.execute(SLEEP)
        done = perf_counter()
        with lock:
            truth.adds("pool_wait", got - began)
            truth.adds("db", done - got)

    observed(app)
    async with client(app) as http:
        await http.get("/")
        parts = Parts(meters)
        truth.clear()
        await asyncio.gather(*(http.get("/") for _ in range(3)))
    parts.measure()

    # What SQLAlchemy does around it is the thread's.
    assert parts["pool_wait"] <= truth["pool_wait"] <= parts.all("pool_wait", "thread")
    assert 3 * SLEPT <= parts["db"] <= truth["db"]


async def test_the_second_of_two_waits_for_the_only_thread(
    observed: Observed, meters: Meters, engine: Engine
) -> None:
    """From its arrival until its function runs."""
    truth = Truth()
    app = FastAPI()

    @app.get("/")
    def endpoint() -> None:
        exchange = current()
        assert exchange is not None
        truth.adds("thread_wait", perf_counter() - exchange.started)
        with truth.of("function"), engine.connect() as connection:
            connection.execute(SLEEP)

    observed(app)
    current_default_thread_limiter().total_tokens = 1
    try:
        async with client(app) as http:
            await http.get("/")
            parts = Parts(meters)
            truth.clear()
            await asyncio.gather(http.get("/"), http.get("/"))
    finally:
        current_default_thread_limiter().total_tokens = 40
    parts.measure()

    # What comes before that wait is in no part, and between it and the function is the thread's.
    waited = parts.all("thread_wait", "thread", "unaccounted")
    assert parts["thread_wait"] <= truth["thread_wait"] <= waited
    assert truth["function"] <= parts.all("thread", "db", "pool_wait")
    assert parts["db"] >= 2 * SLEPT


async def test_a_stream_is_covered_to_its_last_byte(
    observed: Observed, meters: Meters, engine: Engine
) -> None:
    """Chunks are made in threads, while the response is under way."""
    truth = Truth()
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            for _ in range(2):
                with truth.of("db"), engine.connect() as connection:
                    connection.execute(SLEEP)
                yield b"x"

        return StreamingResponse(chunks())

    observed(app)
    async with client(app) as http:
        await http.get("/")
        parts = Parts(meters)
        truth.clear()
        answer = await http.get("/")
    parts.measure()

    assert answer.content == b"xx"
    assert 2 * SLEPT <= parts["db"] <= truth["db"]


async def test_a_middleware_with_a_task_of_its_own_hides_nothing(
    observed: Observed, meters: Meters, engine: Engine
) -> None:
    """Below BaseHTTPMiddleware the endpoint runs in another task; what it leaves behind is not its."""
    truth = Truth()
    tasks: list[asyncio.Task[None]] = []
    release = asyncio.Event()
    app = FastAPI()

    async def linger() -> None:
        await release.wait()
        await asyncio.to_thread(query, "left behind")

    def query(part: str) -> None:
        with truth.of(part), engine.connect() as connection:
            connection.execute(SLEEP)

    @app.get("/")
    async def endpoint(request: Request) -> None:
        tasks.append(asyncio.create_task(linger()))
        await asyncio.to_thread(query, "db")

    async def passing_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passing_on)
    observed(app)
    async with client(app) as http:
        await http.get("/")
        parts = Parts(meters)
        truth.clear()
        await http.get("/")
    release.set()
    await until(lambda: all(task.done() for task in tasks))
    parts.measure()

    assert SLEPT <= parts["db"] <= truth["db"]


class OfRoute:
    """What is told of the requests of one route, each time since the last one.

    Attributes:
        parts: Seconds by part.
        whole: Seconds of the requests.
    """

    def __init__(self, meters: Meters, route: str) -> None:
        self._meters = meters
        self._route = route
        self._told = dict[str, float]()
        self._whole = 0.0
        self.measure()

    def measure(self) -> None:
        """The parts are the whole."""
        rows = self._meters.rows(catalogue.HTTP_PART)
        told = {row.values[1]: row.cells[row.at] for row in rows if row.values[0] == self._route}
        wholes = [
            row for row in self._meters.rows(catalogue.HTTP_DURATION) if self._route in row.values
        ]
        whole = sum(row.sum for row in wholes if isinstance(row, Histogram))
        before, self._told = self._told, told
        new = {part: seconds - before.get(part, 0.0) for part, seconds in told.items()}
        self.parts = {part: seconds for part, seconds in new.items() if seconds > 0}
        self.whole, self._whole = whole - self._whole, whole
        assert not self.parts or abs(sum(self.parts.values()) - self.whole) <= 0.001 * self.whole


async def watched(meters: Meters) -> None:
    """Until the loop's heart has beaten: what happens before that is not seen."""
    lag = catalogue.LOOP_LAG
    await until(
        lambda: [row for row in meters.rows(lag) if isinstance(row, Histogram) and row.count]
    )


@each_loop
async def test_a_loop_that_is_held_is_blocking_for_one_and_loop_wait_for_the_others(
    observed: Observed, meters: Meters, database_url: str
) -> None:
    """Though the answer to the other's query lies ready meanwhile, and asyncio cannot take it."""
    engine = create_async_engine(make_url(database_url).set(drivername="postgresql+asyncpg"))
    truth = Truth()
    asked = asyncio.Event()
    app = FastAPI()

    @app.get("/warm")
    async def warm() -> None:
        async with engine.connect() as connection:
            await connection.execute(SLEEP)

    @app.get("/victim")
    async def victim() -> None:
        async with engine.connect() as connection:
            asked.set()
            await connection.execute(SLEEP)

    @app.get("/culprit")
    async def culprit() -> None:
        await asked.wait()
        with truth.of("held"):
            time.sleep(HELD)  # noqa: ASYNC251 - the fault that is looked for

    observed(app, runtime=QUICK)
    async with client(app) as http:
        await http.get("/warm")
        await watched(meters)
        other, own = OfRoute(meters, "/victim"), OfRoute(meters, "/culprit")
        for _ in range(TRIES):
            truth.clear()
            asked.clear()
            await asyncio.gather(http.get("/culprit"), http.get("/victim"))
            other.measure()
            own.measure()
            waited, held = other.parts.get("loop_wait", 0.0), own.parts.get("blocking", 0.0)
            if max(abs(waited - truth["held"]), abs(held - truth["held"])) <= 0.05 * own.whole:
                break
        else:
            pytest.fail(f"Of {truth['held']} s {waited} and {held} were told.")
    await engine.dispose()

    # What else takes long enough to be one, on a busy machine, is short beside it.
    assert other.parts.get("blocking", 0.0) < HELD / 2
    assert own.parts.get("loop_wait", 0.0) < HELD / 2


@each_loop
async def test_who_holds_the_loop_by_computing_has_it_as_cpu(
    observed: Observed, meters: Meters
) -> None:
    """The clock of its thread tells what it computed, however busy the machine is."""
    app = FastAPI()

    @app.get("/culprit")
    async def culprit() -> None:
        # Else all requests of this test are one step, which began as nobody's.
        await asyncio.sleep(HELD / 40)
        end = time.thread_time() + HELD / 2
        while time.thread_time() < end:
            sum(range(50))

    @app.get("/warm")
    def warm() -> None: ...

    observed(app, runtime=QUICK)
    async with client(app) as http:
        await http.get("/warm")
        await watched(meters)
        told = OfRoute(meters, "/culprit")
        for _ in range(TRIES):
            before = time.process_time()
            await http.get("/culprit")
            computed = time.process_time() - before
            told.measure()
            cpu = told.parts.get("cpu", 0.0)
            assert cpu <= computed
            if cpu >= 0.9 * HELD / 2:
                break
        else:
            pytest.fail(f"Of {HELD / 2} s {cpu} were told.")


@each_loop
async def test_a_thread_goes_on_while_the_loop_is_held(observed: Observed, meters: Meters) -> None:
    """Its request waits for the loop only from when the function is done."""
    runs, over = threading.Event(), threading.Event()
    done: list[float] = []
    released: list[float] = []
    app = FastAPI()

    @app.get("/victim")
    def victim() -> None:
        runs.set()
        over.wait(30)
        done.append(perf_counter())

    @app.get("/culprit")
    async def culprit() -> None:
        await until(runs.is_set)
        threading.Timer(HELD / 2, over.set).start()
        time.sleep(HELD)  # noqa: ASYNC251 - the fault that is looked for
        released.append(perf_counter())

    @app.get("/warm")
    def warm() -> None: ...

    observed(app, runtime=QUICK)
    async with client(app) as http:
        await http.get("/warm")
        await watched(meters)
        told = OfRoute(meters, "/victim")
        for _ in range(TRIES):
            runs.clear()
            over.clear()
            await asyncio.gather(http.get("/victim"), http.get("/culprit"))
            told.measure()
            waited = told.parts.get("loop_wait", 0.0)
            if abs(waited - (released[-1] - done[-1])) <= 0.05 * told.whole:
                break
        else:
            pytest.fail(f"Of {released[-1] - done[-1]} s {waited} were told.")

    assert told.parts["thread"] > told.parts.get("unaccounted", 0.0)


@each_loop
async def test_a_def_endpoint_that_blocks_its_thread_holds_no_loop(
    observed: Observed, meters: Meters
) -> None:
    """It has its thread, and nobody waits."""
    app = FastAPI()

    @app.get("/")
    def endpoint() -> None:
        time.sleep(HELD)

    @app.get("/other")
    async def other() -> None:
        await asyncio.sleep(HELD)

    @app.get("/warm")
    def warm() -> None: ...

    observed(app, runtime={"loop_block_after": HELD / 2})
    async with client(app) as http:
        await http.get("/warm")
        await watched(meters)
        await asyncio.gather(http.get("/"), http.get("/other"))
    blocking, beside = OfRoute(meters, "/"), OfRoute(meters, "/other")

    assert blocking.parts["thread"] >= HELD
    assert not {"blocking", "loop_wait"} & blocking.parts.keys()
    assert beside.parts == {}
