"""A board is there when it is needed: what Prometheus works on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.boards import PROGRAMS, an_hour, samples_of
from tests import parts

pytestmark = pytest.mark.integration

MOST = 4_000_000
"""Samples, for all queries of the overview: 2.7 million took 0.2 s (benchmarks/boards.md), of 0.5 s that they may
take. Seconds would depend on what else the machine does."""


@pytest.fixture(scope="module")
def hour() -> Iterator[tuple[Path, float]]:
    """The database of an hour of the shop, and when it ends."""
    with an_hour(seconds=5) as made:
        yield made


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_overview_of_an_hour_is_there_at_once(
    hour: tuple[Path, float], program: str, tmp_path: Path
):
    """What Prometheus reads for it fits into half a second, whatever is on the board."""
    data, end = hour
    # Prometheus writes into what it serves, in its own version's way.
    own = shutil.copytree(data, tmp_path / "data")
    with parts.prometheus(program=program, data=own) as prometheus:
        counted = prometheus.api("query", query="count_over_time(up[1h])", time=end)

        assert float(counted["result"][0]["value"][1]) > 200
        assert 0 < samples_of(prometheus, "fastobs-overview", end) <= MOST
