"""PromQL from catalogue entries, so that a query can only name what we emit.

Every function answers with a string of PromQL. What cannot mean anything (an unknown label, the rate
of a gauge, the quantile of a counter) is a ValueError while the board or the rule is being built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .catalogue import Metric

__all__ = [
    "ALERTS",
    "COMMON",
    "PROMETHEUS",
    "SCRAPE_DURATION",
    "SCRAPE_SAMPLES",
    "UP",
    "WINDOW",
    "average",
    "bucket",
    "buckets",
    "count",
    "gauge",
    "increase",
    "largest",
    "named",
    "or_zero",
    "over",
    "present",
    "quantile",
    "rate",
    "ratio",
    "select",
    "smallest",
    "top",
    "total",
]

WINDOW = "$__rate_interval"
"""The window of Grafana's queries; rules give their own."""

COMMON = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series."""

UP = Metric("up", "gauge", "1 while the target answers scrapes.")
SCRAPE_DURATION = Metric("scrape_duration_seconds", "gauge", "How long the last scrape took.")
SCRAPE_SAMPLES = Metric(
    "scrape_samples_post_metric_relabeling", "gauge", "Samples that the last scrape brought."
)
ALERTS = Metric(
    "ALERTS",
    "gauge",
    "1 while an alert is pending or firing.",
    ("alertname", "alertstate", "severity", "slo", "window"),
)

PROMETHEUS = {metric.name: metric for metric in (UP, SCRAPE_DURATION, SCRAPE_SAMPLES, ALERTS)}
"""What Prometheus itself adds to what we emit; hence not in the catalogue."""

_OF_COUNTERS = frozenset({"rate", "irate", "increase", "resets"})

_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def select(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """A selector: ``name{matchers}``.

    Args:
        metric: From the catalogue.
        matchers: As in PromQL, ``'job=~"$job"'``.
        suffix: ``_bucket``, ``_count`` or ``_sum`` of a histogram.

    Raises:
        ValueError: A matcher names a label that the metric does not have.
    """
    known = COMMON | set(metric.shown_labels) | ({"le"} if suffix == "_bucket" else set())
    for matcher in matchers:
        found = _MATCHER.match(matcher)
        label = found[1] if found else matcher
        _require(label in known, f"{metric.name} has no label {label!r}; it has {sorted(known)}.")
    return f"{metric.name}{suffix}" + (f"{{{', '.join(matchers)}}}" if matchers else "")


def gauge(metric: Metric, *matchers: str) -> str:
    """The current value of a gauge."""
    _require(metric.kind == "gauge", f"{metric.name} is a {metric.kind}; use rate() or quantile().")
    return select(metric, *matchers)


def rate(
    metric: Metric, *matchers: str, window: str = WINDOW, of: str = "count", ago: str = ""
) -> str:
    """Events per second of a counter, or of a histogram's count or sum (``of="sum"``)."""
    return f"rate({_counter(metric, *matchers, of=of)}[{window}]{_offset(ago)})"


def increase(metric: Metric, *matchers: str, window: str = WINDOW, of: str = "count") -> str:
    """Events within the window."""
    return f"increase({_counter(metric, *matchers, of=of)}[{window}])"


def over(function: str, metric: Metric, *matchers: str, window: str = WINDOW) -> str:
    """A function of a gauge's course: ``changes``, ``min_over_time``, ``deriv``."""
    _require(function not in _OF_COUNTERS, f"{function}() is for counters; {metric.name} is none.")
    return f"{function}({gauge(metric, *matchers)}[{window}])"


def bucket(metric: Metric, bound: float, *matchers: str, window: str = WINDOW) -> str:
    """The rate of observations not above ``bound``, which must be one of the buckets."""
    _require(bound in metric.buckets, f"{bound} is no bucket of {metric.name}: {metric.buckets}.")
    # Prometheus 3 normalises le="1" to le="1.0"; a bound that is not whole is spelled one way only.
    le = f'le=~"{bound:g}(\\\\.0)?"' if bound == int(bound) else f'le="{bound:g}"'
    return f"rate({select(metric, *matchers, le, suffix='_bucket')}[{window}])"


