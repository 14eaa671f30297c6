"""What tasks wait for, read from another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from fastapi import FastAPI

from fastobs._exchange import CURRENT, Exchange
from fastobs._routes import Routes
from fastobs.watchdog import chains
from fastobs.watchdog.chains import Chains, View, awaited
from fastobs.watchdog.frames import Line
from tests.driving import call, scope

from .rig import beaten, heart_of_this_loop, run, served


async def inner(until: asyncio.Event) -> None:
    await until.wait()


class Awaitable:
    """Awaits in a coroutine of its own."""

    def __init__(self, until: asyncio.Event) -> None:
        self._until = until

    def __await__(self) -> Generator[Any, None, None]:
        return inner(self._until).__await__()


async def wrapped(until: asyncio.Event) -> None:
    await Awaitable(until)


async def counts(until: asyncio.Event) -> AsyncGenerator[int, None]:
    try:
        await inner(until)
        yield 1
    finally:
        pass


async def iterates(until: asyncio.Event) -> None:
    async for _ in counts(until):
        pass


@pytest.mark.parametrize(
    ("work", "names"),
    [
        (inner, ["inner", "Event.wait"]),
        (wrapped, ["wrapped", "inner", "Event.wait"]),
        (iterates, ["iterates", "counts", "inner", "Event.wait"]),
    ],
)
def test_a_chain_leads_from_the_task_to_what_it_waits_for(work: Any, names: list[str]) -> None:
    """Through whatever has frames."""

    async def main() -> list[str]:
        until = asyncio.Event()
        task = asyncio.create_task(work(until))
        await asyncio.sleep(0)
        found = [code.co_qualname for code, _ in awaited(task)]
        until.set()
        await task
        return found

    assert run(main()) == names


def test_a_chain_is_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recursion is cut."""
    monkeypatch.setattr(chains, "MAX_DEPTH", 5)

    async def recurs(left: int, until: asyncio.Event) -> None:
        await (recurs(left - 1, until) if left else until.wait())

    async def main() -> int:
        until = asyncio.Event()
        task = asyncio.create_task(recurs(20, until))
        await asyncio.sleep(0)
        found = len(list(awaited(task)))
        until.set()
        await task
        return found

    assert run(main()) == 5


def test_a_request_without_tasks_waits_nowhere() -> None:
    """They may have ended just now."""
    exchange = Exchange(scope("/"), Routes(None), 0.0)  # type: ignore[arg-type]

    assert list(Chains([], exchange)) == []


def test_a_step_that_began_meanwhile_is_not_taken_for_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its frames nor what it awaits are known then; another look will tell."""
    app = FastAPI()
    views: list[tuple[object, object]] = []

    @app.get("/")
    async def endpoint() -> None:
        exchange = CURRENT.get()
        assert exchange is not None
        loop = asyncio.get_running_loop()
        heart = heart_of_this_loop()
        await beaten(heart)
        tasks = iter([asyncio.current_task(), None])

        def look() -> None:
            steady = View(heart, loop, {exchange}, None)
            monkeypatch.setattr(asyncio, "current_task", lambda _: next(tasks))
            moving = View(heart, loop, {exchange}, None)
            monkeypatch.undo()
            views.append((steady.stacks(exchange), moving.stacks(exchange)))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    run(call(served(app)))

    ((steady, moving),) = views
    assert isinstance(steady, list)
    assert any("endpoint" in frame for frame in steady[0])
    assert moving == []


def test_a_thread_is_found_by_whom_it_works_for() -> None:
    """Not another request's, and none if nothing is known of threads."""

    class Errand:
        def __init__(self, exchange: Exchange) -> None:
            self.exchange = exchange

        def __call__(self) -> None:
            works()

    begun, end = threading.Barrier(3, timeout=30.0), threading.Event()

    def works() -> None:
        begun.wait()
        end.wait()

    async def main() -> list[list[list[str]]]:
        heart = heart_of_this_loop()
        mine, other = (Exchange(scope("/"), Routes(None), 0.0) for _ in range(2))  # type: ignore[arg-type]
        threads = [threading.Thread(target=Errand(each), daemon=True) for each in (other, mine)]
        for thread in threads:
            thread.start()
        begun.wait()
        CURRENT.set(mine)
        task = asyncio.create_task(inner(until := asyncio.Event()))
        CURRENT.set(None)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        codes = (Errand.__call__.__code__, main.__code__, None)
        found = [View(heart, loop, {mine}, code).stacks(mine) for code in codes]
        end.set()
        until.set()
        await task
        for thread in threads:
            thread.join()
        return found

    (known,), (unknown,), (without,) = run(main())

    assert "works" in [frame.partition("\x00")[0] for frame in known]
    assert unknown == without
    assert "works" not in [frame.partition("\x00")[0] for frame in without]


@pytest.mark.anyio
async def test_tasks_that_share_what_they_wait_for_are_not_walked_again_and_again() -> None:
    """Layers of eight that wait for all of the next are eight to the power of their number of ways."""
    until = asyncio.Event()
    exchange = Exchange(scope(), Routes(None), 0.0)  # type: ignore[arg-type]
    walked: list[int] = []

    class Counting(Chains):
        def _from(self, task: asyncio.Task[Any], depth: int) -> list[list[Line]]:
            walked.append(depth)
            return super()._from(task, depth)

    async def waits_for(tasks: list[asyncio.Task[Any]]) -> None:
        await asyncio.gather(*tasks)

    layer = [asyncio.create_task(inner(until)) for _ in range(8)]
    everyone = list(layer)
    for _ in range(5):
        layer = [asyncio.create_task(waits_for(layer)) for _ in range(8)]
        everyone += layer
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    found = list(Counting([*everyone], exchange))
    until.set()
    await asyncio.gather(*everyone)

    assert 1 <= len(found) <= chains.CHILDREN
    assert len(walked) <= chains.CHILDREN * (chains.CHILDREN + 1)
