"""What is told of requests whose steps are driven, and that driving them changes nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import perf_counter
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from fastobs import Handle, _steps, catalogue, current, section
from fastobs._exchange import CURRENT, NO_PARTS, Exchange
from fastobs._parts import BLOCKING, LOOP_WAIT, OFF, Held, Off, account, enter, hold, leave
from fastobs._routes import Routes
from fastobs._steps import Stepped, Steps, Tasks, Worker
from fastobs.watchdog.tail import TELLING
from tests.driving import call, scope
from tests.parts import eventually
from tests.profiling.rig import LOOPS, each_loop
from tests.signals.test_parts import Grip, closed

BURNT = 0.05
"""Seconds of processor time."""
SLEPT = 0.05
"""Seconds by the clock."""
ROOM = 100 * _steps.SHORT
"""Seconds: of each part so little is taken to be computed, and on a busy machine may have been waiting."""
UVICORN = {"version": "3.0", "spec_version": "2.3"}
"""With it Starlette sends streams from a task of their own."""

Lines = list[dict[str, Any]]


def burn(seconds: float = BURNT) -> None:
    """Compute: on a busy machine it takes longer, and is as much."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


class Rig:
    """An app whose every request leaves a line."""

    def __init__(self, observed: Callable[..., Handle], shared: Any) -> None:
        self.app = FastAPI()
        self.lines: Lines = []
        # What the process computed for the last request, and so the most that its parts can tell.
        self.cpu = 0.0
        self._observed = observed
        self._shared = shared

    def instrument(self, **sections: Any) -> Handle:
        self._shared.lines.put = lambda line: self.lines.append(line[1])
        chosen = {"slow": {"after": 1e-9}, "breakdown": "steps", **sections}
        return self._observed(self.app, workers=None, **chosen)

    def parts(self, path: str = "/", loop: str = "asyncio", **more: Any) -> dict[str, float]:
        """Those of a request; together they are what it took."""

        async def main() -> None:
            began = time.process_time()
            await call(self.app, path, asgi=UVICORN, **more)
            self.cpu = time.process_time() - began + ROOM

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
        (line,) = (line for line in self.lines if line["event"] == "slow_request")
        self.lines.clear()
        parts: dict[str, float] = line["parts"]
        assert abs(sum(parts.values()) - line["duration"]) <= 1e-5
        return parts


@pytest.fixture
def rig(observed: Callable[..., Handle], shared: Any) -> Rig:
    return Rig(observed, shared)


async def alone() -> None:
    burn()
    await asyncio.sleep(0)
    burn()


async def gathered() -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        burn()

    await asyncio.gather(child(), child())


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(alone())


async def in_threads() -> None:
    await asyncio.gather(asyncio.to_thread(burn), asyncio.to_thread(burn))


@each_loop
@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("work", [alone, gathered, grouped])
def test_what_a_request_computes_on_the_loop_is_cpu(
    rig: Rig, work: Callable[[], Awaitable[None]], middleware: bool, loop: str
) -> None:
    """In its own task or in children, behind a middleware that has a task of its own or not."""

    @rig.app.get("/")
    async def endpoint() -> None:
        await work()

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    if middleware:
        rig.app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    rig.instrument()
    parts = rig.parts(loop=loop)

    assert 2 * BURNT <= parts["cpu"] <= rig.cpu


@each_loop
def test_what_a_def_endpoint_computes_is_cpu_and_the_rest_of_its_time_the_threads(
    rig: Rig, loop: str
) -> None:
    """Without what its queries take."""

    @rig.app.get("/")
    def endpoint() -> None:
        burn()
        time.sleep(SLEPT)
        enter(current(), "db", perf_counter())
        burn()
        leave(current(), "db", perf_counter())

    rig.instrument()
    parts = rig.parts(loop=loop)

    assert parts["cpu"] >= BURNT
    assert parts["db"] >= BURNT
    assert parts["cpu"] + BURNT <= rig.cpu
    assert parts["thread"] + parts["cpu"] >= BURNT + SLEPT


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_what_makes_a_stream_is_counted_to_its_last_byte(rig: Rig, kind: str) -> None:
    """In a task of its own, or in threads."""

    @rig.app.get("/async")
    async def asynchronous() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(2):
                burn()
                yield b"x"
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    @rig.app.get("/plain")
    async def plain() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            for _ in range(2):
                burn()
                yield b"x"

        return StreamingResponse(chunks())

    rig.instrument()

    assert 2 * BURNT <= rig.parts(f"/{kind}")["cpu"] <= rig.cpu


