"""What holds an event loop, for longer than a watchdog allows."""

from __future__ import annotations

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
    end = time.perf_counter() + LONG
    while time.perf_counter() < end:
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


def _as_long(make: Callable[[int], Callable[[], object]], size: int) -> int:
    """The size with which one call takes long enough on this machine."""
    while True:
        call = make(size)
        began = time.thread_time()
        call()
        if time.thread_time() - began > LONG:
            return size
        size = size + 1 if size < 100 else size * 2


def _unsorted(size: int) -> list[str]:
    return [str(number * 7919 % size) for number in range(size)]


SORTED: list[str] = []
DUMPED: list[str] = []
MATCHED = ""


def prepare() -> None:
    """Make the data; once."""
    global SORTED, DUMPED, MATCHED
    if SORTED:
        return

    def sorting(size: int) -> Callable[[], object]:
        data = _unsorted(size)
        return lambda: sorted(data)

    def dumping(size: int) -> Callable[[], object]:
        data = _unsorted(size)
        return lambda: json.dumps(data)

    def matching(size: int) -> Callable[[], object]:
        text = "a" * size + "b"
        return lambda: re.match(r"(a+)+$", text)

    DUMPED = _unsorted(_as_long(dumping, 400_000))
    MATCHED = "a" * _as_long(matching, 20) + "b"
    SORTED = _unsorted(_as_long(sorting, 200_000))


BLOCKERS = (waits, computes, receives, sorts, dumps, matches)
