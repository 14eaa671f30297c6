"""Attached probes, and what they counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastobs._process import Process
from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Gauge, Histogram
from fastobs.config import load
from fastobs.probes import Probes
from tests.driving import Clock


@pytest.fixture
def attach(shared: Process) -> Iterator[Callable[..., Probes]]:
    """Attaches the probes, and takes their hooks out when the test ends."""

    def attach(**sections: Any) -> Probes:
        shared.probes.attach(load(None, sections))
        return shared.probes

    yield attach
    shared.probes.detach()


@pytest.fixture
def probes(attach: Callable[..., Probes]) -> Probes:
    """Attached probes."""
    return attach()


@pytest.fixture
def clock(probes: Probes, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time for all of fastobs, which passes when the test says so: with it a busy machine changes
    nothing about how long something took."""
    clock = Clock()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fastobs" and "perf_counter" in vars(module):
            monkeypatch.setattr(module, "perf_counter", clock)
    return clock


@pytest.fixture
def read(meters: Meters) -> Callable[..., dict[tuple[str, ...], float]]:
    """Asks the probes, then answers with a metric's values by label values: of a histogram the
    count. Gauges that are not there are left out."""

    def read(metric: Metric) -> dict[tuple[str, ...], float]:
        meters.refresh()
        return {
            row.values: row.count if isinstance(row, Histogram) else row.cells[row.at]
            for row in meters.rows(metric)
            if not isinstance(row, Gauge) or row.present
        }

    return read