def test_who_waits_on_the_loop_blocks_it(rig: Rig) -> None:
    """However short it is."""

    @rig.app.get("/")
    async def endpoint() -> None:
        time.sleep(SLEPT)  # noqa: ASYNC251 - the fault that is looked for

    rig.instrument()
    parts = rig.parts()

    assert parts["cpu"] + parts["blocking"] >= SLEPT
    assert parts["cpu"] <= rig.cpu


def test_who_waits_for_others_does_not_block(rig: Rig) -> None:
    """It is not on the loop then."""

    @rig.app.get("/")
    async def endpoint() -> None:
        await asyncio.sleep(SLEPT)

    rig.instrument()
    parts = rig.parts()

    # Unless a busy machine let the loop stand still meanwhile.
    assert parts["unaccounted"] + parts.get("loop_wait", 0.0) >= SLEPT * 0.9


def test_a_query_that_is_waited_for_on_the_loop_is_the_database_s(rig: Rig) -> None:
    """It has a better name than blocking."""

    @rig.app.get("/")
    async def endpoint() -> None:
        enter(current(), "db", perf_counter())
        time.sleep(SLEPT)  # noqa: ASYNC251 - the fault that is looked for
        leave(current(), "db", perf_counter())

    rig.instrument()

    assert rig.parts()["db"] >= SLEPT


def test_who_computes_does_not_wait_for_what_it_asked(rig: Rig) -> None:
    """A query of a child task goes on meanwhile, but it is not what takes the time."""

    @rig.app.get("/")
    async def endpoint() -> None:
        enter(current(), "db", perf_counter())
        await asyncio.sleep(0)
        burn()
        await asyncio.sleep(SLEPT)
        leave(current(), "db", perf_counter())

    rig.instrument()
    parts = rig.parts()

    assert parts["cpu"] >= BURNT
    assert parts["db"] + parts.get("loop_wait", 0.0) >= SLEPT * 0.9


def test_what_is_computed_in_a_section_is_the_sections(rig: Rig) -> None:
    """Whether its step began before or within; what comes behind it in the same step is not."""

    @rig.app.get("/")
    async def endpoint() -> None:
        with section("render"):
            burn()
            await asyncio.sleep(0)
            burn()
        burn()

    rig.instrument()
    parts = rig.parts()

    assert parts["render"] >= 2 * BURNT
    assert BURNT <= parts["cpu"] <= rig.cpu - 2 * BURNT


def test_a_background_task_is_not_in_the_breakdown(rig: Rig) -> None:
    """The last byte was sent."""

    @rig.app.get("/")
    async def endpoint(background: BackgroundTasks) -> None:
        background.add_task(grouped)

    rig.instrument()

    assert rig.parts()["cpu"] <= rig.cpu - 2 * BURNT


def test_an_exception_is_a_step_and_a_cancelled_request_is_told(rig: Rig) -> None:
    """Whoever catches it may go on."""

    @rig.app.get("/")
    async def endpoint() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        try:
            await asyncio.sleep(SLEPT)
        except asyncio.CancelledError:
            burn()
            await asyncio.sleep(0)
            raise

    rig.instrument()

    assert rig.parts()["cpu"] >= BURNT


def test_it_stays_what_it_was_when_it_is_over(rig: Rig) -> None:
    """The stack and the loop's task factory, also one of the app's own, which made the tasks meanwhile."""
    made: list[str] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    @rig.app.get("/")
    async def endpoint() -> None:
        await asyncio.gather(asyncio.sleep(0))

    handle = rig.instrument()

    async def main() -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        await call(rig.app)
        await call(rig.app)
        during = isinstance(loop.get_task_factory(), Tasks)
        handle.uninstrument()
        return during, loop.get_task_factory() is factory

    during, after = asyncio.run(main())

    assert (during, after) == (True, True)
    assert made.count("sleep") == 2
    assert not isinstance(rig.app.middleware_stack, Stepped)


def test_tasks_of_nobody_are_made_as_before() -> None:
    """Also those of a context that is given, and of requests that are over."""
    tasks = Tasks(None)

    async def work() -> str:
        return "done"

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        return [await tasks(loop, work(), name="mine"), await tasks(loop, work())]

    assert asyncio.run(main()) == ["done", "done"]


