"""Event loops, threads, garbage collector and process."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psutil
import pytest
import uvloop
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastobs import catalogue
from fastobs._outbox import Outbox
from fastobs._process import Process
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.probes import Probes, runtime
from tests.driving import call, values
from tests.parts import eventually
from tests.probes.contract import Contract
from tests.probes.waiting import until

Read = Callable[..., dict[tuple[str, ...], float]]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TICK = {"runtime": {"tick": 0.01}}


def lag(meters: Meters) -> Histogram:
    return meters.histogram(catalogue.LOOP_LAG)


async def beaten(meters: Meters, times: int) -> None:
    """As long as it takes the loop to beat so often."""
    await until(lambda: lag(meters).count >= times)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_loop_that_was_held_is_late(
    run: Callable[..., None], attach: Callable[..., Probes], meters: Meters
) -> None:
    """On every loop: the beat that was due while nothing else could run is as late as that."""
    probes = attach(**TICK)

    async def main() -> None:
        began = time.perf_counter()
        probes.on_loop(asyncio.get_running_loop())
        probes.on_loop(asyncio.get_running_loop())
        await beaten(meters, 2)
        before = lag(meters).sum
        time.sleep(0.1)  # noqa: ASYNC251 - what a beginner does
        await beaten(meters, int(lag(meters).count) + 1)
        late = lag(meters).sum - before
        assert 0.085 < late < time.perf_counter() - began

    run(main())

    assert lag(meters).count >= 3


def test_a_loop_ends_as_if_nobody_had_listened(
    attach: Callable[..., Probes], meters: Meters, read: Read
) -> None:
    """Loops come and go; a heart keeps none of them alive, and is no task of theirs."""
    probes = attach(**TICK)

    async def main() -> int:
        probes.on_loop(asyncio.get_running_loop())
        await beaten(meters, int(lag(meters).count) + 1)
        return len(asyncio.all_tasks())

    assert [asyncio.run(main()) for _ in range(3)] == [1, 1, 1]
    assert read(catalogue.TASKS) == {}
    asyncio.run(main())
    adapter = next(p for p in probes._attached.values() if isinstance(p, runtime.Runtime))
    assert len(adapter._hearts) == 1
    loops = [heart.loop for heart in adapter._hearts]
    adapter._hearts.clear()
    gc.collect()
    assert [loop() for loop in loops] == [None]


def test_beats_end_with_the_last_app(attach: Callable[..., Probes], meters: Meters) -> None:
    """One more comes, and finds that nobody listens."""
    probes = attach(**TICK)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        probes.on_loop(loop)
        await beaten(meters, 1)
        probes.detach()
        count = lag(meters).count
        await until(lambda: not loop._scheduled)  # type: ignore[attr-defined]
        assert lag(meters).count == count

    asyncio.run(main())


@pytest.mark.usefixtures("contained_errors")
def test_a_beat_that_fails_is_ours(
    attach: Callable[..., Probes], meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop hears nothing of it."""
    probes = attach(**TICK)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: pytest.fail(str(context)))
        probes.on_loop(loop)
        monkeypatch.setattr(Histogram, "observe", lambda *_: 1 / 0)
        await until(lambda: not loop._scheduled)  # type: ignore[attr-defined]

    asyncio.run(main())
    monkeypatch.undo()

    assert meters.counter(catalogue.SELF_ERRORS, "probes.runtime").value == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_calls_that_wait_in_the_default_executor_are_counted(
    attach: Callable[..., Probes], read: Read, loop: str
) -> None:
    """As for names of hosts: a full executor looks like a slow DNS."""
    probes = attach()

    async def main() -> None:
        running = asyncio.get_running_loop()
        probes.on_loop(running)
        running.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix=loop))
        before = read(catalogue.EXECUTOR_PENDING)[()]
        release = threading.Event()
        calls = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(3)]
        await until(lambda: read(catalogue.EXECUTOR_PENDING)[()] == before + 2)
        release.set()
        await asyncio.gather(*calls)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def test_without_its_private_name_the_executors_queue_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which is no number."""
    monkeypatch.delattr("concurrent.futures.thread._threads_queues")

    assert runtime._in_executors() is None


def test_threads_of_def_endpoints_are_counted(
    attach: Callable[..., Probes], meters: Meters, read: Read
) -> None:
    """Used, the most, and who waits for one; read from any thread."""
    probes = attach()

    async def main() -> None:
        probes.on_loop(asyncio.get_running_loop())
        current_default_thread_limiter().total_tokens = 2
        release = threading.Event()
        run: Any = anyio.to_thread.run_sync
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(run, release.wait)
            await until(lambda: read(catalogue.THREADS_PENDING)[()])
            busy = await asyncio.to_thread(read, catalogue.THREADS)
            tasks = read(catalogue.TASKS)
            release.set()
        current_default_thread_limiter().total_tokens = float("inf")
        assert busy == {("used",): 2, ("max",): 2}
        assert tasks == {(): 4}
        assert read(catalogue.THREADS) == {("used",): 0}
        assert read(catalogue.THREADS_PENDING) == {(): 0}

    asyncio.run(main())


def test_pauses_of_the_collector_are_timed(attach: Callable[..., Probes], read: Read) -> None:
    """By generation; one that began before we came is not."""
    before = list(gc.callbacks)
    probes = attach()
    for generation in range(3):
        gc.collect(generation)
    seen = read(catalogue.GC_PAUSE)
    (ours,) = [callback for callback in gc.callbacks if callback not in before]
    probes.detach()

    assert all(seen[str(generation),] >= 1 for generation in range(3))
    assert gc.callbacks == before
    fresh = runtime.Runtime(ours.__self__.kit)  # type: ignore[attr-defined]
    fresh._collecting("stop", {"generation": 2})


@pytest.mark.usefixtures("contained_errors")
def test_a_pause_of_an_unknown_generation_is_ours_to_bear(
    attach: Callable[..., Probes], meters: Meters
) -> None:
    """A Python with more of them."""
    probes = attach()
    adapter: Any = next(p for p in probes._attached.values() if isinstance(p, runtime.Runtime))
    adapter._collecting("start", {"generation": 7})
    adapter._collecting("stop", {"generation": 7})

    assert meters.counter(catalogue.SELF_ERRORS, "probes.runtime").value == 1


def test_the_process_is_what_others_see_of_it(probes: Probes, read: Read) -> None:
    """Memory, descriptors, start and CPU time, compared with psutil."""
    process = psutil.Process()
    (resident,) = read(catalogue.PROCESS_RSS).values()
    (virtual,) = read(catalogue.PROCESS_VIRTUAL).values()

    assert 0.9 < resident / process.memory_info().rss < 1.1
    assert 0.9 < virtual / process.memory_info().vms < 1.1
    # psutil counts the one that it reads the list with.
    # Other threads may be opening and closing some.
    eventually(lambda: read(catalogue.PROCESS_FDS) == {(): process.num_fds() - 1})
    assert abs(read(catalogue.PROCESS_START)[()] - process.create_time()) < 1
    assert read(catalogue.PROCESS_MAX_FDS) == {(): process.rlimit(psutil.RLIMIT_NOFILE)[0]}
    assert 0 < read(catalogue.PROCESS_CPU)[()] <= sum(process.cpu_times()[:2]) + 0.1
    assert 0 < read(catalogue.MEMORY_LIMIT)[()] <= psutil.virtual_memory().total
    assert 0 < read(catalogue.CPU_LIMIT)[()] <= (os.cpu_count() or 1)


def test_an_apps_loop_is_seen_through_restarts(observed: Any, read: Read) -> None:
    """Each TestClient runs a loop of its own; the one that is there is the one that is shown."""
    app = FastAPI()
    app.get("/")(lambda: 1)
    handle = observed(app)
    assert "event loops: seen with the first request" in handle.status()

    for _ in range(2):
        with TestClient(app) as client:
            client.get("/")
            during = read(catalogue.THREADS)
            assert "event loops: 1" in handle.status()
        assert read(catalogue.THREADS) == {}

    assert during["max",] == 40


def test_a_block_has_a_line_and_counts_for_its_route(
    observed: Callable[..., Any], shared: Process, meters: Meters
) -> None:
    """Seen through everything, from the request to the log."""
    lines: list[tuple[str, dict[str, Any]]] = []
    app = FastAPI()
    shared.lines = Outbox(lines.append, name="lines", limit=10, dropped=lambda: None)
    handle = observed(app)

    @app.get("/items/{number}")
    async def blocks(number: int) -> None:
        await until(lambda: lag(meters).count)
        time.sleep(0.4)  # noqa: ASYNC251 - what a beginner does

    def told() -> Any:
        mine = [line for _, line in lines if line["function"].endswith("<locals>.blocks")]
        return mine and mine[0]

    async def main() -> None:
        await call(app, "/items/7")
        await until(told)

    asyncio.run(main())

    # A machine that stands still for so long holds the loop as well.
    fields = told()
    assert fields["route"] == "/items/{number}"
    assert values(meters, catalogue.LOOP_BLOCKS)["/items/{number}",] >= 1.0
    assert values(meters, catalogue.LOOP_BLOCKED)["/items/{number}",] > 0.1
    assert "event loop blocks: told of when longer than 0.1 s" in handle.status()


def test_blocks_can_be_switched_off(attach: Callable[..., Probes]) -> None:
    """The heart beats all the same."""
    probes = attach(runtime={"loop_block_after": None})

    asyncio.run(introduced(probes))

    assert "event loop blocks" not in probes.status()


def test_a_python_without_the_gil_has_no_blocks_and_says_why(
    attach: Callable[..., Probes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the status, where one looks for what is missing."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    probes = attach()

    asyncio.run(introduced(probes))

    assert "event loop blocks: this Python runs without the GIL" in probes.status()


async def introduced(probes: Probes) -> None:
    probes.on_loop(asyncio.get_running_loop())


class TestContract(Contract):
    """The process, of which the garbage collector is what there is to hook."""

    row = ("asyncio", ".runtime")
    packages = ("gc",)
    counts = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield None

    def call(self, it: Any, name: str) -> None:
        """It has no name."""

    def marks(self, it: Any) -> object:
        return len(gc.callbacks)

    async def use(self, it: Any) -> Any:
        gc.collect(0)
