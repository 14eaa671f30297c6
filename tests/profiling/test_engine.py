"""A recording is bounded, knows what was waited for, and leaves the thread as it was."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from operator import itemgetter
from types import coroutine
from typing import TypeVar

import anyio.to_thread
import pytest
from pyinstrument.stack_sampler import (
    AsyncState,
    active_profiler_context_var,
    build_call_stack,
    get_stack_sampler,
)

from fastobs.profiling.engine import (
    MAX_DEPTH,
    THREADS,
    Hop,
    Note,
    Recording,
    _unsubscribe,
    busy,
    record,
)
from fastobs.profiling.waiting import Waiting, _chain
from tests.driving import Clock
from tests.profiling.rig import burn, each_loop, named, run

T = TypeVar("T")


def recording(**more: object) -> Recording:
    return record(**{"interval": 0.001, "max_seconds": 30.0, **more})  # type: ignore[arg-type]


def test_a_recording_ends_with_so_many_samples():
    """However fast the work produces them."""
    mine = recording(interval=0.0001, max_samples=5)
    burn()
    detached = not busy()
    mine.stop()

    assert (mine.count, mine.truncated, detached) == (5, True, True)


def test_a_recording_ends_after_so_many_seconds():
    """The clock decides, even while the event loop is blocked and could not."""
    clock = Clock()
    mine = recording(max_seconds=10.0, clock=clock)
    burn(0.005)
    before = mine.running
    clock.now += 11
    burn(0.005)

    assert (before, mine.running, mine.truncated, busy()) == (True, False, True, False)


def test_a_recording_ends_with_so_many_different_stacks(monkeypatch: pytest.MonkeyPatch):
    """A recursion that is different each time does not fill the memory."""
    monkeypatch.setattr("fastobs.profiling.engine.MAX_NODES", 3)
    mine = recording()
    burn(0.01)

    assert (mine.running, mine.truncated) == (False, True)


def test_a_deep_recursion_is_cut():
    """Its beginning is shown; a renderer that is recursive itself could not show more."""

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            burn()

    mine = recording()
    deep(MAX_DEPTH)
    mine.stop()
    stacks = mine.stacks("deep").session().frame_records

    assert max(len(stack) for stack, _ in stacks) == MAX_DEPTH


def test_the_next_recording_does_not_inherit_time():
    """What passed since one that ended by itself is nobody's."""
    first = recording(max_samples=1)
    burn(0.1)
    began = time.perf_counter()
    second = recording()
    burn(0.005)
    second.stop()
    first.stop()

    assert (
        sum(sample.seconds for sample in second.stacks("").samples) <= time.perf_counter() - began
    )


def test_a_recording_can_be_stopped_from_another_thread():
    """It ends there and then; its own thread is free again with the next look."""
    mine = recording()
    other = threading.Thread(target=mine.stop)
    other.start()
    other.join()

    assert not mine.running
    assert not busy()
    assert get_stack_sampler().subscribers == []


def test_stopping_in_another_context_does_not_disturb_a_stranger():
    """Whose profiler is in the variable there stays in it."""
    mine = recording()
    stranger = object()
    token = active_profiler_context_var.set(stranger)
    mine.stop()
    found = active_profiler_context_var.get()
    active_profiler_context_var.reset(token)
    active_profiler_context_var.set(None)

    assert found is stranger


def test_without_an_event_loop_it_records_plain_code():
    """As a script would use it."""
    mine = recording()
    burn()
    mine.stop()

    assert any("burn" in stack for stack in named(mine.stacks("plain")))
    assert sys.getprofile() is None


@each_loop
def test_waiting_is_named_after_the_task_that_still_waits(loop: str):
    """A short task that ran last, and is over, is not what the request waits for."""

    async def short() -> None: ...

    async def long() -> None:
        await asyncio.sleep(0.03)

    async def request() -> Recording:
        mine = recording()
        task = asyncio.create_task(short())
        await long()
        await task
        mine.stop()
        return mine

    mine = run(request(), loop)

    assert longest(mine)[-3:] == ["long", "sleep", "[await]"]


@each_loop
def test_waiting_is_seen_through_everything_that_waits(loop: str):
    """Coroutines, asynchronous generators, and generators that are awaited."""

    @coroutine
    def generator():
        yield from asyncio.sleep(0.03).__await__()

    async def rows() -> AsyncIterator[int]:
        await generator()
        yield 1

    async def consume() -> None:
        async for _ in rows():
            pass

    async def request() -> Recording:
        mine = recording()
        # The first task only waits for the other one, which is therefore the one to be shown.
        async with asyncio.TaskGroup() as group:
            group.create_task(consume())
        mine.stop()
        return mine

    assert longest(run(request(), loop))[-5:] == [
        "consume",
        "rows",
        "generator",
        "sleep",
        "[await]",
    ]


