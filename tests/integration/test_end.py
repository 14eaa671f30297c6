"""Servers that are told to end, as each deployment does: what they had not delivered yet is not lost.

uvicorn and granian end their processes by the signal that they were sent, so nothing that is
registered with `atexit` runs there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.integration.collector import Collector, collecting

pytestmark = pytest.mark.integration

SERVERS = ["uvicorn", "gunicorn", "granian"]
PATIENCE = 60.0
"""Seconds for what takes one, on a machine that has more to do."""
NEVER = "3600000"
"""Milliseconds after which spans are sent without being asked for."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.mark.parametrize("server", SERVERS)
def test_the_last_traces_are_sent(server: Any, collector: Collector, tmp_path: Path) -> None:
    """They would have waited for their batch."""
    environment = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": NEVER}
    with parts.serve(
        "tests.integration.many:app",
        server=server,
        env={"MANY_FOLDER": str(tmp_path), **environment},
    ) as running:
        traces = {running.get(f"/items/{i}").headers["x-trace-id"] for i in range(3)}
        assert not collector.instances
        running.server.stop(within=PATIENCE)

    assert collector.instances.keys() == traces


@pytest.mark.parametrize("server", SERVERS)
def test_the_users_own_metrics_are_told_to_the_last(server: Any, tmp_path: Path) -> None:
    """Workers tell them once a second, and the last second counts as well."""
    with parts.serve(
        "tests.integration.many:app",
        server=server,
        workers=2,
        env={"MANY_FOLDER": str(tmp_path), "FASTOBS_WORKERS_DIRECTORY": str(tmp_path)},
    ) as running:
        for number in range(60):
            running.get(f"/items/{number}")
        running.server.stop(within=PATIENCE)

    told = [json.loads(path.read_text()) for path in tmp_path.glob("*/*.users")]
    orders = [
        value
        for families in told
        for name, _, _, samples in families
        for sample, _, value in samples
        if (name, sample) == ("orders", "orders_total")
    ]
    assert sum(orders) == 60
