"""Blocks of the event loop, and what is none."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from fastobs.watchdog import Block, Heart, Watchdog, refusal, watchdog_of
from fastobs.watchdog.holder import holder
from fastobs.watchdog.watch import Grip, Ward
from tests.driving import call
from tests.parts import eventually
from tests.probes.waiting import until

from . import blockers
from .rig import (
    AFTER,
    TICK,
    Told,
    asking,
    beaten,
    blocked,
    each_loop,
    heart_of_this_loop,
    run,
    served,
    watched,
)

HERE = "tests/watchdog/test_watch.py"


@pytest.fixture(scope="module", autouse=True)
def _data() -> None:
    blockers.prepare()


@each_loop
@pytest.mark.parametrize("blocker", blockers.BLOCKERS, ids=lambda blocker: blocker.__name__)
def test_each_kind_of_block_is_told_once_with_its_function_and_route(
    blocker: Callable[[], None], loop: str
) -> None:
    """Whether it waits or computes, lets go of the GIL or keeps it; with those who had to wait."""
    app = FastAPI()
    release: list[asyncio.Event] = []
    computed: list[float] = []

    @app.get("/victims/{number}")
    async def victim(number: int) -> None:
        await release[0].wait()

    @app.get("/culprits/{number}")
    async def culprit(number: int) -> None:
        await asyncio.sleep(TICK)
        began = time.thread_time()
        blocker()
        computed.append(time.thread_time() - began)

    async def main() -> tuple[list[Block], float]:
        release.append(asyncio.Event())
        heart = heart_of_this_loop()
        await beaten(heart)
        with watched(heart) as told:
            asked = served(app)
            victims = [asyncio.create_task(call(asked, f"/victims/{n}")) for n in range(3)]
            await beaten(heart)
            whole = await blocked(told, asking(asked, "/culprits/7"), blocker)
            await beaten(heart)
            release[0].set()
            await asyncio.gather(*victims)
            return told.at(blocker), whole

    (block,), whole = run(main(), loop)

    assert block.exchange is not None
    assert block.exchange.route == "/culprits/{number}"
    assert block.place.function == blocker.__name__
    assert block.place.file == "tests/watchdog/blockers.py"
    assert len(block.others) == 3
    # Of a machine that is busy otherwise only what was computed counts; a wait may be shortened.
    assert max(computed[-1] / 2, AFTER) < block.duration < whole


@each_loop
def test_who_holds_the_loop_is_found_behind_middleware_and_child_tasks(loop: str) -> None:
    """Their tasks have the context of the request."""
    app = FastAPI()

    async def blocks() -> None:
        blockers.waits()

    @app.get("/parent")
    async def parent() -> None:
        await asyncio.gather(blocks(), asyncio.sleep(0))

    async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)

    async def main() -> list[Block]:
        heart = heart_of_this_loop()
        await beaten(heart)
        with watched(heart) as told:
            await blocked(told, asking(served(app), "/parent"), blockers.waits)
            return told.at(blockers.waits)

    (block,) = run(main(), loop)

    assert block.exchange is not None
    assert block.exchange.route == "/parent"
    assert (block.place.function, block.others) == ("waits", ())


@each_loop
def test_a_background_task_that_blocks_is_its_routes(loop: str) -> None:
    """The response is sent, but others wait."""
    app = FastAPI()

    async def later() -> None:
        blockers.waits()

    @app.get("/job")
    async def job(background: BackgroundTasks) -> None:
        background.add_task(later)

    async def main() -> list[Block]:
        heart = heart_of_this_loop()
        await beaten(heart)
        with watched(heart) as told:
            await blocked(told, asking(served(app), "/job"), blockers.waits)
            return told.at(blockers.waits)

    (block,) = run(main(), loop)

    assert block.exchange is not None
    assert block.exchange.route == "/job"


@each_loop
def test_a_callback_that_blocks_has_a_place_and_no_route(loop: str) -> None:
    """No task runs, so nobody knows which request led to it."""

    async def calls_back() -> None:
        asyncio.get_running_loop().call_soon(blockers.waits)

    async def main() -> list[Block]:
        heart = heart_of_this_loop()
        await beaten(heart)
        with watched(heart) as told:
            await blocked(told, calls_back, blockers.waits)
            return told.at(blockers.waits)

    (block,) = run(main(), loop)

    assert block.exchange is None


@each_loop
def test_a_def_endpoint_that_blocks_its_thread_is_no_block(loop: str) -> None:
    """The loop goes on."""
    app = FastAPI()

    @app.get("/thread")
    def thread() -> None:
        blockers.waits()

    async def main() -> list[Block]:
        heart = heart_of_this_loop()
        await beaten(heart)
        with watched(heart) as told:
            await call(served(app), "/thread")
            await beaten(heart)
            await beaten(heart)
            return told.begun + told.blocks

    # A step of the loop's own that a busy machine made long is one, and another's.
    assert not [block for block in run(main(), loop) if block.place.function == "waits"]


@each_loop
def test_many_short_steps_are_no_block(loop: str) -> None:
    """Together they make everybody late, but none of them is to blame."""
    short = TICK / 2

    async def main() -> list[Block]:
        told, heart = Told(), await silent_heart()
        ward = Ward(heart, told, AFTER, TICK)
        began = perf_counter()

        async def step(number: int) -> None:
            looks(ward, *(began + (number + part) * short for part in (0.0, 0.5, 1.0)))

        for number in range(10):
            await asyncio.create_task(step(number))
        heart.beaten = began + 10 * short
        ward.look(heart.beaten, heart.beaten - TICK, TICK)
        return told.begun + told.blocks

    assert run(main(), loop) == []


async def silent_heart() -> Heart:
    """One that beats no more: where the test says what time it is, no beat may come in between."""
    heart = heart_of_this_loop()
    await beaten(heart)
    heart.stopped = True
    return heart


def looks(ward: Ward, *times: float) -> None:
    """Have the ward look from another thread, at these seconds, while this one holds the loop."""

    def look() -> None:
        slept = times[0]
        for now in times[1:]:
            ward.look(now, slept, TICK)
            slept = now

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()


class Busy(Heart):
    """The loop's thread seems to work all the time."""

    used = 0.0
    between = 10.0
    """Seconds of processor time between two looks."""

    def cpu(self) -> float:
        self.used += self.between
        return self.used


