"""Every query and every rule, on both major versions of Prometheus that watch the shop under load."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alerts.__main__ import GENERATED
from alerts.families import FAMILIES, file_name
from alerts.kit import render
from alerts.pace import Pace
from alerts.thresholds import THRESHOLDS
from dashboards.boards import boards
from dashboards.expressions import Expression, expressions, plain
from examples.running import under_load
from tests import parts
from tests.parts.programs import MissingPart

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
VERSIONS = {"prometheus": "promtool", "prometheus-3": "promtool-3"}
SECONDS = 30
SMALL_POOL_ALERT = "FastobsPoolTimeouts"
QUERIES = list(expressions(window="15s"))
MARKS = [
    (mark["name"], plain(mark["expr"], "15s", {"job": ".+", "instance": ".+"}))
    for mark in boards()[0].annotations.list
]

version = pytest.mark.parametrize("version", VERSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Who was watching, and when (seconds since the epoch)."""

    shop: parts.Server
    by: Mapping[str, parts.Prometheus]
    began: float
    ended: float

    def prometheus(self, version: str) -> parts.Prometheus:
        """The server of a version; a part may be missing where a person runs the tests."""
        if version not in self.by:
            parts.find(version)
        return self.by[version]

    def series(self, query: str, version: str) -> list[dict[str, Any]]:
        """What the query was, every two seconds."""
        span = {"start": self.began, "end": self.ended, "step": 2}
        found: list[dict[str, Any]] = self.prometheus(version).api(
            "query_range", query=query, **span
        )["result"]
        return found


@contextmanager
def _watched(folder: Path) -> Iterator[tuple[parts.Server, dict[str, parts.Prometheus]]]:
    """The shop with two workers, and a Prometheus of each version with our rules in a hurry."""
    rules = []
    for family, groups in FAMILIES.items():
        rules.append(folder / file_name(family))
        rules[-1].write_text(render(family, Pace(faster=20).groups(groups(THRESHOLDS))))
    environment = {
        "SHOP_DATABASE_URL": f"sqlite:///{folder}/shop.db",
        "FASTOBS_WORKERS_DIRECTORY": str(folder),
        "FASTOBS_SLOW_AFTER": "0.3",
        "FASTOBS_TRACES_SAMPLE": "1",
        "OTEL_TRACES_EXPORTER": "console",
        "FASTOBS_PROFILES_TOKEN": "s3cret",
        "FASTOBS_PROFILES_DIRECTORY": str(folder / "profiles"),
    }
    with ExitStack() as stack:
        shop = stack.enter_context(
            parts.serve("examples.shop.app:app", workers=2, env=environment, ready="/healthz")
        )
        watching = {}
        for program in VERSIONS:
            try:
                watching[program] = stack.enter_context(
                    parts.prometheus(targets={"shop": [shop.address]}, rules=rules, program=program)
                )
            except MissingPart:
                continue
        for prometheus in watching.values():
            prometheus.eventually('up{job="shop"} == 1')
        yield shop, watching


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Half a minute of load."""
    with _watched(tmp_path_factory.mktemp("busy")) as (shop, watching):
        began = time.time()
        under_load(shop.url, users=10, seconds=SECONDS)
        yield Watched(shop=shop, by=watching, began=began, ended=time.time())


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A dozen scrapes of a shop that nobody has asked for anything."""
    with _watched(tmp_path_factory.mktemp("idle")) as (shop, watching):
        began = time.time()
        for prometheus in watching.values():
            prometheus.eventually('count_over_time(up{job="shop"}[1m]) > 12', within=60)
        yield Watched(shop=shop, by=watching, began=began, ended=time.time())


def _numbers(series: list[dict[str, Any]]) -> list[float]:
    return [float(value) for one in series for _, value in one["values"]]


