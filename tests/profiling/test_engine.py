"""A recording is bounded, knows what was waited for, and leaves the thread as it was."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from operator import itemgetter
from types import coroutine

import pytest
from pyinstrument.stack_sampler import active_profiler_context_var, get_stack_sampler

from fastobs.profiling.engine import MAX_DEPTH, Recording, busy, record
from tests.driving import Clock
from tests.profiling.rig import burn, each_loop, named, run


def recording(**more: object) -> Recording:
    begun = record(**{"interval": 0.001, "max_seconds": 30.0, **more})  # type: ignore[arg-type]
    assert begun is not None
    return begun


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
    second = recording()
    burn(0.005)
    second.stop()
    first.stop()

    assert sum(sample.seconds for sample in second.stacks("").samples) < 0.1


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
