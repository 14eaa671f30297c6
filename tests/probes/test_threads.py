"""Worker threads: waiting for one, and running there."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

from fastobs import catalogue
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import Parts, enter, leave
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.probes import Probes, threads
from tests.driving import Clock, scope
from tests.parts import PATIENCE
from tests.probes.contract import Contract

from .waiting import until


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """The running request."""
    exchange = Exchange(scope("/"), Routes(None), 0.0)  # type: ignore[arg-type]
    token = CURRENT.set(exchange)
    yield exchange
    CURRENT.reset(token)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(threads, "perf_counter", clock)
    return clock


def going_on(exchange: Exchange) -> list[str]:
    assert isinstance(exchange.parts, Parts)
    return exchange.parts._open


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_a_function_has_the_time_that_it_runs(exchange: Exchange, clock: Clock) -> None:
    """Its arguments and its result go through as they are."""

    def work(seconds: int, more: int) -> int:
        clock.now += seconds
        return seconds + more

    assert await to_thread.run_sync(work, 3, 4, limiter=CapacityLimiter(1)) == 7
    assert exchange.parts == {"thread": 3}
    assert going_on(exchange) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_an_exception_is_the_callers_and_the_part_has_ended(
    exchange: Exchange, clock: Clock
) -> None:
    """What took time up to there is counted."""

    def fail() -> None:
        clock.now += 2
        raise KeyError

    with pytest.raises(KeyError):
        await to_thread.run_sync(fail)
    assert exchange.parts == {"thread": 2}
    assert going_on(exchange) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_the_second_of_two_waits_for_the_only_token(clock: Clock) -> None:
    """Exactly as long as the first one runs; each in the parts of its own request."""
    limiter = CapacityLimiter(1)
    started, release = threading.Event(), threading.Event()

    async def request(exchange: Exchange, work: Callable[[], Any]) -> None:
        CURRENT.set(exchange)
        await to_thread.run_sync(work, limiter=limiter)

    def hold() -> None:
        started.set()
        assert release.wait(PATIENCE)

    def follow() -> None:
        clock.now += 2

    first, second = (Exchange(scope("/"), Routes(None), 0.0) for _ in range(2))  # type: ignore[arg-type]
    one = asyncio.create_task(request(first, hold))
    await until(started.is_set)
    two = asyncio.create_task(request(second, follow))
    await until(lambda: limiter.statistics().tasks_waiting)
    clock.now += 5
    release.set()
    await asyncio.gather(one, two)

    assert first.parts == {"thread": 5}
    assert second.parts == {"thread_wait": 5, "thread": 2}


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_what_has_its_own_part_is_not_the_threads(exchange: Exchange, clock: Clock) -> None:
    """A query in a def endpoint is the database's."""

    def work() -> None:
        clock.now += 1
        enter(CURRENT.get(), "db", clock.now)
        clock.now += 2
        leave(CURRENT.get(), "db", clock.now)
        clock.now += 3

    await to_thread.run_sync(work)

    assert exchange.parts == {"thread": 4, "db": 2}


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_a_function_that_was_given_up_is_no_part_any_more(
    exchange: Exchange, clock: Clock
) -> None:
    """The request goes on without it, while it runs to its end."""
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert release.wait(PATIENCE)
        ended.set()

    with anyio.CancelScope() as cancelled:
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(to_thread.run_sync, work, abandon_on_cancel=True))
            await until(started.is_set)
            clock.now += 2
            cancelled.cancel()
    clock.now += 5

    assert going_on(exchange) == []
    release.set()
    await until(ended.is_set)
    assert exchange.parts == {"thread": 2}


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_who_gave_up_waiting_does_not_wait(exchange: Exchange, clock: Clock) -> None:
    """The wait up to then is counted, and the function never runs."""
    limiter = CapacityLimiter(1)
    async with limiter:
        waiter = asyncio.create_task(to_thread.run_sync(print, limiter=limiter))
        await until(lambda: limiter.statistics().tasks_waiting)
        clock.now += 2
        waiter.cancel()
        await asyncio.wait([waiter])
    clock.now += 5

    assert exchange.parts == {"thread_wait": 2}
    assert going_on(exchange) == []


def test_a_function_that_is_given_up_while_it_begins_is_no_part(exchange: Exchange) -> None:
    """The loop lets go of it between two lines of the thread's."""
    errand = threads.Errand(exchange, print)
    errand.waits()
    errand.given_up = True
    errand.runs()

    assert going_on(exchange) == []
    errand.runs()
    assert going_on(exchange) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_outside_of_a_request_nothing_is_measured(clock: Clock) -> None:
    """Nor in one that has ended."""
    ended = Exchange(scope("/"), Routes(None), clock.now)  # type: ignore[arg-type]
    ended.closed = True

    assert await to_thread.run_sync(int, "7") == 7
    token = CURRENT.set(ended)
    assert await to_thread.run_sync(int, "7") == 7
    CURRENT.reset(token)
    assert ended.parts == {}


@pytest.mark.anyio
async def test_every_hook_comes_out_again(
    attach: Callable[..., Probes], exchange: Exchange
) -> None:
    """Whoever kept ours calls the original through it, and nothing else."""
    before = to_thread.run_sync
    probes = attach()
    attach()
    hooked = to_thread.run_sync
    probes.detach()

    assert hooked is not before
    assert hooked.__wrapped__ is before  # type: ignore[attr-defined]
    assert to_thread.run_sync is before
    assert await hooked(int, "7") == 7
    assert exchange.parts == {}


@pytest.mark.anyio
@pytest.mark.usefixtures("contained_errors", "probes")
async def test_an_error_of_ours_stays_ours(
    exchange: Exchange, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function runs, and the errors are counted."""
    with monkeypatch.context() as broken:
        broken.setattr(threads, "enter", lambda *_: 1 / 0)
        assert await to_thread.run_sync(int, "7") == 7
    assert meters.counter(catalogue.SELF_ERRORS, "probes.threads").value == 1

    with monkeypatch.context() as broken:
        broken.setattr(threads, "leave", lambda *_: 1 / 0)
        assert await to_thread.run_sync(int, "7") == 7
        assert meters.counter(catalogue.SELF_ERRORS, "probes.threads").value == 2
        errand = threads.Errand(exchange, print)
        errand.waits()
        errand.ends()
    assert meters.counter(catalogue.SELF_ERRORS, "probes.threads").value == 3


class TestContract(Contract):
    """Worker threads."""

    row = ("asyncio", ".threads")
    packages = ("anyio",)
    plain = frozenset({"Errand"})
    part = "thread"
    counts = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield None

    def call(self, it: Any, name: str) -> None:
        """They have no name."""

    async def use(self, it: Any) -> Any:
        return await run_in_threadpool(lambda: 1)