class HalfBusy(Busy):
    """It seems to have worked for this long, and a pause before that."""

    between = 0.25 + TICK


class Awake(Busy):
    """It seems to wake up now and then, as who asks for the GIL again and again."""

    between = 0.001


async def after_looks(told: Told, heart: Heart, *seconds: float) -> list[Block]:
    """What is told of a step that is looked at after so many seconds."""
    await beaten(heart)
    ward = Ward(heart, told, AFTER, TICK)
    now = perf_counter()
    looks(ward, now, *(now + each for each in seconds))
    now += seconds[-1]
    heart.beaten = now
    ward.look(now, now - TICK, TICK)
    return told.blocks


def test_what_happened_while_the_process_was_paused_is_no_block() -> None:
    """The watchdog was late as well, and the loop's thread did not run."""

    async def main() -> list[Block]:
        return await after_looks(Told(), heart_of_this_loop(), TICK, 1.0)

    assert run(main()) == []


def test_of_a_block_that_a_pause_interrupts_the_pause_is_not_counted() -> None:
    """Nobody knows whether it held the loop, or nothing ran at all."""

    async def main() -> list[Block]:
        steps = [1.0 + n * TICK for n in range(11)]
        return await after_looks(Told(), heart_of_this_loop(), TICK, *steps)

    (block,) = run(main())

    assert block.duration == pytest.approx(11 * TICK)


def test_a_watchdog_that_comes_after_the_end_takes_nothing_from_the_block() -> None:
    """The beat told when that was, and the pause that followed is not the step's."""

    async def main() -> list[Block]:
        told, heart = Told(), heart_of_this_loop(HalfBusy)
        await beaten(heart)
        ward = Ward(heart, told, AFTER, TICK)
        now = perf_counter()
        looks(ward, now, now + TICK)
        heart.beaten = now + TICK + 0.5
        ward.look(now + 3.0, now + TICK, TICK)
        return told.blocks

    (block,) = run(main())

    # What it computed, and the tick in which nobody would have looked.
    assert block.duration == pytest.approx(0.25 + TICK)


def test_a_call_that_keeps_the_gil_is_a_block_though_the_watchdog_was_late() -> None:
    """It could not look, but the loop's thread ran all the time."""

    async def main() -> list[Block]:
        return await after_looks(Told(), heart_of_this_loop(Busy), 1.0)

    (block,) = run(main())

    assert block.duration == pytest.approx(1.0 - TICK)


@pytest.mark.parametrize(
    ("kind", "told"), [(Awake, 0), (Busy, 1), (Heart, 1)], ids=["awake", "computes", "sleeps"]
)
def test_a_step_that_a_thread_keeps_from_going_on_is_no_block(kind: type[Heart], told: int) -> None:
    """The watchdog is a little late each time, since others keep the GIL; unless the step does not need it,
    or computes all the same."""

    async def main() -> list[int]:
        heard, heart = Told(), heart_of_this_loop(kind)
        await after_looks(heard, heart, *(number * 1.8 * TICK for number in range(1, 10)))
        return [len(heard.begun), len(heard.blocks)]

    assert run(main()) == [told, told]


