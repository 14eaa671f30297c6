"""Attached probes, and what they counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastobs._process import Process
from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Gauge, Histogram
from fastobs.config import load
from fastobs.probes import Probes


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
