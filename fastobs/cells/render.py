"""The two text formats of Prometheus, written from cells with one cached template per row.

Formats: Prometheus text 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and
OpenMetrics 1.0.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/). prometheus_client's
parsers referee both in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf
from operator import add

from fastobs._contain import contain
from fastobs.catalogue import CATALOGUE, Metric

from .meters import Exemplar, Histogram, Meters, Row
from .store import View

__all__ = ["OPENMETRICS", "TEXT", "render"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

PART = 1 << 10
"""Pieces that are joined at a time; of buckets they make about 50 kB."""


def render(meters: Meters, *, openmetrics: bool) -> Iterator[str]:
    """All metrics, without the ``# EOF`` that ends an OpenMetrics exposition.

    In parts, since memory for all of it at once would cost as much time as writing it.

    Args:
        meters: What to show.
        openmetrics: With exemplars, and the counter's family named without ``_total``.
    """
    view = meters.view()
    for metric, rows in meters:
        try:
            lines = _lines(metric, rows, view, openmetrics=openmetrics)
        except Exception as error:
            # What is wrong with one metric must not hide the others.
            contain("metrics", error)
        else:
            if lines:
                yield _head(metric, openmetrics=openmetrics)
            for at in range(0, len(lines), PART):
                yield "".join(lines[at : at + PART])


def _lines(metric: Metric, rows: list[Row], view: View, *, openmetrics: bool) -> list[str]:
    """A family's lines in pieces: joining many at once is the cheapest."""
    lines: list[str] = []
    histogram = metric.kind == "histogram"
    marked = openmetrics and not metric.per_worker
    for row in rows:
        for worker, numbers in view.numbers(row):
            texts = _cumulated(numbers) if histogram else [repr(numbers[0])]
            if marked and isinstance(row, Histogram):
                marks = _marks(row, view)
                texts[: len(marks)] = map(add, texts, marks)
            # A copy: somebody else may be rendering, too.
            pieces = _template(row, worker).copy()
            pieces[2::3] = texts
            lines += pieces
    return lines


def _cumulated(numbers: Sequence[float]) -> list[str]:
    counts = [*map(repr, map(int, accumulate(numbers[:-1])))]
    return [*counts, counts[-1], repr(numbers[-1])]


def _marks(row: Histogram, view: View) -> list[str]:
    """What leads from each bucket to a trace, if there is one. Few change between two scrapes."""
    times = list(view.exemplar_times(row))
    known, marks = row.marks
    if times != known:
        size = len(times)
        known, marks = known or [0.0] * size, [*marks] or [""] * size
        for bucket in range(size):
            if times[bucket] != known[bucket]:
                one = Exemplar.read(view.exemplar(row, bucket))
                marks[bucket] = "" if one is None else _mark(one)
                if one is None:
                    # Being written just now; the next scrape looks again.
                    times[bucket] = 0.0
        row.marks = times, marks
    return marks


def _mark(one: Exemplar) -> str:
    labels = f'{{trace_id="{one.trace_id}",span_id="{one.span_id}"}}'
    return f" # {labels} {one.value} {one.at:.3f}"


def _head(metric: Metric, *, openmetrics: bool) -> str:
    name = metric.name.removesuffix("_total") if openmetrics else metric.name
    return f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"


def _template(row: Row, worker: str) -> list[str]:
    """The row's lines as they stay, with every third piece empty for a number."""
    if row.template is None:
        row.template = {}
    template: list[str] | None = row.template.get(worker)
    if template is None:
        template = row.template[worker] = [*_pieces(row, worker), "\n"]
    return template


def _pieces(row: Row, worker: str) -> Iterator[str]:
    name = row.metric.name
    labels = _labels(row, worker)
    braces = f"{{{labels}}} " if labels else " "
    if row.metric.kind != "histogram":
        yield from (name, braces, "")
        return
    comma = "," if labels else ""
    # One text for all buckets, after which comes what differs: there are many rows.
    bucket = f'{name}_bucket{{{labels}{comma}le="'
    further = f"\n{bucket}"
    for bound in (*row.metric.buckets, inf):
        yield from (bucket, BOUNDS[bound], "")
        bucket = further
    yield from (f"\n{name}_count", braces, "")
    yield from (f"\n{name}_sum", braces, "")


def _labels(row: Row, worker: str) -> str:
    metric = row.metric
    pairs = [
        f'{label}="{_escape(value)}"'
        for label, value in zip(metric.labels, row.values, strict=True)
        if value or label not in OPTIONAL
    ]
    if metric.per_worker:
        pairs.append(f'worker="{worker}"')
    return ",".join(pairs)


OPTIONAL = frozenset({"service_version", "deployment_environment_name"})
"""Labels left out when empty. To Prometheus that is the same; to readers it is not."""


BOUNDS = {
    bound: f'{float(bound)!r}"}} ' for metric in CATALOGUE.values() for bound in metric.buckets
} | {inf: '+Inf"} '}
"""How a bucket's label ends, by its bound."""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