def test_a_step_that_nobody_saw_end_has_ended_when_it_was_seen_last() -> None:
    """The beat came later, since others ran in between."""

    async def main() -> tuple[list[Block], float]:
        told, heart = Told(), await silent_heart()
        ward = Ward(heart, told, AFTER, TICK)
        began = perf_counter()

        async def holds(since: float, times: int) -> None:
            looks(ward, *(since + n * TICK for n in range(times + 1)))

        await asyncio.create_task(holds(began, 10))
        await asyncio.create_task(holds(began + 10 * TICK, 3))
        heart.beaten = began + 100 * TICK
        ward.look(began + 14 * TICK, began + 13 * TICK, TICK)
        return told.blocks, began

    blocks, _ = run(main())

    assert blocks[0].duration == pytest.approx(9 * TICK)


def test_a_loop_that_waits_holds_nothing_however_late_its_beat() -> None:
    """Another thread may have had the GIL."""

    async def main() -> list[Block]:
        told, heart = Told(), heart_of_this_loop()
        await beaten(heart)
        ward = Ward(heart, told, AFTER, TICK)
        late = heart.due + 1.0

        def look() -> list[float]:
            while sys._current_frames()[heart.thread].f_code.co_name != "select":
                pass
            return [ward.look(now, now, 0.0) for now in (late, late + 1.0)]

        assert await asyncio.to_thread(look) == [TICK, TICK]
        return told.blocks

    assert run(main()) == []


def test_a_loop_that_does_not_run_is_left_alone() -> None:
    """It may run again, so it is still a ward."""
    with asyncio.Runner() as runner:

        async def main() -> Ward:
            heart = heart_of_this_loop()
            await beaten(heart)
            return Ward(heart, Told(), AFTER, TICK)

        ward = runner.run(main())
        now = ward.heart.due + 1.0

        assert ward.lives
        assert ward.look(now, now - TICK, TICK) == TICK
    assert not ward.lives


def test_a_long_block_is_looked_at_less_often() -> None:
    """Soon at first, then with every tick."""

    async def main() -> list[float]:
        heart = heart_of_this_loop()
        await beaten(heart)
        ward = Ward(heart, Told(), AFTER, TICK)
        now = heart.due
        pauses: list[float] = []

        def look() -> None:
            pauses.extend(ward.look(now + each, now + each, 0.0) for each in (TICK, 2 * TICK, 1.0))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return pauses

    first, second, last = run(main())

    assert first == second < last == TICK


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastobs-watchdog"]


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    # Those of other tests have been stopped, and may not have heard of it.
    assert eventually(gone)
    watchdog = Watchdog(Told(), after=AFTER, tick=TICK)
    yield watchdog
    watchdog.stop()


def gone() -> bool:
    return not threads()


def test_one_thread_watches_all_loops_and_ends_with_the_last(dog: Watchdog) -> None:
    """It does not keep a loop alive, and starts anew with the next one."""

    async def main() -> int:
        dog.watch(heart := heart_of_this_loop())
        dog.watch(heart)
        dog.watch(heart_of_this_loop())
        await beaten(heart)
        return len(threads())

    assert run(main()) == 1
    gc.collect()
    run(until(gone))
    assert run(main()) == 1


def test_it_ends_when_it_is_stopped(dog: Watchdog) -> None:
    """While the loop goes on."""

    async def main() -> None:
        dog.watch(heart_of_this_loop())
        assert len(threads()) == 1
        dog.stop()
        await until(gone)

    run(main())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_watches_nothing_until_a_loop_is_introduced(dog: Watchdog) -> None:
    """The parent's loops do not run there, and its thread is not there."""

    async def main() -> int:
        heart = heart_of_this_loop()
        await beaten(heart)
        dog.watch(heart)
        if not (child := os.fork()):
            fresh = not threads() and not dog._wards
            dog.watch(heart)
            os._exit(0 if fresh and len(threads()) == 1 else 1)
        return child

    assert os.waitstatus_to_exitcode(os.waitpid(run(main()), 0)[1]) == 0


class Looks:
    """A companion that counts its looks."""

    def __init__(self) -> None:
        self.stopped = False
        self.times = 0

    def look(self, wards: Sequence[Ward], now: float) -> float:
        assert wards
        assert now > 0
        self.times += 1
        return TICK / 10


