"""Work that a request leaves behind for a daemon thread: bounded, lazy, counted, fork-safe."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ._contain import contain
from ._farewell import before_the_end

__all__ = ["Outbox", "waiting"]

T = TypeVar("T")


class Outbox(Generic[T]):
    """Delivers items one after the other on a thread of its own, which starts with the first item.

    Args:
        deliver: Called with each item, on the thread. Its exceptions are contained.
        name: Of the thread, and of the component in the error counter.
        limit: Items that may wait; what comes on top is dropped.
        dropped: Called for each dropped item.
        signal: What the items are; those that have one are told by `waiting`.
    """

    def __init__(
        self,
        deliver: Callable[[T], None],
        *,
        name: str,
        limit: int,
        dropped: Callable[[], None],
        signal: str = "",
    ) -> None:
        self.signal = signal
        self._deliver = deliver
        self._name = name
        self._limit = limit
        self._dropped = dropped
        self._lock = threading.Lock()
        self._queue: SimpleQueue[T | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        _outboxes.add(self)

    def put(self, item: T) -> None:
        """Leave an item; never waits."""
        if self._queue.qsize() >= self._limit:
            self._dropped()
            return
        self._queue.put(item)
        if self._thread is None:
            self._start()

    def __len__(self) -> int:
        return self._queue.qsize()

    def flush(self, within: float) -> bool:
        """Wait until everything put so far is delivered; False if it took too long (seconds)."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(within)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        queue = self._queue
        while True:
            item = queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._deliver(item)
            except Exception as error:
                contain(self._name, error)

    def begin_anew(self) -> None:
        """In a forked child: the thread stayed with the parent, and so did what waited for it."""
        self._lock = threading.Lock()
        self._queue = SimpleQueue()
        self._thread = None


_outboxes: weakref.WeakSet[Outbox[Any]] = weakref.WeakSet()


def waiting() -> dict[str, int]:
    """How many items wait, by their signal."""
    found: dict[str, int] = {}
    for outbox in list(_outboxes):
        if outbox.signal:
            found[outbox.signal] = found.get(outbox.signal, 0) + len(outbox)
    return found


def _after_fork() -> None:
    for outbox in list(_outboxes):
        outbox.begin_anew()


def _deliver() -> None:
    for outbox in list(_outboxes):
        outbox.flush(within=1.0)


os.register_at_fork(after_in_child=_after_fork)
before_the_end(_deliver)
