"""The two text formats of Prometheus, written from cells with one cached template per row.

Formats: Prometheus text 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and
OpenMetrics 1.0.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/). prometheus_client's
parsers referee both in the tests.
"""

from __future__ import annotations

from itertools import accumulate

from fastobs.catalogue import Metric

from .meters import Exemplar, Gauge, Histogram, Meters, Row

__all__ = ["OPENMETRICS", "TEXT", "render"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(meters: Meters, *, openmetrics: bool, worker: str = "0") -> str:
    """All metrics, without the ``# EOF`` that ends an OpenMetrics exposition.

    Args:
        meters: What to show.
        openmetrics: With exemplars, and the counter's family named without ``_total``.
        worker: What the label ``worker`` says on the metrics that have it.
    """
    parts: list[str] = []
    for metric, rows in meters:
        lines = [line for row in rows if (line := _row(row, worker, exemplars=openmetrics))]
        if lines:
            parts.append(_head(metric, openmetrics=openmetrics))
            parts.extend(lines)
    return "".join(parts)


def _head(metric: Metric, *, openmetrics: bool) -> str:
    name = metric.name.removesuffix("_total") if openmetrics else metric.name
    return f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"


def _row(row: Row, worker: str, *, exemplars: bool) -> str:
    template = row.template
    if template is None:
        template = row.template = _template(row, worker)
    cells, at = row.cells, row.at
    if isinstance(row, Histogram):
        if exemplars and row.exemplars is not None:
            return _with_exemplars(row, worker)
        cumulated = tuple(accumulate(cells[at : row.sum_at]))
        return str(template % (*cumulated, cumulated[-1], cells[row.sum_at]))
    if isinstance(row, Gauge) and not row.present:
        return ""
    return str(template % (cells[at],))


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
"""Labels that are left out when they are empty. To Prometheus that is the same; to readers it is not."""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _with_exemplars(row: Histogram, worker: str) -> str:
    lines = _row(row, worker, exemplars=False).splitlines(keepends=True)
    for index, exemplar in enumerate(row.exemplars or ()):
        if exemplar is not None:
            lines[index] = f"{lines[index][:-1]} # {_exemplar(exemplar)}\n"
    return "".join(lines)


def _exemplar(exemplar: Exemplar) -> str:
    return (
        f'{{trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"}} '
        f"{exemplar.value} {exemplar.at:.3f}"
    )
