"""Live metrics over rows of cells."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from fastobs import catalogue
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Gauge
from tests.driving import values


class Answering:
    """A probe that says what the test wants it to say."""

    def __init__(self, *readings: Reading) -> None:
        self.readings: Iterable[Reading] = readings

    def read(self) -> Iterable[Reading]:
        return self.readings


def hits(count: float) -> Reading:
    return Reading(catalogue.CACHE_REQUESTS, ("c", "hit"), count)


def entries(count: float) -> Reading:
    return Reading(catalogue.CACHE_ENTRIES, ("c",), count)


def test_the_same_labels_find_the_same_row(meters: Meters) -> None:
    """However often it is asked for."""
    first = meters.counter(catalogue.HTTP_SLOW, "/a")
    first.add()

    assert meters.counter(catalogue.HTTP_SLOW, "/a") is first
    assert meters.counter(catalogue.HTTP_SLOW, "/b").value == 0


def test_an_observation_falls_into_the_bucket_that_reaches_it(meters: Meters) -> None:
    """Bounds are inclusive; what is above all of them is not lost."""
    histogram = meters.histogram(catalogue.HTTP_REQUEST_SIZE, "GET", "/", "200")

    for size in (0, 100, 101, 1e9):
        histogram.observe(size)

    assert histogram.buckets == [2, 1, 0, 0, 0, 0, 0, 1]
    assert (histogram.count, histogram.sum) == (4, 1e9 + 201)


def test_increments_from_many_threads_are_not_lost(meters: Meters) -> None:
    """A cell is written in one step of the interpreter."""
    counter = meters.counter(catalogue.HTTP_SLOW, "/")
    histogram = meters.histogram(catalogue.POOL_WAIT, "p")

    def work() -> None:
        for _ in range(20_000):
            counter.add()
            histogram.observe(0.01)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (counter.value, histogram.count) == (160_000, 160_000)


def test_a_metric_is_only_what_the_catalogue_says(meters: Meters) -> None:
    """A wrong kind or number of labels is a mistake of ours, found in tests."""
    with pytest.raises(TypeError, match="is a gauge, not a counter"):
        meters.counter(catalogue.HTTP_ACTIVE, "GET")
    with pytest.raises(ValueError, match="has the labels"):
        meters.counter(catalogue.HTTP_SLOW, "/", "more")


def test_label_sets_above_the_limit_are_folded_into_one_and_counted(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels with few values keep them, so that a 5xx stays one."""
    few = replace(catalogue.HTTP_DURATION, limit=3)

    for number in range(5):
        for status in ("200", "500"):
            meters.histogram(few, "GET", f"/{number}", status, "").observe(0.1)

    seen = values(meters, few)
    assert len(seen) == 5
    assert seen["GET", "_other", "500", "_other"] == 4
    assert seen["GET", "_other", "200", "_other"] == 3
    assert values(meters, catalogue.SELF_OVERFLOW) == {(few.name,): 7.0}


def test_readings_above_the_limit_are_one_reading(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of entries the sum, of ages the highest; it is there for as long as one of them is."""
    few = replace(catalogue.CACHE_ENTRIES, limit=1)
    old = replace(catalogue.POOL_OLDEST, limit=1)

    def read(*names: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
        probe.readings = [
            reading
            for size, name in enumerate(names, start=1)
            for reading in (Reading(few, (name,), size), Reading(old, (name, "/"), 10 - size))
        ]
        meters.refresh()
        return values(meters, few), values(meters, old)

    probe = Answering()
    meters.ask(probe)

    assert read("a", "b", "c") == (
        {("a",): 1, ("_other",): 5},
        {("a", "/"): 9, ("_other", "_other"): 8},
    )
    assert read("a", "b") == ({("a",): 1, ("_other",): 2}, {("a", "/"): 9, ("_other", "_other"): 8})
    read("a")
    assert [gauge.is_shown(gauge.numbers(gauge.cells)) for gauge in meters.rows(few)] == [
        True,
        False,
    ]


def test_a_probe_is_asked_when_the_metrics_are_shown(meters: Meters) -> None:
    """Not before, and not by a thread."""
    probe = Answering(hits(3), entries(7))
    meters.ask(probe)
    assert values(meters, catalogue.CACHE_ENTRIES) == {}

    meters.refresh()

    assert values(meters, catalogue.CACHE_ENTRIES) == {("c",): 7.0}
    assert values(meters, catalogue.CACHE_REQUESTS) == {("c", "hit"): 3.0}


def test_a_counter_never_falls_when_what_it_reads_is_cleared(meters: Meters) -> None:
    """cache_clear() begins at zero; the series goes on."""
    probe = Answering()
    meters.ask(probe)
    for count in (10, 12, 1, 5):
        probe.readings = [hits(count)]
        meters.refresh()

    assert values(meters, catalogue.CACHE_REQUESTS) == {("c", "hit"): 17.0}


def test_who_is_asked_twice_at_once_is_not_taken_for_cleared(meters: Meters) -> None:
    """A scrape and a worker's tick: what was asked first would be told last, and be less."""

    class Counting:
        count = 0

        def read(self) -> Iterator[Reading]:
            self.count += 10
            now = self.count
            if now == 10:
                others.start()
                # They would be done by then, if they could.
                others.join(0.05)
            yield hits(now)

    others = threading.Thread(target=meters.refresh)
    probe = Counting()
    meters.ask(probe)
    meters.refresh()
    others.join()

    assert values(meters, catalogue.CACHE_REQUESTS) == {("c", "hit"): 20.0}


def test_a_gauge_that_its_probe_no_longer_reads_disappears(meters: Meters) -> None:
    """A pool that is gone has no connections, not its last number of them."""
    probe = Answering(entries(7))
    meters.ask(probe)
    meters.refresh()
    probe.readings = []

    meters.refresh()

    (gauge,) = meters.rows(catalogue.CACHE_ENTRIES)
    assert isinstance(gauge, Gauge)
    assert not gauge.present


def test_a_probe_that_is_forgotten_takes_its_gauges_with_it(meters: Meters) -> None:
    """And is asked no more."""
    probe = Answering(entries(7))
    meters.ask(probe)
    meters.refresh()

    meters.forget(probe)
    meters.forget(probe)
    meters.refresh()

    (gauge,) = meters.rows(catalogue.CACHE_ENTRIES)
    assert isinstance(gauge, Gauge)
    assert not gauge.present


def test_a_probe_that_is_asked_again_goes_on_from_what_it_said(meters: Meters) -> None:
    """Whether it was forgotten in between, or a second app has it asked."""
    probe = Answering(hits(3), entries(7))
    meters.ask(probe)
    meters.refresh()
    probe.readings = [hits(5), entries(8)]

    meters.ask(probe)
    meters.refresh()
    meters.forget(probe)
    meters.ask(probe)
    meters.refresh()

    assert values(meters, catalogue.CACHE_REQUESTS) == {("c", "hit"): 5.0}
    assert values(meters, catalogue.CACHE_ENTRIES) == {("c",): 8.0}


def test_a_probe_that_fails_does_not_spoil_the_others(
    meters: Meters, contained_errors: None
) -> None:
    """Its error is counted under its name."""

    class Broken:
        def read(self) -> Iterable[Reading]:
            raise OSError

    meters.ask(Broken())
    meters.ask(Answering(hits(1)))

    meters.refresh()

    assert values(meters, catalogue.CACHE_REQUESTS) == {("c", "hit"): 1.0}
    assert values(meters, catalogue.SELF_ERRORS) == {("probe.Broken",): 1.0}
