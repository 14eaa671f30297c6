"""What a thread runs is what it runs at one moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from fastobs.watchdog.frames import stack
from tests.parts import eventually

LOOKS = 4000
DEPTH = 50
"""Frames between what is read first and what is read last."""


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Ends the thread; and has threads switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    event = threading.Event()
    yield event
    event.set()
    sys.setswitchinterval(before)


def first() -> None:
    sum(range(5))


def second() -> None:
    sum(range(5))


def deep(function: Callable[[], None], left: int = DEPTH) -> None:
    if left:
        deep(function, left - 1)
    else:
        function()


def works(over: threading.Event) -> None:
    while not over.is_set():
        deep(first)
        deep(second)


def test_a_stack_is_what_ran_at_one_moment(over: threading.Event) -> None:
    """However often the thread goes on between two looks, it does not within one."""
    thread = threading.Thread(target=works, args=(over,), daemon=True)
    thread.start()
    begins = works.__code__.co_firstlineno
    calls = {first.__code__: begins + 2, second.__code__: begins + 3}
    for _ in range(LOOKS):
        lines = dict(line for _, line in stack(thread.ident or 0))
        for called, line in calls.items():
            assert called not in lines or lines[works.__code__] == line
    over.set()
    thread.join()


def test_a_thread_that_is_gone_runs_nothing() -> None:
    """Its loop may not have been closed."""
    thread = threading.Thread(target=sys.getswitchinterval)
    thread.start()
    thread.join()

    assert eventually(lambda: stack(thread.ident or 0) == [])


def test_the_innermost_comes_first() -> None:
    """And the first of the thread last."""
    frames = stack(threading.get_ident())

    assert frames[0][1][0] is stack.__code__
    assert frames[1][0] is sys._getframe()
    assert frames[1][1][0] is sys._getframe().f_code
