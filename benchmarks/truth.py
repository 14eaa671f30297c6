"""Requests whose time is known, and what fastobs tells of them; for `benchmarks.slow`."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import uvloop
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from redis import asyncio as redis
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from fastobs import Handle, catalogue, current, instrument
from fastobs._process import process
from fastobs.cells.meters import Histogram
from fastobs.config import Profiles
from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Folder
from tests.driving import call
from tests.probes.upstream import upstream
from tests.probes.waiting import until
from tests.watchdog import blockers

__all__ = ["CASES", "Told", "tell_of_blocks", "tell_of_parts", "tell_of_profiles"]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
HELD = 0.6
"""Seconds that a loop is held."""
SLEPT = 0.3
"""Seconds that a statement takes, at least."""
SLEEP = text(f"SELECT pg_sleep({SLEPT})")
ASGI = {"version": "3.0", "spec_version": "2.3"}
"""As uvicorn says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A part of a request's time.

    Attributes:
        case: Which request.
        what: Whose time, and which parts it should be.
        truth: Seconds, as the request itself measured.
        told: Seconds in those parts.
        parts: Seconds of all parts together.
        whole: Seconds that the request took.
    """

    case: str
    what: str
    truth: float
    told: float
    parts: float
    whole: float


class Stage:
    """An app under observation, with its database, its cache and another service."""

    def __init__(self, breakdown: str, postgresql: str, redis: str) -> None:
        self.postgresql = make_url(postgresql)
        self.redis = redis
        self.app = FastAPI()
        self.truth: dict[str, float] = {}
        self._breakdown = breakdown
        self._before: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def observe(self) -> Handle:
        return instrument(self.app, breakdown=self._breakdown, traces=None, workers=None)

    @contextmanager
    def measures(self, what: str) -> Iterator[None]:
        """So long it took in truth."""
        began = perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.truth[what] = self.truth.get(what, 0.0) + perf_counter() - began

    async def get(self, *paths: str) -> None:
        """These at once."""
        await asyncio.gather(*(call(self.app, path, asgi=ASGI) for path in paths))

    async def warm(self, *paths: str) -> None:
        """Connect, import, and have the heart beat; none of that counts."""
        await self.get(*paths)
        lag = catalogue.LOOP_LAG
        rows = process().meters.rows
        await until(lambda: [row for row in rows(lag) if isinstance(row, Histogram) and row.count])
        self.truth.clear()
        self._before = {route: self._parts(route) for route in paths}

    def _parts(self, route: str) -> dict[str, float]:
        meters = process().meters
        rows = meters.rows(catalogue.HTTP_PART)
        parts = {row.values[1]: row.cells[row.at] for row in rows if row.values[0] == route}
        whole = [row for row in meters.rows(catalogue.HTTP_DURATION) if route in row.values]
        return {**parts, "": sum(row.sum for row in whole if isinstance(row, Histogram))}

    def told(self, case: str, what: str, *parts: str, route: str = "/") -> Told:
        before = self._before.get(route, {})
        now = {part: s - before.get(part, 0.0) for part, s in self._parts(route).items()}
        whole = now.pop("")
        return Told(
            case=case,
            what=f"{what}: {' + '.join(parts)}",
            truth=self.truth[what],
            told=sum(now.get(part, 0.0) for part in parts),
            parts=sum(now.values()),
            whole=whole,
        )

    def engine(self) -> Engine:
        """With one connection."""
        url = self.postgresql.set(drivername="postgresql+psycopg")
        return create_engine(url, pool_size=1, max_overflow=0)


Case = Callable[[Stage], Coroutine[Any, Any, list[Told]]]


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


async def beside_each_other(stage: Stage) -> list[Told]:
    """SQL, Redis and HTTP at once"""
    url = stage.postgresql.set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    cache = redis.from_url(stage.redis)
    with upstream() as service:
        outside = httpx.AsyncClient()

        @stage.app.get("/")
        async def endpoint() -> None:
            async def ask() -> None:
                async with engine.connect() as connection:
                    await connection.execute(SLEEP)

            async def pop() -> None:
                await cache.blpop(["nothing"], timeout=SLEPT / 2)
                service.release.set()

            with stage.measures("waiting"):
                await asyncio.gather(ask(), pop(), outside.get(f"{service.url}/hold"))
            compute(0.1)

        stage.observe()
        await stage.warm("/")
        service.release.clear()
        await stage.get("/")
    told = [stage.told(name(beside_each_other), "waiting", "db", "pool_wait", "cache", "http")]
    stage.truth["computing"] = 0.1
    if stage._breakdown == "steps":
        told.append(stage.told(name(beside_each_other), "computing", "cpu"))
    await engine.dispose()
    await cache.aclose()
    await outside.aclose()
    return told


async def in_a_thread(stage: Stage) -> list[Told]:
    """a `def` endpoint with a query"""
    engine = stage.engine()

    @stage.app.get("/")
    def endpoint() -> None:
        with stage.measures("query"), engine.connect() as connection:
            connection.execute(SLEEP)
        with stage.measures("function"):
            compute(0.1)
            time.sleep(0.1)

    stage.observe()
    await stage.warm("/")
    await stage.get("/")
    stage.truth["computing"] = 0.1
    told = [
        stage.told(name(in_a_thread), "query", "db", "pool_wait"),
        stage.told(name(in_a_thread), "function", "thread", "cpu"),
    ]
    if stage._breakdown == "steps":
        told.append(stage.told(name(in_a_thread), "computing", "cpu"))
    return told


async def held_up(stage: Stage) -> list[Told]:
    """a loop that is held for 0.6 s"""
    url = stage.postgresql.set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    asked = asyncio.Event()

    @stage.app.get("/victim")
    async def victim() -> None:
        async with engine.connect() as connection:
            asked.set()
            await connection.execute(SLEEP)

    @stage.app.get("/culprit")
    async def culprit() -> None:
        await asked.wait()
        with stage.measures("held"):
            time.sleep(HELD)

    stage.observe()
    await stage.warm("/victim", "/culprit")
    asked.clear()
    await stage.get("/culprit", "/victim")
    await engine.dispose()
    return [
        stage.told(name(held_up), "held", "loop_wait", route="/victim"),
        stage.told(name(held_up), "held", "blocking", "cpu", route="/culprit"),
    ]


async def exhausted(stage: Stage) -> list[Told]:
    """three for the only connection of a pool"""
    engine = stage.engine()

    @stage.app.get("/")
    def endpoint() -> None:
        with stage.measures("waiting"):
            connection = engine.connect()
        with connection, stage.measures("query"):
            connection.execute(SLEEP)

    stage.observe()
    await stage.warm("/")
    await stage.get("/", "/", "/")
    return [
        stage.told(name(exhausted), "waiting", "pool_wait"),
        stage.told(name(exhausted), "query", "db"),
    ]


async def one_thread(stage: Stage) -> list[Told]:
    """two for the only thread"""

    @stage.app.get("/")
    def endpoint() -> None:
        exchange = current()
        assert exchange is not None
        waited = perf_counter() - exchange.started
        stage.truth["waiting"] = stage.truth.get("waiting", 0.0) + waited
        with stage.measures("function"):
            time.sleep(SLEPT)

    stage.observe()
    current_default_thread_limiter().total_tokens = 1
    await stage.warm("/")
    await stage.get("/", "/")
    current_default_thread_limiter().total_tokens = 40
    return [
        stage.told(name(one_thread), "waiting", "thread_wait"),
        stage.told(name(one_thread), "function", "thread", "cpu"),
    ]


async def streamed(stage: Stage) -> list[Told]:
    """a stream, to its last byte"""
    engine = stage.engine()

    @stage.app.get("/")
    async def endpoint() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            for _ in range(2):
                with stage.measures("query"), engine.connect() as connection:
                    connection.execute(SLEEP)
                compute(0.05)
                yield b"x"

        return StreamingResponse(chunks())

    stage.observe()
    await stage.warm("/")
    await stage.get("/")
    stage.truth["computing"] = 0.1
    told = [stage.told(name(streamed), "query", "db", "pool_wait")]
    if stage._breakdown == "steps":
        told.append(stage.told(name(streamed), "computing", "cpu"))
    return told


async def behind_middleware(stage: Stage) -> list[Told]:
    """behind BaseHTTPMiddleware"""
    url = stage.postgresql.set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)

    @stage.app.get("/")
    async def endpoint() -> None:
        with stage.measures("query"):
            async with engine.connect() as connection:
                await connection.execute(SLEEP)
        compute(0.1)

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    stage.app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    stage.observe()
    await stage.warm("/")
    await stage.get("/")
    await engine.dispose()
    stage.truth["computing"] = 0.1
    told = [stage.told(name(behind_middleware), "query", "db", "pool_wait")]
    if stage._breakdown == "steps":
        told.append(stage.told(name(behind_middleware), "computing", "cpu"))
    return told


def name(case: Callable[..., object]) -> str:
    return case.__doc__ or ""


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        beside_each_other,
        in_a_thread,
        held_up,
        exhausted,
        one_thread,
        streamed,
        behind_middleware,
    )
}


def tell_of_parts(
    case: str, *, breakdown: str, loop: str, postgresql: str, redis: str
) -> list[dict[str, Any]]:
    """What is told of one case, beside the truth."""
    stage = Stage(breakdown, postgresql, redis)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return [asdict(told) for told in runner.run(CASES[case](stage))]


def tell_of_blocks(kind: str, *, loop: str) -> dict[str, Any]:
    """What is told of one blocker, on the loop and in a thread."""
    blockers.prepare()
    blocker: Callable[[], None] = getattr(blockers, kind)
    took: list[float] = []
    app = FastAPI()

    @app.get("/culprit/{number}")
    async def culprit(number: int) -> None:
        await asyncio.sleep(0.05)
        began = perf_counter()
        blocker()
        took.append(perf_counter() - began)

    @app.get("/thread")
    def thread() -> None:
        blocker()

    async def main() -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        process().lines.put = lambda line: lines.append(line[1])  # type: ignore[method-assign, assignment]
        instrument(app, traces=None, workers=None, slow=None)
        await call(app, "/")
        await asyncio.sleep(0.3)
        await call(app, "/thread")
        await asyncio.sleep(0.3)
        in_thread = len(lines)
        await call(app, "/culprit/7")
        await asyncio.sleep(0.3)
        return [{"in_thread": in_thread}, *lines]

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        first, *lines = runner.run(main())
    line = lines[-1] if lines else {}
    return {
        "events": len(lines) - first["in_thread"],
        "in_thread": first["in_thread"],
        "function": line.get("function"),
        "route": line.get("route"),
        "took": took[0],
        "told": line.get("duration", 0.0),
    }


def tell_of_profiles(loop: str, *, fast: int) -> dict[str, Any]:
    """What is kept of many fast requests and a slow one, which another holds up for a while."""
    app = FastAPI()
    held: list[float] = []

    @app.get("/fast")
    async def quick() -> None: ...

    @app.get("/victim")
    async def victim() -> None:
        await asyncio.sleep(1.2)

    @app.get("/culprit")
    async def culprit() -> None:
        await asyncio.sleep(0.4)
        began = perf_counter()
        time.sleep(HELD)
        held.append(perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder:
        profiles = {"directory": Path(folder, "profiles")}
        routes = {"/culprit": 60.0}
        slow = {"after": 1.0, "routes": routes}
        instrument(app, traces=None, workers=None, profiles=profiles, slow=slow)

        async def main() -> None:
            process().lines.put = lambda line: None  # type: ignore[method-assign, assignment]
            await call(app, "/fast")
            await asyncio.sleep(0.3)
            work = asyncio.gather(call(app, "/victim"), call(app, "/culprit"))
            for _ in range(fast):
                await call(app, "/fast")
            await work
            await asyncio.sleep(1.0)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
        store = Folder(Profiles(**profiles))  # type: ignore[arg-type]
        kept = [found for meta in store.list() if (found := store.get(meta.id)) is not None]
        blocked = sum(seconds for stacks in kept for seconds in _blocked(Stacks.decode(stacks[1])))
        frames = {
            frame
            for _, stored in kept
            for frame in Stacks.decode(stored).frames
            if frame.startswith("blocked by ")
        }
        return {
            "profiles": len(kept),
            "routes": sorted(meta.route for meta, _ in kept),
            "held": held[0],
            "blocked": blocked,
            "by": sorted(frames),
        }


def _blocked(stacks: Stacks) -> Iterator[float]:
    for node, seconds, _ in stacks.samples:
        if stacks.frames[node].startswith("blocked by "):
            yield seconds
