"""The two text formats of Prometheus, written from cells with one cached template per row.

Formats: Prometheus text 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and
OpenMetrics 1.0.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/). prometheus_client's
parsers referee both in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from fastobs._contain import contain
from fastobs.catalogue import Metric

from .meters import EXEMPLAR_WIDTH, Exemplar, Histogram, Meters, Row
from .store import View

__all__ = ["OPENMETRICS", "TEXT", "exemplars_of", "render"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(meters: Meters, *, openmetrics: bool) -> str:
    """All metrics, without the ``# EOF`` that ends an OpenMetrics exposition.

    Args:
        meters: What to show.
        openmetrics: With exemplars, and the counter's family named without ``_total``.
    """
    parts: list[str] = []
    view = meters.view()
    for metric, rows in meters:
        try:
            lines = [line for row in rows for line in _of(row, view, openmetrics=openmetrics)]
        except Exception as error:
            # What is wrong with one metric must not hide the others.
            contain("metrics", error)
        else:
            if lines:
                parts.append(_head(metric, openmetrics=openmetrics))
                parts.extend(lines)
    return "".join(parts)


def _of(row: Row, view: View, *, openmetrics: bool) -> Iterator[str]:
    for worker, numbers in view.numbers(row):
        text = _lines(row, worker, numbers)
        if openmetrics and isinstance(row, Histogram) and not row.metric.per_worker:
            text = _with_exemplars(row, view, text)
        yield text


def exemplars_of(row: Row, view: View) -> dict[int, Exemplar]:
    """The latest exemplar of each bucket, over all workers."""
    latest: dict[int, Exemplar] = {}
    for cells in view.exemplars(row):
        for bucket in range(len(cells) // EXEMPLAR_WIDTH):
            at = bucket * EXEMPLAR_WIDTH
            found = Exemplar.read(cells[at : at + EXEMPLAR_WIDTH])
            if found is not None and (bucket not in latest or found.at > latest[bucket].at):
                latest[bucket] = found
    return latest


def _head(metric: Metric, *, openmetrics: bool) -> str:
    name = metric.name.removesuffix("_total") if openmetrics else metric.name
    return f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"


def _lines(row: Row, worker: str, numbers: Sequence[float]) -> str:
    if row.template is None:
        row.template = {}
    template = row.template.get(worker)
    if template is None:
        template = row.template[worker] = _template(row, worker)
    if isinstance(row, Histogram):
        cumulated = tuple(accumulate(numbers[:-1]))
        return str(template % (*cumulated, cumulated[-1], numbers[-1]))
    return str(template % (numbers[0],))


def _template(row: Row, worker: str) -> str:
    metric = row.metric
    name = metric.name
    labels = _labels(row, worker).replace("%", "%%")
    if metric.kind != "histogram":
        return f"{name}{{{labels}}} %s\n" if labels else f"{name} %s\n"
    comma = "," if labels else ""
    bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
    buckets = "".join(f'{name}_bucket{{{labels}{comma}le="{le}"}} %d\n' for le in bounds)
    braces = f"{{{labels}}}" if labels else ""
    return f"{buckets}{name}_count{braces} %d\n{name}_sum{braces} %s\n"


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


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _with_exemplars(row: Row, view: View, text: str) -> str:
    found = exemplars_of(row, view)
    if not found:
        return text
    lines = text.splitlines(keepends=True)
    for bucket, one in found.items():
        labels = f'{{trace_id="{one.trace_id}",span_id="{one.span_id}"}}'
        lines[bucket] = f"{lines[bucket][:-1]} # {labels} {one.value} {one.at:.3f}\n"
    return "".join(lines)