@version
@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.board}: {q.panel} {q.ref}")
def test_under_load_every_query_has_finite_data(busy: Watched, query: Expression, version: str):
    """A panel that is empty, infinite or not a number helps nobody at 3 a.m."""
    series = busy.series(query.expr, version)

    numbers = _numbers(series)
    assert [number for number in numbers if not math.isfinite(number)] == []
    assert numbers or query.maybe_empty, query.expr
    wanted = set(re.findall(r"{{\s*(\w+)\s*}}", query.legend))
    assert all(wanted <= one["metric"].keys() for one in series)


@version
def test_an_idle_app_gives_gaps_or_zeros(idle: Watched, version: str):
    """No traffic is no reason for an error, for "NaN" or for an infinite ratio."""
    wrong = {
        (query.board, query.panel, query.ref): numbers
        for query in QUERIES
        if (
            numbers := {
                number
                for number in _numbers(idle.series(query.expr, version))
                if not math.isfinite(number)
            }
        )
    }

    assert wrong == {}


@version
@pytest.mark.parametrize(
    ("name", "expr"), MARKS, ids=lambda value: value if value in dict(MARKS) else ""
)
def test_marks_can_be_asked_for(busy: Watched, name: str, expr: str, version: str):
    """What they mark happened or did not; the question is one that Prometheus understands."""
    assert all(map(math.isfinite, _numbers(busy.series(expr, version)))), name


@version
def test_every_latency_query_leads_to_traces(busy: Watched, version: str):
    """Prometheus has stored exemplars, with the ids that tracing backends know."""
    span = {"start": busy.began, "end": busy.ended}
    for query in (query for query in QUERIES if query.exemplar):
        found = busy.prometheus(version).api("query_exemplars", query=query.expr, **span)

        labels = found[0]["exemplars"][0]["labels"]
        assert re.fullmatch("[0-9a-f]{32}", labels["trace_id"]), query.panel
        assert re.fullmatch("[0-9a-f]{16}", labels["span_id"]), query.panel


@version
def test_every_rule_is_evaluated_without_error(busy: Watched, version: str):
    """On the data that the shop emits, not only by syntax."""
    rules = [
        rule for group in busy.prometheus(version).api("rules")["groups"] for rule in group["rules"]
    ]

    assert rules
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []


@version
def test_the_rule_files_pass_the_checker_of_each_version(version: str):
    """What is shipped, as it is shipped."""
    said = parts.promtool(
        "check", "rules", *sorted(GENERATED.glob("*.rules.yml")), program=VERSIONS[version]
    )

    assert said.count("SUCCESS") == len(FAMILIES)


@version
@pytest.mark.parametrize("board", boards(), ids=lambda board: board.uid)
def test_every_variable_has_something_to_choose(busy: Watched, board: Any, version: str):
    """A drop-down without values makes a board without data."""
    for variable in board.templating.list:
        if variable.type == "datasource":
            continue
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable.query)
        assert asked is not None
        found = busy.prometheus(version).api(
            f"label/{asked[2]}/values",
            **{"match[]": plain(asked[1], "15s", {"job": ".+", "instance": ".+"})},
        )

        assert found, variable.name


@version
def test_an_alert_fires_for_a_real_fault(busy: Watched, version: str):
    """The load includes a pool that is too small; its callers' timeouts are an alert."""
    (fired, *_) = busy.prometheus(version).eventually(
        f'ALERTS_FOR_STATE{{alertname="{SMALL_POOL_ALERT}"}} '
        f'and on (alertname) max_over_time(ALERTS{{alertstate="firing"}}[2m])'
    )

    assert fired.labels["job"] == "shop"


@version
def test_promtool_finds_nothing_wrong_with_a_live_exposition(busy: Watched, version: str):
    """`promtool check metrics` reads what Prometheus reads."""
    body = parts.get(f"{busy.shop.url}/metrics").body

    done = subprocess.run(
        [parts.find(VERSIONS[version]), "check", "metrics"],
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
