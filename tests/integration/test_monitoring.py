"""The shop under load, scraped by a real Prometheus that has our rules and is asked our boards' queries."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alerts.families import FAMILIES, file_name
from alerts.kit import render
from alerts.pace import Pace
from alerts.thresholds import THRESHOLDS
from dashboards.expressions import Expression, expressions
from tests import parts

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUERIES = list(expressions(window="15s"))
SMALL_POOL_ALERT = "FastobsPoolTimeouts"


@dataclass(frozen=True)
class Watched:
    """What runs, and when the load began and ended (seconds since the epoch)."""

    shop: Any
    prometheus: parts.Prometheus
    began: float
    ended: float


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A shop, a load of half a minute, and a Prometheus whose rules are in a hurry."""
    folder = tmp_path_factory.mktemp("shop")
    environment = {
        "SHOP_DATABASE_URL": f"sqlite:///{folder}/shop.db",
        "FASTOBS_SLOW_AFTER": "0.3",
        "FASTOBS_TRACES_SAMPLE": "1",
        "OTEL_TRACES_EXPORTER": "console",
        "FASTOBS_PROFILES_TOKEN": "s3cret",
        "FASTOBS_PROFILES_DIRECTORY": str(folder / "profiles"),
    }
    with (
        parts.serve("examples.shop.app:app", env=environment, ready="/healthz") as shop,
        parts.prometheus(targets={"shop": [shop.address]}, rules=_in_a_hurry(folder)) as prometheus,
    ):
        prometheus.eventually('up{job="shop"} == 1')
        began = time.time()
        _load(shop.url, seconds=30)
        yield Watched(shop, prometheus, began, time.time())


def _in_a_hurry(folder: Path) -> list[Path]:
    """The same rules with a twentieth of their patience, for scrapes a second apart."""
    paths = []
    for family, groups in FAMILIES.items():
        paths.append(folder / file_name(family))
        paths[-1].write_text(render(family, Pace(faster=20).groups(groups(THRESHOLDS))))
    return paths


def _load(url: str, *, seconds: int) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", "examples/shop/locustfile.py", "--host", url),
            *("--headless", "-u", "10", "-r", "10", "-t", f"{seconds}s", "--loglevel", "ERROR"),
            *("--exit-code-on-error", "0"),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=seconds + 60,
    )


def _ask(watched: Watched, query: Expression) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = watched.prometheus.api(
        "query_range",
        query=query.expr,
        start=watched.began,
        end=watched.ended,
        step=2,
    )["result"]
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.board}: {q.panel} {q.ref}")
def test_every_query_of_every_board_returns_finite_data(
    watched: Watched, query: Expression
) -> None:
    """A panel that is empty, infinite or not a number helps nobody at 3 a.m."""
    series = _ask(watched, query)

    points = [float(value) for one in series for _, value in one["values"]]
    assert not [point for point in points if math.isinf(point) or math.isnan(point)]
    assert points or query.maybe_empty, query.expr
    wanted = set(re.findall(r"{{\s*(\w+)\s*}}", query.legend))
    assert all(wanted <= one["metric"].keys() for one in series)


def test_latency_panels_lead_to_traces(watched: Watched) -> None:
    """Prometheus has stored exemplars, with the ids that tracing backends know."""
    query = next(query for query in QUERIES if query.exemplar)

    found = watched.prometheus.api(
        "query_exemplars", query=query.expr, start=watched.began, end=watched.ended
    )

    labels = found[0]["exemplars"][0]["labels"]
    assert re.fullmatch("[0-9a-f]{32}", labels["trace_id"])
    assert re.fullmatch("[0-9a-f]{16}", labels["span_id"])


def test_every_rule_is_loaded_and_evaluated_without_error(watched: Watched) -> None:
    """On the data that the shop emits, not only by syntax."""
    groups = watched.prometheus.api("rules")["groups"]

    bad = [
        (rule["name"], rule["lastError"])
        for group in groups
        for rule in group["rules"]
        if rule["health"] != "ok"
    ]
    assert len(groups) >= 8
    assert bad == []


def test_an_alert_fires_for_a_real_fault(watched: Watched) -> None:
    """The load includes a pool that is too small; its callers' timeouts are an alert."""
    (fired, *_) = watched.prometheus.eventually(
        f'ALERTS_FOR_STATE{{alertname="{SMALL_POOL_ALERT}"}} '
        f'and on (alertname) max_over_time(ALERTS{{alertstate="firing"}}[2m])'
    )

    assert fired.labels["job"] == "shop"


def test_promtool_finds_nothing_wrong_with_a_live_exposition(watched: Watched) -> None:
    """`promtool check metrics` reads what Prometheus reads."""
    body = parts.get(f"{watched.shop.url}/metrics").body

    done = subprocess.run(
        [parts.find("promtool"), "check", "metrics"],
        input=body.encode(),
        capture_output=True,
        check=False,
    )

    # Names of the semantic conventions end in _count and _max for gauges; promtool warns about them.
    complaints = [
        line
        for line in (done.stdout + done.stderr).decode().splitlines()
        if not line.startswith(("db_client_", "http_client_", "python_", "process_"))
    ]
    assert complaints == []
