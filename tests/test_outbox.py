"""Work that requests leave behind."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from fastobs import catalogue
from fastobs._outbox import Outbox, waiting
from fastobs.cells import Meters
from tests.driving import values
from tests.parts import PATIENCE


def outbox(deliver, limit: int = 10, dropped=lambda: None, name="fastobs-test") -> Outbox[Any]:
    return Outbox(deliver, name=name, limit=limit, dropped=dropped)


def test_items_are_delivered_in_order_on_a_thread_of_their_own() -> None:
    """The request only leaves them."""
    seen: list[tuple[int, str]] = []
    box = outbox(lambda item: seen.append((item, threading.current_thread().name)))

    for number in range(3):
        box.put(number)

    assert box.flush(within=PATIENCE)
    assert seen == [(number, "fastobs-test") for number in range(3)]


def test_what_exceeds_the_limit_is_dropped_and_counted() -> None:
    """A slow sink costs lines, not memory or time of a request."""
    gate, entered = threading.Event(), threading.Event()
    drops: list[int] = []

    def deliver(item: int) -> None:
        entered.set()
        gate.wait(PATIENCE)

    box = outbox(deliver, limit=2, dropped=lambda: drops.append(1))
    box.put(0)
    assert entered.wait(PATIENCE)

    for number in range(5):
        box.put(number)

    assert (len(box), len(drops)) == (2, 3)
    gate.set()
    assert box.flush(within=PATIENCE)


def test_an_item_that_cannot_be_delivered_does_not_stop_the_others(
    contained_errors: None, meters: Meters
) -> None:
    """It is counted as our error."""
    seen: list[int] = []

    def deliver(item: int) -> None:
        seen.append(1 // item)

    box = outbox(deliver)
    box.put(0)
    box.put(1)

    assert box.flush(within=PATIENCE)
    assert seen == [1]
    assert values(meters, catalogue.SELF_ERRORS) == {("fastobs-test",): 1.0}


def test_flushing_gives_up_in_time() -> None:
    """A stuck sink must not hold up the end of the process."""
    gate = threading.Event()
    box = outbox(lambda item: gate.wait(PATIENCE))
    box.put(1)

    assert not box.flush(within=0.01)
    gate.set()
    assert box.flush(within=PATIENCE)


def test_nothing_to_flush_needs_no_thread() -> None:
    """The thread starts with the first item."""
    box = outbox(lambda item: None, name="fastobs-idle")

    assert box.flush(within=0)
    assert "fastobs-idle" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own_thread() -> None:
    """Threads do not survive a fork, and what the parent had queued is the parent's."""
    read, write = os.pipe()
    box = outbox(lambda item: os.write(write, item))
    box.put(b"p")
    assert box.flush(within=PATIENCE)

    if (pid := os.fork()) == 0:
        box.put(b"c")
        box.flush(within=PATIENCE)
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 10) == b"pc"


def test_what_waits_is_told_by_its_signal() -> None:
    """Two writers of one signal are one number; what has no signal is nobody's business."""
    gate, entered = threading.Event(), threading.Event()

    def deliver(item: int) -> None:
        entered.set()
        gate.wait(PATIENCE)

    boxes = [
        Outbox(deliver, name="fastobs-test", limit=10, dropped=lambda: None, signal=signal)
        for signal in ("parcels", "parcels", "")
    ]
    for box in boxes:
        box.put(0)
        assert entered.wait(PATIENCE)
        entered.clear()
        for number in (1, 2):
            box.put(number)
    found = waiting()
    gate.set()

    assert found["parcels"] == 4
    assert "" not in found