def test_others_look_with_it_until_they_are_stopped(dog: Watchdog) -> None:
    """On its thread, as soon as they want to."""
    first, second = Looks(), Looks()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert watchdog_of(loop) is None
        dog.watch(heart_of_this_loop())
        assert watchdog_of(loop) is dog
        for each in (first, second, first):
            dog.accompany(each)
        assert len(dog._companions) == 2
        await until(lambda: first.times and second.times)
        first.stopped = True
        await until(lambda: len(dog._companions) == 1)
        seen = second.times
        await until(lambda: second.times > seen)

    run(main())


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_does_not_end_the_watch() -> None:
    """It is contained, and the next block is told."""

    class Fails(Told):
        def ended(self, block: Block) -> None:
            super().ended(block)
            if len(self.blocks) == 1:
                raise ZeroDivisionError

    async def waits() -> None:
        blockers.waits()

    async def main() -> int:
        told = Fails()
        heart = heart_of_this_loop()
        await beaten(heart)
        dog = Watchdog(told, after=AFTER, tick=TICK)
        dog.watch(heart)
        for count in (1, 2):
            await blocked(told, waits, blockers.waits, count=count)
        dog.stop()
        return len(told.at(blockers.waits))

    assert run(main()) == 2


def test_a_python_without_the_gil_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There the frames of another thread must not be read."""
    assert refusal() == ""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert "GIL" in refusal()


async def held_by(told: Told, heart: Heart) -> tuple[Ward, Grip]:
    """A step of this task that is seen for three ticks of the watchdog."""
    await beaten(heart)
    ward = Ward(heart, told, AFTER, TICK)
    now = perf_counter()
    looks(ward, now, *(now + n * TICK for n in range(1, 5)))
    (block,) = told.begun
    assert isinstance(block.grip, Grip)
    return ward, block.grip


def elsewhere(grip: Grip) -> float | None:
    """What another thread is told."""
    found: list[float | None] = []
    thread = threading.Thread(target=lambda: found.append(grip.ended()))
    thread.start()
    thread.join()
    return found[0]


def test_a_step_goes_on_until_the_next_beat() -> None:
    """For all who ask, and before the watchdog has looked again; it may be told another end then."""

    async def main() -> None:
        heart = heart_of_this_loop()
        ward, grip = await held_by(Told(), heart)
        assert (grip.ended(), elsewhere(grip)) == (None, None)
        heart.beaten = grip.seen + 1.0
        assert grip.ended() == elsewhere(grip) == grip.seen + 1.0
        ward._end(grip.seen + 0.5)
        heart.beaten = None
        assert grip.ended() == grip.seen + 0.5

    run(main())


@each_loop
def test_when_another_step_runs_the_one_before_has_ended(loop: str) -> None:
    """Though there was no beat yet: it is taken to have ended when it was seen last."""

    async def main() -> None:
        told, heart = Told(), heart_of_this_loop()
        await beaten(heart)
        _, grip = await asyncio.create_task(held_by(told, heart))
        heart.beaten = None
        assert grip.ended() == grip.seen
        assert elsewhere(grip) is None

    run(main(), loop)


def test_a_callback_has_ended_when_a_task_asks() -> None:
    """It has no task that could ask."""

    async def main() -> None:
        heart = heart_of_this_loop()
        await beaten(heart)
        heart.beaten = None
        grip = Grip(heart, None, 1.0, 0.0)
        assert grip.ended() == 1.0

    run(main())


def test_nothing_is_held_by_a_loop_that_nobody_looks_at_any_more(dog: Watchdog) -> None:
    """What was seen until then is all that is known."""

    async def main() -> None:
        heart = heart_of_this_loop()
        ward, grip = await held_by(Told(), heart)
        dog._wards = [ward]
        dog.stop()
        assert grip.ended() == grip.seen

    run(main())


def test_a_step_that_begins_within_a_look_is_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may keep the GIL right away, and be over with the next look."""

    async def main() -> tuple[object, object]:
        heart, loop = await silent_heart(), asyncio.get_running_loop()
        task = asyncio.current_task()
        found = iter([None, task, task, task])
        monkeypatch.setattr(asyncio, "current_task", lambda _: next(found))
        seen = holder(heart, loop)
        monkeypatch.undo()
        assert seen is not None
        assert seen.task is not None
        return seen.task(), task

    seen, task = run(main())

    assert seen is task


def test_a_loop_that_is_gone_tells_no_end() -> None:
    """It cannot be asked what it runs."""

    async def main() -> Grip:
        _, grip = await held_by(Told(), heart_of_this_loop())
        return grip

    grip = run(main())
    gc.collect()

    assert grip.ended() is None
