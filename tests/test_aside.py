"""Threads beside the endpoints' own."""

from __future__ import annotations

import threading

import anyio
import pytest

from fastobs._aside import Aside
from tests.parts import PATIENCE


@pytest.mark.anyio
async def test_only_so_many_functions_run_at_once() -> None:
    """Whoever comes next waits."""
    aside = Aside(2)
    full, seen, lock = threading.Barrier(2, timeout=PATIENCE), [0], threading.Lock()
    running = 0

    def work() -> None:
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        full.wait()
        with lock:
            running -= 1
        full.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(aside.run, work)

    assert max(seen) == 2


def test_each_event_loop_has_a_limit_of_its_own() -> None:
    """A module's app is driven on one loop after the other by its tests, maybe of different kinds."""
    pytest.importorskip("trio")
    aside = Aside(1)

    assert [anyio.run(aside.run, lambda: 1, backend=each) for each in ("trio", "asyncio")] == [1, 1]