def longest(mine: Recording) -> list[str]:
    """The stack on which most of the time was spent, by the names of its functions."""
    stacks = mine.stacks("")
    spent: dict[tuple[str, ...], float] = {}
    for names, sample in zip(named(stacks), stacks.samples, strict=True):
        spent[tuple(names)] = spent.get(tuple(names), 0.0) + sample.seconds
    return list(max(spent.items(), key=itemgetter(1))[0])


def direct(**more: object) -> Recording:
    """A recording that gets its samples from the test, one every tenth of a second."""
    # So long that none comes before nobody samples any more.
    mine = recording(clock=Ticking(), interval=3600.0, **more)
    _unsubscribe(mine)
    return mine


class Ticking(Clock):
    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def shown(mine: Recording) -> list[tuple[str, float]]:
    """The stacks of a recording as paths, with their seconds."""
    stacks = mine.stacks("")
    return [
        ("/".join(names), round(sample.seconds, 3))
        for names, sample in zip(named(stacks), stacks.samples, strict=True)
    ]


def test_a_sample_is_booked_where_the_time_was_spent():
    """On what ran, or on what was waited for; what ran for others meanwhile is not shown."""
    mine = direct()
    mine(["main", "work"], 0.1, None)
    mine(["main", "work"], 0.1, AsyncState("in_context"))
    mine(["main", "other"], 0.2, AsyncState("out_of_context_awaited", ["main", "wait"]))
    mine(["main", "other"], 0.3, AsyncState("out_of_context_unknown", ["main", "left"]))
    mine.stop()
    mine(["main", "late"], 0.4, None)

    assert shown(mine) == [
        ("main/work", 0.2),
        ("main/wait/[await]", 0.2),
        ("main/left/[out-of-context]", 0.3),
    ]


def test_time_that_ends_with_a_task_going_on_was_waiting():
    """Uvloop shows no code of its own between a task's suspension and its return."""

    async def request() -> Recording:
        mine = direct()
        stem = mine._waiting._stem
        mine(stem, 0.1, AsyncState("in_context"))
        mine([*stem, "work"], 0.2, AsyncState("in_context"))
        mine.stop()
        return mine

    waited, worked = shown(asyncio.run(request()))

    assert waited[0].endswith("/request/[await]")
    assert worked[0].endswith("/work")


def test_a_recording_that_ended_early_still_frees_the_context():
    """The variable that says who profiles here is empty when the request is over."""
    mine = direct()
    active_profiler_context_var.set(mine)
    mine.stop()

    assert active_profiler_context_var.get() is None


def test_a_function_that_comes_too_late_is_not_sampled():
    """It waited for a thread until the recording was over."""
    mine = recording()
    hop = mine.hop(sys.getprofile, sys._getframe())
    mine.stop()

    assert run_in_thread(hop) is None
    assert hop.timeline.notes == []


def test_a_sample_in_the_midst_of_the_beginning_is_no_end():
    """On a busy machine the sampler may be due before its start has returned."""

    async def request() -> tuple[bool, list[str]]:
        mine = recording(interval=1e-9)
        ours = active_profiler_context_var.get() is mine
        burn(0.001)
        mine.stop()
        return ours, [path for path, _ in shown(mine)]

    ours, paths = run(request())

    assert ours
    assert not any("[out-of-context]" in path for path in paths), paths


def test_what_is_at_work_on_the_sample_that_ends_a_recording_is_kept():
    """pyinstrument goes on with its state after the call in which it is told to stop; freed by then, it
    fails in the user's code: "failed to get value of the context var"."""
    mine = recording(interval=0.0001, max_samples=5)
    state = sys.getprofile()
    alone = sys.getrefcount(state)
    burn()

    assert (mine.running, sys.getprofile()) == (False, None)
    # The interpreter's own is gone, and ours has come.
    assert sys.getrefcount(state) == alone


def test_a_recording_that_ends_within_its_end_ends_once():
    """What a sample there does; else whoever is recorded next would not see the work of threads."""

    class Interrupted(Recording):
        nested = False

        @property
        def here(self) -> bool:
            if not self.nested:
                self.nested = True
                self.stop()
            return super().here

    before = THREADS._users
    mine = Interrupted(interval=0.001, max_seconds=30.0, max_samples=100, clock=time.perf_counter)
    mine.start(sys._getframe())
    during = THREADS._users
    mine.stop()

    assert mine.nested
    assert (during - before, THREADS._users - before) == (1, 0)


