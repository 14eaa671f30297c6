"""What a scrape of many workers costs, in calls: the same number on every machine, busy or not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from fastobs import catalogue
from fastobs._endpoint import exposition
from fastobs.cells import Meters
from fastobs.cells.shared import SharedStore

WORKERS = 8
METRIC = catalogue.HTTP_DURATION


def calls_of(act: Callable[[], object]) -> int:
    """How many functions it calls, of Python and of C."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    # A collection in between would call whatever it finds.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


class Server:
    """Workers with a slot each, that have all been asked for everything."""

    def __init__(self, folder: Path, label_sets: int) -> None:
        self._folder = folder
        self._label_sets = label_sets
        self.workers: list[tuple[Meters, SharedStore]] = []
        for _ in range(WORKERS):
            self._start()

    def recycle(self) -> None:
        """The worker that has lived the longest has a successor."""
        self.workers.pop(0)[1].close()
        self._start()

    def scrape(self) -> bytes:
        return b"".join(exposition(self.workers[0][0], list, openmetrics=False))

    def _start(self) -> None:
        store = SharedStore(self._folder, "test", lambda what: None)
        meters = Meters(store)
        for number in range(self._label_sets):
            meters.histogram(METRIC, "GET", f"/{number}", "200", "").observe(0.02)
        self.workers.append((meters, store))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[int], Server]]:
    servers: list[Server] = []

    def start(label_sets: int) -> Server:
        (folder := tmp_path / "ours").mkdir()
        servers.append(Server(folder, label_sets))
        return servers[-1]

    yield start
    for each in servers:
        for _, store in each.workers:
            store.close()


def test_a_scrape_after_hundreds_of_recycled_workers_costs_what_the_first_one_did(
    server: Callable[[int], Server],
) -> None:
    """Nothing is left of those that are gone but what they counted."""
    ours = server(20)
    ours.scrape()
    fresh = calls_of(ours.scrape)

    for _ in range(500):
        ours.recycle()
    # The first scrape of a worker also makes its templates.
    body = ours.scrape()

    assert calls_of(ours.scrape) == fresh
    line = f'{METRIC.name}_count{{http_request_method="GET",http_route="/7",http_response_status_code="200",error_type=""}}'
    assert f"{line} {WORKERS + 500}\n".encode() in body


def test_a_scrape_costs_a_few_calls_for_each_row(server: Callable[[int], Server]) -> None:
    """Columns are added up and counts written by the interpreter's own loops, not by ours."""
    ours = server(600)
    ours.scrape()

    assert calls_of(ours.scrape) <= 600 * 12


def test_prometheus_clients_multiprocess_mode_makes_forty_times_as_many_calls(
    server: Callable[[int], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same observations, and without a single recycled worker."""
    ours = server(100)
    ours.scrape()
    (theirs := tmp_path / "theirs").mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(theirs))
    pid = 0
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: pid))
    histogram = Histogram(
        METRIC.name, METRIC.help, METRIC.labels, buckets=METRIC.buckets, registry=None
    )
    for pid in range(WORKERS):  # noqa: B007 - the closure above asks for it
        for number in range(100):
            histogram.labels("GET", f"/{number}", "200", "").observe(0.02)

    def scrape() -> bytes:
        registry = CollectorRegistry()
        collector: Any = MultiProcessCollector
        collector(registry, path=str(theirs))
        return generate_latest(registry)

    line = f"{METRIC.name}_bucket{{"
    assert scrape().count(line.encode()) == ours.scrape().count(line.encode())
    assert calls_of(scrape) >= 40 * calls_of(ours.scrape)