def test_another_framework_than_asyncio_is_left_alone(exchange: Exchange) -> None:
    """There is no task factory; the request itself is driven all the same."""
    exchange.parts = NO_PARTS

    async def app(*_: object) -> None:
        burn()

    token = CURRENT.set(exchange)
    try:
        with pytest.raises(StopIteration):
            Stepped(app)({}, app, app).send(None)  # type: ignore[arg-type]
    finally:
        CURRENT.reset(token)

    assert exchange.parts["cpu"] >= BURNT


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_disturbs_no_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is contained, and the app answers."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    @rig.app.get("/")
    async def endpoint() -> str:
        await asyncio.gather(asyncio.sleep(0))
        return "answered"

    rig.instrument()
    for owner, name in ((Steps, "begins"), (Steps, "ends"), (_steps, "_driven")):
        monkeypatch.setattr(owner, name, broken)
    answer = asyncio.run(call(rig.app))

    assert answer.body == b'"answered"'


def test_a_request_that_is_slow_shows_what_its_tasks_await(rig: Rig, tmp_path: Any) -> None:
    """Who looks at its coroutines from outside sees through what drives them."""
    rig.lines.clear()

    async def helper() -> None:
        exchange = current()
        assert exchange is not None
        handle = rig.app.state.fastobs

        def seen() -> float:
            capture = handle._tail._captures.get(exchange)
            place = None if capture is None else capture.busiest()
            return 0.0 if place is None else place.seconds

        # More than what is told at least, since what follows takes time, too.
        while seen() < 1.5 * TELLING * (perf_counter() - exchange.started):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @rig.app.get("/")
    async def endpoint() -> None:
        await asyncio.gather(helper())

    rig.app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    rig.instrument(slow={"after": 0.05}, profiles={"directory": tmp_path / "profiles"})

    async def main() -> None:
        await asyncio.wait_for(call(rig.app), 30.0)

    asyncio.run(main())

    (line,) = (line for line in rig.lines if line["event"] == "slow_request")
    (finding,) = (each for each in line["findings"] if each["kind"] == "mostly_at")
    assert finding["function"].endswith("helper")


def test_a_request_that_is_profiled_is_not_driven(rig: Rig, tmp_path: Any) -> None:
    """The profiler sees more, and would take what drives it for the end of its waiting."""
    settings: dict[str, Any] = {"directory": tmp_path / "profiles", "token": "t"}

    @rig.app.get("/")
    async def endpoint() -> None:
        exchange = current()
        assert exchange is not None
        assert not isinstance(exchange.parts, Steps)

    rig.instrument(profiles=settings)
    answer = asyncio.run(call(rig.app, headers={"x-profile": "t"}))

    assert (answer.status, "x-profile-id" in answer.headers) == (200, True)