def test_a_hop_that_ends_within_its_end_ends_once(monkeypatch: pytest.MonkeyPatch):
    """The request is over before its thread is, which learns of it from a sample."""
    hops: list[Hop] = []
    nested: list[Callable[..., None]] = []

    def unsubscribe(target: Callable[..., None]) -> None:
        nested.append(target)
        if len(nested) == 1:
            mine.running = False
            hops[0].saw([], 0.0, None)
        _unsubscribe(target)

    mine = recording()
    hops.append(mine.hop(lambda: "done", sys._getframe()))
    monkeypatch.setattr("fastobs.profiling.engine._unsubscribe", unsubscribe)
    result = run_in_thread(hops[0])
    monkeypatch.undo()
    mine.stop()

    assert (result, nested.count(hops[0].saw)) == ("done", 1)


def test_a_sample_in_the_midst_of_a_hop_disturbs_no_stack(monkeypatch: pytest.MonkeyPatch):
    """What prepares a hop is sampled like everything else on the loop."""
    callers = [f"caller {depth}" for depth in range(30)]
    monkeypatch.setattr("fastobs.profiling.engine.build_call_stack", lambda *_: [*callers])

    async def request() -> tuple[Recording, Hop]:
        mine = recording(interval=1e-9)
        hop = mine.hop(burn, sys._getframe())
        hop.saw(["work"], 0.05, None)
        mine.stop()
        return mine, hop

    mine, hop = run(request())
    paths = [path for path, _ in shown(mine)]

    assert hop.timeline.notes
    assert "/".join([*callers, "work"]) in paths


def test_another_event_loop_in_the_same_context_is_not_recorded():
    """A thread of the app's that runs a loop of its own inherits the context, not the sampler."""

    def elsewhere() -> object:
        return context.run(asyncio.run, anyio.to_thread.run_sync(sys.getprofile))

    mine = recording()
    context = contextvars.copy_context()
    seen = run_in_thread(elsewhere)
    mine.stop()

    assert seen is None


def test_a_full_recording_takes_no_more():
    """The sample that would be too many is the end."""
    mine = direct(max_samples=1)
    mine(["main"], 0.1, None)
    mine(["main"], 0.1, None)

    assert (mine.running, mine.truncated, mine.count) == (False, True, 1)


def test_an_error_in_a_sample_is_kept_for_later():
    """It must not be raised where the sample was taken, in the loop or in a thread."""
    one, other = direct(), direct()
    one(None, 0.1, None)  # type: ignore[arg-type]
    hop = other.hop(burn, sys._getframe())
    hop.saw(None, 0.1, None)  # type: ignore[arg-type]
    one.stop()
    other.stop()

    assert isinstance(one.error, TypeError)
    assert isinstance(other.error, TypeError)


def test_waiting_for_a_thread_is_replaced_by_what_it_did():
    """What is left is the time until there was a thread."""
    mine = direct()
    hop = mine.hop(burn, sys._getframe())
    hop.saw(["work"], 0.05, None)
    hop.saw([], 0.05, None)
    mine(["main"], 0.4, AsyncState("out_of_context_awaited", ["run_sync"]))
    mine(["main"], 0.01, AsyncState("out_of_context_awaited", ["run_sync"]))
    mine.stop()
    hop.saw(["late"], 0.05, None)
    paths = dict(shown(mine))
    work = next(path for path in paths if path.endswith("/work"))

    assert paths[work] == 0.05
    assert paths[work.removesuffix("/work")] == 0.05
    assert paths["run_sync/[await]"] < 0.41
    assert not any(path.endswith("late") for path in paths)


def test_what_is_seen_again_and_again_is_one_sample_that_says_how_often():
    """On the loop and in a thread."""
    mine = direct()
    hop = mine.hop(burn, sys._getframe())
    for _ in range(3):
        mine(["main"], 0.1, None)
    for _ in range(2):
        hop.saw(["work"], 0.1, None)
    mine(["other"], 0.1, None)
    mine.stop()

    assert sorted(sample.times for sample in mine.stacks("").samples) == [1, 2, 3]


def test_waiting_that_a_thread_explains_entirely_is_not_shown():
    """Nothing is left of it."""
    mine = direct()
    hop = mine.hop(burn, sys._getframe())
    hop.saw(["work"], 5.0, None)
    mine._timeline.notes.append(Note(hop.timeline.notes[0].at, mine._tree.add(["[await]"]), 1.0))
    mine.stop()

    assert not [path for path, _ in shown(mine) if path == "[await]"]


@pytest.mark.usefixtures("contained_errors")
def test_a_thread_that_cannot_be_sampled_works_all_the_same(monkeypatch: pytest.MonkeyPatch):
    """Nor does the loop mind, if it is the preparation that fails."""
    mine = recording()
    hop = mine.hop(lambda: "done", sys._getframe())

    def broken(*_: object) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr("fastobs.profiling.engine.build_call_stack", broken)
    result = run_in_thread(hop)
    passed_on = asyncio.run(anyio.to_thread.run_sync(lambda: "passed on"))
    mine.stop()

    assert (result, passed_on) == ("done", "passed on")


