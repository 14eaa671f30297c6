"""The heartbeat, as the watchdog sees it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from fastobs.watchdog import Heart
from fastobs.watchdog.heart import depth
from tests.parts import eventually

from .rig import beaten, each_loop, heart_of_this_loop, run


@each_loop
def test_a_heart_knows_its_thread_and_when_it_beats_next(loop: str) -> None:
    """After the first beat, and on every loop."""

    async def main() -> Heart:
        heart = heart_of_this_loop()
        assert heart.thread == 0
        await beaten(heart)
        return heart

    heart = run(main(), loop)

    assert heart.thread == threading.get_ident()
    assert heart.floor > 0
    assert heart.beaten is not None
    assert heart.due > heart.beaten


def test_a_heart_tells_the_processor_time_of_its_own_thread() -> None:
    """Also to another thread; a thread that has ended has none."""
    hearts: list[Heart] = []

    async def main() -> tuple[float, float, float]:
        hearts.append(heart := heart_of_this_loop())
        await beaten(heart)
        before = time.thread_time()
        told = await asyncio.to_thread(heart.cpu)
        return before, told, time.thread_time()

    def elsewhere() -> None:
        before, told, after = run(main())
        assert before <= told <= after

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert len(hearts) == 1
    assert eventually(lambda: hearts[0].cpu() == 0.0)


def test_where_a_threads_time_is_unknown_it_is_the_process_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS."""
    monkeypatch.delattr(time, "pthread_getcpuclockid")

    async def main() -> tuple[float, float, float]:
        heart = heart_of_this_loop()
        await beaten(heart)
        return time.process_time(), heart.cpu(), time.process_time()

    before, told, after = run(main())

    assert before <= told <= after


def test_no_frame_has_no_depth() -> None:
    """A loop may be run by C alone."""
    assert depth(None) == 0
