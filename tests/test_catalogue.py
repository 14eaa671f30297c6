"""The one place where a series is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastobs import catalogue
from fastobs.catalogue import CATALOGUE, FAMILIES, Metric

ROOT = Path(__file__).parents[1]
SPELLED_HERE = {"catalogue.py", "_exchange.py"}


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    """https://prometheus.io/docs/practices/naming/."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    assert len(set(metric.shown_labels)) == len(metric.shown_labels)
    if "time" in metric.help.lower() and metric.kind == "histogram":
        assert metric.name.endswith("_seconds")


def test_the_series_are_those_that_were_promised() -> None:
    """Boards, alerts and queries of others name them; here they are spelled a second time, on purpose."""
    promised = [
        line
        for line in (ROOT / "tests/series.txt").read_text().splitlines()
        if not line.startswith("#")
    ]

    assert [
        f"{metric.name} {metric.kind} {','.join(metric.shown_labels)}".rstrip()
        for metric in CATALOGUE.values()
    ] == promised


def test_every_metric_belongs_to_one_family() -> None:
    """Boards, alerts and runbooks are found by it."""
    names = [metric.name for family in FAMILIES for metric in family]

    assert len(names) == len(set(names)) == len(CATALOGUE)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_targets_are_bucket_bounds() -> None:
    """An SLO on 50, 100, 200 or 500 ms is exact only then."""
    assert {0.05, 0.1, 0.2, 0.5} <= set(catalogue.HTTP_DURATION.buckets)


def test_no_other_module_spells_a_series() -> None:
    """Renaming one is a change of one line."""
    name = re.compile(rf"[\"'](?:{'|'.join(CATALOGUE)})[\"']")
    places = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for folder in ("fastobs", "dashboards", "alerts")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in SPELLED_HERE and "_shipped" not in path.parts
        if (found := name.search(path.read_text()))
    ]

    assert places == []