def buckets(
    metric: Metric, *matchers: str, by: Iterable[str] = (), window: str = WINDOW, ago: str = ""
) -> str:
    """The rates of all buckets, for a heatmap."""
    _require(metric.kind == "histogram", f"{metric.name} is a {metric.kind}, not a histogram.")
    rates = f"rate({select(metric, *matchers, suffix='_bucket')}[{window}]{_offset(ago)})"
    return total(rates, by=[*_labels(metric, by), "le"])


def quantile(
    q: float,
    metric: Metric,
    *matchers: str,
    by: Iterable[str] = (),
    window: str = WINDOW,
    ago: str = "",
) -> str:
    """The q-quantile of a histogram, over everything but the labels in ``by``.

    Without observations it is a gap, not NaN: NaN is no number to show or to aggregate.
    """
    rates = buckets(metric, *matchers, by=by, window=window, ago=ago)
    return f"histogram_quantile({q:g}, {rates}) >= 0"


def average(metric: Metric, *matchers: str, by: Iterable[str] = (), window: str = WINDOW) -> str:
    """The mean of a histogram's observations; no value while there are none."""
    by = tuple(by)
    above = total(rate(metric, *matchers, window=window, of="sum"), by=by)
    return f"{above} / ({total(rate(metric, *matchers, window=window), by=by)} > 0)"


def total(expression: str, *, by: Iterable[str] = ()) -> str:
    """The sum over everything but the labels in ``by``."""
    return _aggregate("sum", expression, by)


def largest(expression: str, *, by: Iterable[str] = ()) -> str:
    """The largest over everything but the labels in ``by``."""
    return _aggregate("max", expression, by)


def smallest(expression: str, *, by: Iterable[str] = ()) -> str:
    """The smallest over everything but the labels in ``by``."""
    return _aggregate("min", expression, by)


def count(expression: str, *, by: Iterable[str] = ()) -> str:
    """How many series there are, by the labels in ``by``."""
    return _aggregate("count", expression, by)


def present(expression: str, *, by: Iterable[str] = ()) -> str:
    """1 where there is any series, by the labels in ``by``."""
    return _aggregate("group", expression, by)


def top(k: int, expression: str) -> str:
    """The k largest series at each moment."""
    return f"topk({k}, {expression})"


def named(expression: str, label: str, *, empty: str) -> str:
    """The same series, with a word where the label is empty."""
    return f'label_replace({expression}, "{label}", "{empty}", "{label}", "")'


def or_zero(expression: str, like: str | None = None) -> str:
    """Zero where the expression has no series: plainly, or with the labels of ``like``."""
    return f"({expression} or {'vector(0)' if like is None else f'0 * {like}'})"


def ratio(part: str, whole: str) -> str:
    """Part by whole; a gap, not NaN, while the whole is zero."""
    return f"{part} / ({whole} > 0)"


def _counter(metric: Metric, *matchers: str, of: str) -> str:
    _require(metric.kind != "gauge", f"{metric.name} is a gauge; it has no rate.")
    _require(of in {"count", "sum"}, f"of={of!r}; a histogram has a count and a sum.")
    return select(metric, *matchers, suffix=f"_{of}" if metric.kind == "histogram" else "")


def _offset(ago: str) -> str:
    return f" offset {ago}" if ago else ""


def _labels(metric: Metric, by: Iterable[str]) -> list[str]:
    labels = list(by)
    for label in labels:
        _require(
            label in COMMON or label in metric.shown_labels,
            f"{metric.name} has no label {label!r}; it has {metric.shown_labels}.",
        )
    return labels


def _aggregate(operator: str, expression: str, by: Iterable[str]) -> str:
    labels = ", ".join(by)
    return f"{operator} by ({labels}) ({expression})" if labels else f"{operator}({expression})"


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - an assertion that stays in -O
    if not condition:
        raise ValueError(message)