def test_of_a_thread_that_is_gone_no_time_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of another one, where the system does not tell; then it is what it is without."""
    workers: list[Worker] = []

    def make() -> None:
        workers.append(Worker("thread", "thread"))

    for _ in range(2):
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        monkeypatch.setattr(_steps, "_clock_of", None)
    here = Worker("thread", "thread")

    assert eventually(lambda: workers[0].cpu() is None)
    assert workers[1].cpu() is None
    assert here.cpu() is not None


@pytest.fixture
def exchange() -> Exchange:
    """One that began at 10 s, and is driven."""
    exchange = Exchange(scope("/"), Routes(None), 10.0)  # type: ignore[arg-type]
    exchange.parts = Steps()
    return exchange


def test_two_threads_at_once_are_counted_once(exchange: Exchange) -> None:
    """Each ends its own, whichever that is."""
    inside, outside = threading.Event(), threading.Event()

    def other() -> None:
        enter(exchange, "thread", 12.0)
        inside.set()
        outside.wait(30)
        leave(exchange, "thread", 16.0)

    enter(exchange, "thread", 11.0)
    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    leave(exchange, "thread", 14.0)
    parts = exchange.parts
    assert isinstance(parts, Steps)
    going_on = list(parts._open)
    outside.set()
    thread.join()

    assert [worker.thread for worker in going_on] == [thread.ident]  # type: ignore[attr-defined]
    assert sum(parts.values()) == pytest.approx(5.0)
    assert parts._open == []


def test_a_thread_that_was_given_up_is_ended_by_the_loop(exchange: Exchange) -> None:
    """It has not begun on this thread."""
    thread = threading.Thread(target=lambda: enter(exchange, "thread", 11.0))
    thread.start()
    thread.join()
    leave(exchange, "thread", 12.0)
    parts = exchange.parts

    assert isinstance(parts, Steps)
    assert parts._open == []


def held(part: str, grip: Grip) -> Held:
    return Held(part, grip, at=0, event="blocked", attributes={})


def test_a_step_that_held_the_loop_ends_what_the_watchdog_tells(exchange: Exchange) -> None:
    """And its time is counted once, however much of it the watchdog says was computed."""
    parts = exchange.parts
    assert isinstance(parts, Steps)
    now = perf_counter()
    exchange.started = now
    parts.begins(Worker("step", BLOCKING))
    hold(exchange, held(BLOCKING, Grip(began=now - 2, computed=2.0)))
    time.sleep(SLEPT)
    parts.ends()
    whole = perf_counter() - now
    leave(exchange, "nothing", now + 4)

    assert SLEPT <= sum(parts.values()) <= whole
    assert SLEPT <= parts.held[0].seconds <= whole
    parts.ends()
    assert sum(parts.values()) <= whole


def test_a_moment_is_taken_to_be_computed(exchange: Exchange) -> None:
    """Nobody can block for so short a time that it matters, and the kernel need not be asked."""
    worker = Worker("step", BLOCKING)
    for _ in range(1000):
        exchange.parts = parts = Steps()
        parts.begins(worker)
        parts._since = began = perf_counter() - _steps.SHORT / 2
        parts._cpu = 1e9
        parts.ends()
        # A busy machine may have made it longer.
        if perf_counter() - began <= _steps.SHORT:
            break

    assert parts.keys() == {"cpu"}


def test_who_waits_for_a_processor_where_a_part_begins_does_not_compute(exchange: Exchange) -> None:
    """The clock of the processor is read later than the other one, on a busy machine much later."""
    computed = time.thread_time()
    enter(exchange, "thread", perf_counter() - 1.0)
    leave(exchange, "thread", perf_counter())
    computed = time.thread_time() - computed

    assert exchange.parts["cpu"] <= computed + _steps.SHORT
    assert exchange.parts["thread"] > 0.9


def test_what_no_step_of_ours_holds_is_told_by_the_watchdog(exchange: Exchange) -> None:
    """As without steps: a task that some other factory made."""
    hold(exchange, held(BLOCKING, Grip(began=11.0, end=14.0, computed=2.0)))
    closed(exchange, 5.0)

    assert account(exchange) == {"cpu": 2.0, "blocking": 1.0, "unaccounted": 2.0}


@pytest.mark.parametrize("off", [None, "off", False])
def test_it_can_be_switched_off(rig: Rig, shared: Any, off: Any) -> None:
    """No parts in the line, the metrics or the header; what held the loop is told all the same."""

    @rig.app.get("/")
    async def endpoint() -> None:
        exchange = current()
        assert exchange is not None
        with section("render"):
            pass
        hold(exchange, held(LOOP_WAIT, Grip(began=exchange.started, end=perf_counter())))
        hold(exchange, held(LOOP_WAIT, Grip(began=exchange.started)))

    @rig.app.get("/plain")
    async def plain() -> None: ...

    rig.instrument(breakdown=off, metrics={"server_timing": True})
    answers = [asyncio.run(call(rig.app, path)) for path in ("/", "/plain")]

    assert ["parts" in line for line in rig.lines] == [False, False]
    assert [each["kind"] for each in rig.lines[0]["findings"]] == ["event_loop_blocked"] * 2
    assert all(answer.headers["server-timing"].startswith("total;dur=") for answer in answers)
    assert not list(shared.meters.rows(catalogue.HTTP_PART))


def test_what_is_off_is_shared_until_somebody_is_held() -> None:
    """A request that nothing holds makes no object for it."""
    first, second = (Exchange(scope("/"), Routes(None), 10.0) for _ in range(2))  # type: ignore[arg-type]
    for each in (first, second):
        each.parts = OFF
        enter(each, "db", 11.0)
        leave(each, "db", 12.0)
    hold(first, held(LOOP_WAIT, Grip(began=11.0, end=12.0)))

    assert second.parts is OFF
    assert isinstance(first.parts, Off)
    assert first.parts is not OFF
    assert OFF == {}
    assert OFF.held == ()
    assert not second.noted


def test_a_step_knows_only_the_parts_that_it_should() -> None:
    """Whatever the catalogue does not name is a section."""
    assert _steps.WAITS | {"cpu", "unaccounted"} == set(catalogue.PART)