def run_in_thread(function: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.usefixtures("contained_errors")
def test_a_recording_that_cannot_begin_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    """The error is the caller's to contain; anyio is as it was."""
    before = anyio.to_thread.run_sync

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(get_stack_sampler(), "subscribe", broken)
    with pytest.raises(ZeroDivisionError):
        recording()

    assert anyio.to_thread.run_sync is before
    assert not busy()


def names(stack: list[str]) -> list[str]:
    return [frame.partition("\x00")[0] for frame in stack]


async def in_tasks(owner: object, *coroutines: Coroutine[object, object, object]) -> Waiting:
    """Tasks of a request, each at what it waits for."""
    token = active_profiler_context_var.set(owner)
    for one in coroutines:
        task = asyncio.create_task(one)
        TASKS.append(task)
    waiting = Waiting(owner, build_call_stack(sys._getframe(), "initial", None))
    active_profiler_context_var.reset(token)
    # Each needs a turn of the loop to get to its waiting.
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting


TASKS: list[asyncio.Task[object]] = []


async def forever() -> None:
    await asyncio.Future()


async def wrapped() -> None:
    await middle()


@coroutine
def middle():
    yield from forever().__await__()


async def generate() -> AsyncIterator[int]:
    await wrapped()
    yield 1  # pragma: no cover - that is never over


async def consume() -> None:
    async for _ in generate():
        pass


def leave(work: Coroutine[object, object, T]) -> T:
    """Run it, and cancel the tasks that it made."""

    async def whole() -> T:
        try:
            return await work
        finally:
            for task in TASKS:
                task.cancel()
            await asyncio.gather(*TASKS, return_exceptions=True)
            TASKS.clear()

    return asyncio.run(whole())


def test_of_several_tasks_the_one_that_works_deepest_is_shown():
    """Unless pyinstrument's is one that still waits; and only for the request's own tasks."""

    async def look() -> tuple[list[str], list[str], list[str]]:
        owner = object()
        waiting = await in_tasks(owner, forever(), consume())
        ended = AsyncState("out_of_context_awaited", ["ended"])
        first = waiting.stack(ended)
        again = waiting.stack(ended)
        strangers = (await in_tasks(object(), forever())).stack(ended)
        return first, again, strangers

    first, again, strangers = leave(look())

    assert names(first)[-5:] == ["consume", "generate", "wrapped", "middle", "forever"]
    assert again is first
    assert names(strangers)[-1:] == ["forever"]


def test_a_task_that_still_waits_is_believed():
    """What pyinstrument saw last is what is shown."""

    async def look() -> list[str]:
        waiting = await in_tasks(object(), forever(), consume())
        [info] = _chain(TASKS[0])
        return waiting.stack(AsyncState("out_of_context_awaited", ["seen", info]))

    assert leave(look())[0] == "seen"


def test_looking_for_tasks_takes_a_small_share_of_the_time():
    """Between two looks there is a rest, in which pyinstrument's answer has to do."""

    async def look() -> list[list[str]]:
        waiting = await in_tasks(object(), consume())
        waiting._rest_until = float("inf")
        state = AsyncState("out_of_context_awaited", ["guess"])
        guessed = waiting.stack(state)
        waiting._rest_until = 0.0
        return [guessed, waiting.stack(state)]

    guessed, found = leave(look())

    assert guessed == ["guess"]
    assert names(found)[-1] == "forever"


def test_the_end_of_a_waiting_is_the_waiting():
    """Uvloop shows nothing between a request's suspension and its return."""

    async def look() -> tuple[list[str], list[str], bool, bool]:
        owner = object()
        waiting = await in_tasks(owner, consume())
        inside = waiting.ended()
        outside: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: outside.set_result(waiting.ended()))
        stem = waiting._stem
        return inside, await outside, waiting.is_loop(stem), waiting.is_loop([*stem, "more"])

    inside, outside, stem, more = leave(look())

    assert "whole" in names(inside)
    assert names(outside)[-5:] == ["consume", "generate", "wrapped", "middle", "forever"]
    assert (stem, more) == (True, False)


def test_without_an_event_loop_pyinstruments_answer_has_to_do():
    """There are no tasks to look at."""
    waiting = Waiting(object(), ["main"])

    assert waiting.stack(AsyncState("out_of_context_awaited", ["seen"])) == ["seen"]
    assert not waiting.is_loop(["main"])


def test_a_parked_task_is_not_shown():
    """One that itself waits for another task of the request says nothing."""

    async def look() -> list[str]:
        waiting = await in_tasks(object(), grouped())
        return waiting.stack(AsyncState("out_of_context_awaited", ["seen"]))

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            TASKS.append(group.create_task(forever()))

    assert names(leave(look()))[-1] == "forever"
