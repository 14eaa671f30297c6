"""The users' own metrics, from all workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fastobs.cells.bridge import write
from fastobs.cells.carry import Carry


class Worker:
    """A process with metrics of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.orders = Counter("orders", "Orders.", ["kind"], registry=self.registry)
        self.queue = Gauge("queue", "Waiting.", registry=self.registry)
        self.basket = Histogram("basket", "Items.", registry=self.registry, buckets=[1, 5])
        self.carry = Carry(self.registry)

    def shows(self) -> dict[str, float]:
        text = write(self.carry.families(), openmetrics=False)
        lines = [line for line in text.splitlines() if line and line[0] != "#"]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for slot in range(3):
        (tmp_path / f"{slot}.cells").touch()
    return tmp_path


def test_a_process_that_is_alone_shows_its_metrics_as_they_are() -> None:
    """Without a label that its dashboards do not know."""
    one = Worker()
    one.queue.set(3)

    assert one.shows()["queue"] == 3


def test_counters_and_histograms_are_summed(folder: Path) -> None:
    """Whichever worker is asked."""
    one, two = Worker(), Worker()
    for slot, each in enumerate((one, two)):
        each.carry.enter(folder, slot, print)
        each.orders.labels("new").inc(slot + 1)
        each.basket.observe(3)
        each.carry.publish()

    for each in (one, two):
        shown = each.shows()
        assert shown['orders_total{kind="new"}'] == 3
        assert shown['basket_bucket{le="5.0"}'] == 2
        assert shown["basket_count"] == 2


def test_a_gauge_is_shown_of_each_live_worker(folder: Path) -> None:
    """A sum could mean anything; the slot is its label, as with our own."""
    one, dead = Worker(), Worker()
    for slot, each in enumerate((one, dead)):
        each.carry.enter(folder, slot, print)
        each.queue.set(7)
        each.carry.publish()

    assert {name: v for name, v in one.shows().items() if "queue" in name} == {
        'queue{worker="0"}': 7
    }


def test_counters_of_a_worker_that_died_go_on_in_its_slot(folder: Path) -> None:
    """They never fall."""
    first, second, other = Worker(), Worker(), Worker()
    first.carry.enter(folder, 1, print)
    first.orders.labels("new").inc(5)
    first.carry.publish()
    second.carry.enter(folder, 1, print)
    second.orders.labels("new").inc(2)
    second.carry.publish()
    other.carry.enter(folder, 0, print)

    assert other.shows()['orders_total{kind="new"}'] == 7


@pytest.mark.parametrize("damage", ["", "garbage", "[[1]]", '[["a", "counter", "", [[1]]]]'])
def test_a_damaged_file_does_not_spoil_the_others(damage: str, folder: Path) -> None:
    """It is said, and written anew with its owner's next tick."""
    one = Worker()
    left_out: list[str] = []
    one.carry.enter(folder, 0, left_out.append)
    one.orders.labels("new").inc()
    (folder / "1.users").write_text(damage)

    assert one.shows()['orders_total{kind="new"}'] == 1
    assert left_out == ["1.users is damaged"]


def test_a_process_without_metrics_of_its_own_writes_no_file(folder: Path) -> None:
    """Until it has some; and a slot whose last owner had some keeps what they counted."""
    one = Carry(CollectorRegistry())
    one.enter(folder, 0, print)
    one.publish()

    assert not (folder / "0.users").exists()


def test_a_worker_that_has_left_shares_no_more(folder: Path) -> None:
    """A forked child is not its parent's slot."""
    one = Worker()
    one.carry.enter(folder, 0, print)
    one.carry.leave()
    one.queue.set(2)

    one.carry.publish()

    assert one.shows()["queue"] == 2
    assert not (folder / "0.users").exists()
