"""What holds an event loop, for longer than a watchdog allows."""

from __future__ import annotations

import ctypes
import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress

LONG = 0.4
"""Seconds, about."""


def waits() -> None:
    time.sleep(LONG)


def computes() -> None:
    # Of the processor's time: on a busy machine it would hardly compute in that of the clock.
    end = time.thread_time() + LONG
    while time.thread_time() < end:
        sum(range(50))


def receives() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(LONG)
        with suppress(TimeoutError):
            here.recv(1)


def sorts() -> None:
    data = SORTED
    sorted(data)


def dumps() -> None:
    data = DUMPED
    json.dumps(data)


def matches() -> None:
    text = MATCHED
    re.match(r"(a+)+$", text)


def _as_long(call: Callable[[int], object], size: int) -> int:
    """The size with which a call takes long enough on this machine, given one that is too small."""
    while True:
        began = time.thread_time()
        call(size)
        took = time.thread_time() - began
        if took > LONG:
            return size
        size = int(size * min(1.25 * LONG / took, 10)) + 1


def _unsorted(size: int) -> list[str]:
    return [str(number * 7919 % size) for number in range(size)]


SORTED: list[str] = []
DUMPED: list[float] = []
MATCHED = ""


def prepare() -> None:
    """Make the data; once."""
    global SORTED, DUMPED, MATCHED
    if SORTED:
        return
    unsorted = _unsorted(100_000)
    # Each further letter doubles the time.
    letters = 18
    while True:
        MATCHED = "a" * letters + "b"
        began = time.thread_time()
        matches()
        if time.thread_time() - began > LONG:
            break
        letters += 1
    DUMPED = [1 / 3] * _as_long(lambda size: json.dumps([1 / 3] * size), 100_000)
    SORTED = unsorted * (1 + _as_long(lambda times: sorted(unsorted * times), 1))


def keeps(seconds: float = LONG) -> None:
    """Keep the GIL, as a call of C does that computes, however busy the machine is."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


BLOCKERS = (waits, computes, receives, sorts, dumps, matches)
