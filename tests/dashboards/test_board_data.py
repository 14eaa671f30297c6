"""Every query and every rule, on what watches the shop: idle first, then under load.

Both major versions of Prometheus, and VictoriaMetrics with vmalert, scrape the same two workers.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alerts.__main__ import GENERATED
from alerts.families import FAMILIES
from dashboards.boards import boards
from dashboards.expressions import expressions, plain
from examples.running import under_load
from fastobs import catalogue
from fastobs.cli.export import compatible
from tests import parts, watched
from tests.parts.programs import MissingPart

pytestmark = pytest.mark.integration

VERSIONS = {"prometheus": "promtool", "prometheus-3": "promtool-3"}
OTHER = "victoria-metrics"
SECONDS = 15
SCRAPES = 8
SMALL_POOL_ALERT = "FastobsPoolTimeouts"
QUERIES = list(expressions(window="15s"))
MARKS = [
    (mark["name"], plain(mark["expr"], "15s", {"job": ".+", "instance": ".+"}))
    for mark in boards()[0].annotations.list
]

board = pytest.mark.parametrize("uid", dict.fromkeys(query.board for query in QUERIES))
version = pytest.mark.parametrize("version", VERSIONS)
database = pytest.mark.parametrize("version", [*VERSIONS, OTHER])


class Span(NamedTuple):
    """From and to, in seconds since the epoch."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Who was watching, and when nobody asked the shop for anything, and when many did."""

    shop: parts.Server
    by: Mapping[str, parts.Prometheus]
    alerting: Mapping[str, parts.Prometheus]
    """Who evaluates the rules: each Prometheus itself, and vmalert for VictoriaMetrics."""
    idle: Span
    busy: Span

    def prometheus(self, version: str) -> parts.Prometheus:
        """The server of a version; a part may be missing where a person runs the tests."""
        if version not in self.by:
            parts.find(version)
        return self.by[version]

    def series(self, query: str, version: str, span: Span) -> list[dict[str, Any]]:
        """What the query was, every two seconds."""
        found: list[dict[str, Any]] = self.prometheus(version).api(
            "query_range", query=query, **span._asdict(), step=2
        )["result"]
        return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The shop, some scrapes in peace, and then its load."""
    folder = tmp_path_factory.mktemp("watched")
    rules = watched.rules(folder)
    with ExitStack() as stack:
        shop = stack.enter_context(watched.shop(folder))
        yesterday = watched.a_day_ago(shop.address, folder, seconds=180)
        targets = {"shop": [shop.address]}
        watching: dict[str, parts.Prometheus] = {}
        for program in VERSIONS:
            own = shutil.copytree(yesterday, folder / program)
            try:
                watching[program] = stack.enter_context(
                    parts.prometheus(targets=targets, rules=rules, program=program, data=own)
                )
            except MissingPart:
                continue
        alerting = dict(watching)
        try:
            other = stack.enter_context(parts.victoria_metrics(targets=targets))
            old = [_compatible(path, folder / "compat") for path in rules]
            alerting[OTHER] = stack.enter_context(parts.vmalert(other, rules=old))
            watching[OTHER] = other
        except MissingPart:
            pass
        for each in watching.values():
            each.eventually('up{job="shop"} == 1')
        began = time.time()
        for each in watching.values():
            each.eventually(f'count_over_time(up{{job="shop"}}[1m]) > {SCRAPES}')
        idle = Span(began, time.time())
        watched.awaken(shop)
        under_load(shop.url, users=10, seconds=SECONDS)
        watched.provoke(shop)
        for each in watching.values():
            # What was provoked last has been scraped twice, so that it has a rate.
            each.eventually(f"count_over_time({catalogue.SELF_OVERFLOW.name}[1m]) > 1")
        yield Watched(
            shop=shop, by=watching, alerting=alerting, idle=idle, busy=Span(idle.end, time.time())
        )


def _compatible(rules: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / rules.name
    file.write_text(compatible(rules.read_text()))
    return file


def _numbers(series: list[dict[str, Any]]) -> list[float]:
    return [float(value) for one in series for _, value in one["values"]]


@database
@board
def test_under_load_every_query_has_finite_data(seen: Watched, uid: str, version: str):
    """A panel that is empty, infinite or not a number helps nobody at 3 a.m."""

    def wrong() -> dict[str, object]:
        found: dict[str, object] = {}
        # What was provoked last becomes a rate a few scrapes later.
        span = Span(seen.busy.start, time.time())
        for query in (query for query in QUERIES if query.board == uid):
            series = seen.series(query.expr, version, span)
            numbers = _numbers(series)
            infinite = [number for number in numbers if not math.isfinite(number)]
            labels = set(re.findall(r"{{\s*(\w+)\s*}}", query.legend))
            unlabelled = [one["metric"] for one in series if not labels <= one["metric"].keys()]
            if infinite or unlabelled or not (numbers or query.maybe_empty):
                found[f"{query.panel} {query.ref}"] = infinite or unlabelled or query.expr
        return found

    with suppress(TimeoutError):
        parts.eventually(lambda: not wrong())
    assert wrong() == {}


@version
@board
def test_under_load_every_panel_has_data(seen: Watched, uid: str, version: str):
    """Also those that are empty in a healthy service, and those that compare with yesterday."""
    asked = [query for query in QUERIES if query.board == uid]

    def empty() -> set[str]:
        # What was provoked last becomes a rate a few scrapes later.
        span = Span(seen.busy.start, time.time())
        full = {query.panel for query in asked if seen.series(query.expr, version, span)}
        return {query.panel for query in asked} - full

    with suppress(TimeoutError):
        parts.eventually(lambda: not empty())
    assert empty() == set()


@version
@pytest.mark.parametrize("uid", ["fastobs-overview", "fastobs-route"])
def test_the_parts_of_the_time_are_all_of_it(seen: Watched, uid: str, version: str):
    """The areas reach the mean latency, also where routes were asked of which nothing is known."""
    totals: dict[str, dict[float, float]] = {"areas": {}, "mean": {}}
    for query in QUERIES:
        if (query.board, query.panel) == (uid, "Where does the time go?"):
            of = totals["mean" if query.legend == "mean latency" else "areas"]
            for one in seen.series(query.expr, version, seen.busy):
                for moment, value in one["values"]:
                    of[moment] = of.get(moment, 0.0) + float(value)

    assert totals["mean"]
    # They may exceed it for a moment: the first request of a new status has no rate yet, its parts do.
    # And a scrape may come while a request is being counted, in the one and not yet in the other.
    short = [
        moment for moment, mean in totals["mean"].items() if totals["areas"][moment] < 0.999 * mean
    ]
    assert len(short) < len(totals["mean"]) / 4


@database
def test_an_idle_app_gives_gaps_or_zeros(seen: Watched, version: str):
    """No traffic is no reason for an error, for "NaN" or for an infinite ratio."""
    wrong = {
        (query.board, query.panel, query.ref): numbers
        for query in QUERIES
        if (
            numbers := {
                number
                for number in _numbers(seen.series(query.expr, version, seen.idle))
                if not math.isfinite(number)
            }
        )
    }

    assert wrong == {}


@version
@pytest.mark.parametrize(
    ("name", "expr"), MARKS, ids=lambda value: value if value in dict(MARKS) else ""
)
def test_marks_can_be_asked_for(seen: Watched, name: str, expr: str, version: str):
    """What they mark happened or did not; the question is one that Prometheus understands."""
    assert all(map(math.isfinite, _numbers(seen.series(expr, version, seen.busy)))), name


@pytest.mark.parametrize(
    ("series", "label"),
    [
        (f"{catalogue.HTTP_DURATION.name}_count", 'http_route="/api/v1/products/{product_id}"'),
        (catalogue.HTTP_PART.name, 'part="pool_wait"'),
        (f"{catalogue.POOL_WAIT.name}_count", f'{catalogue.POOL}="shop-cramped"'),
        (catalogue.POOL_MAX.name, f'{catalogue.POOL}="shop-threads"'),
        (catalogue.POOL_MAX.name, f'{catalogue.POOL}=~"redis.*"'),
        (f"{catalogue.DB_DURATION.name}_count", 'db_system_name="postgresql"'),
        (f"{catalogue.DB_DURATION.name}_count", 'db_system_name="redis"'),
        (catalogue.DB_SERVER_MAX.name, f'{catalogue.POOL}="shop"'),
        (catalogue.DB_SERVER_MAX.name, f'{catalogue.POOL}="shop-threads"'),
        (catalogue.CACHE_REQUESTS.name, 'cache="products"'),
        (catalogue.LIMIT_DECISIONS.name, 'outcome="limited"'),
        (catalogue.DB_REPEATED.name, 'http_route="/mistakes/lazy-loads"'),
        (catalogue.LOOP_BLOCKS.name, 'http_route="/mistakes/blocking-call"'),
        (catalogue.PROCESS_CPU.name, 'worker="1"'),
        (f"{catalogue.CLIENT_QUEUE.name}_count", 'client!=""'),
    ],
)
def test_each_family_moves(seen: Watched, series: str, label: str):
    """Pools and statements by both drivers, caches in Redis, limits, the loop, the process."""
    # The server's limit is asked at a slow tick.
    seen.prometheus("prometheus").eventually(f"sum({series}{{{label}}}) > 0")


def test_every_series_that_is_promised_is_sent(seen: Watched):
    """A series that nobody writes makes a panel that is empty for good."""

    def missing() -> set[str]:
        names = set(seen.prometheus("prometheus").api("label/__name__/values"))
        return {
            metric.name
            for metric in catalogue.CATALOGUE.values()
            if (f"{metric.name}_count" if metric.kind == "histogram" else metric.name) not in names
        }

    with suppress(TimeoutError):
        parts.eventually(lambda: not missing())
    assert missing() == set()


@version
def test_every_latency_query_leads_to_traces(seen: Watched, version: str):
    """Prometheus has stored exemplars, with the ids that tracing backends know."""
    for query in (query for query in QUERIES if query.exemplar):
        found = seen.prometheus(version).api(
            "query_exemplars", query=query.expr, **seen.busy._asdict()
        )

        labels = found[0]["exemplars"][0]["labels"]
        assert re.fullmatch("[0-9a-f]{32}", labels["trace_id"]), query.panel
        assert re.fullmatch("[0-9a-f]{16}", labels["span_id"]), query.panel


@database
def test_every_rule_is_evaluated_without_error(seen: Watched, version: str):
    """On the data that the shop emits, not only by syntax."""
    seen.prometheus(version)
    groups = seen.alerting[version].api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]

    assert rules
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []


@version
def test_the_rule_files_pass_the_checker_of_each_version(version: str):
    """What is shipped, as it is shipped."""
    said = parts.promtool(
        "check", "rules", *sorted(GENERATED.glob("*.rules.yml")), program=VERSIONS[version]
    )

    assert said.count("SUCCESS") == len(FAMILIES)


@database
@pytest.mark.parametrize("board", boards(), ids=lambda board: board.uid)
def test_every_variable_has_something_to_choose(seen: Watched, board: Any, version: str):
    """A drop-down without values makes a board without data."""
    for variable in board.templating.list:
        if variable.type == "datasource":
            continue
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable.query)
        assert asked is not None
        found = seen.prometheus(version).api(
            f"label/{asked[2]}/values",
            **{"match[]": plain(asked[1], "15s", {"job": ".+", "instance": ".+"})},
        )

        assert found, variable.name


@database
def test_an_alert_fires_for_a_real_fault(seen: Watched, version: str):
    """The load includes a pool that is too small; its callers' timeouts are an alert."""
    (fired, *_) = seen.prometheus(version).eventually(
        f'max_over_time(ALERTS{{alertname="{SMALL_POOL_ALERT}", alertstate="firing"}}[10m])'
    )

    assert fired.labels["job"] == "shop"


@version
def test_promtool_finds_nothing_wrong_with_a_live_exposition(seen: Watched, version: str):
    """`promtool check metrics` reads what Prometheus reads."""
    body = parts.get(f"{seen.shop.url}/metrics").body

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
