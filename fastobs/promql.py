"""PromQL from catalogue entries, so that a query can only name what we emit.

Every function answers with a string of PromQL. What cannot mean anything (an unknown label, the rate
of a gauge, the quantile of a counter) is a ValueError while the board or the rule is being built.
"""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import Metric

__all__ = [
    "COMMON",
    "WINDOW",
    "average",
    "bucket",
    "count",
    "gauge",
    "increase",
    "largest",
    "or_zero",
    "quantile",
    "rate",
    "ratio",
    "select",
    "total",
]

WINDOW = "$__rate_interval"
"""The window of Grafana's queries; rules give their own."""

COMMON = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series."""


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
        label = matcher.partition("=")[0].rstrip("!")
        _require(label in known, f"{metric.name} has no label {label!r}; it has {sorted(known)}.")
    return f"{metric.name}{suffix}" + (f"{{{', '.join(matchers)}}}" if matchers else "")


def gauge(metric: Metric, *matchers: str) -> str:
    """The current value of a gauge."""
    _require(metric.kind == "gauge", f"{metric.name} is a {metric.kind}; use rate() or quantile().")
    return select(metric, *matchers)


def rate(metric: Metric, *matchers: str, window: str = WINDOW, of: str = "count") -> str:
    """Events per second of a counter, or of a histogram's count or sum (``of="sum"``)."""
    return f"rate({_counter(metric, *matchers, of=of)}[{window}])"


def increase(metric: Metric, *matchers: str, window: str = WINDOW, of: str = "count") -> str:
    """Events within the window."""
    return f"increase({_counter(metric, *matchers, of=of)}[{window}])"


def bucket(metric: Metric, bound: float, *matchers: str, window: str = WINDOW) -> str:
    """The rate of observations not above ``bound``, which must be one of the buckets."""
    _require(bound in metric.buckets, f"{bound} is no bucket of {metric.name}: {metric.buckets}.")
    # Prometheus 3 normalises le="1" to le="1.0"; a bound that is not whole is spelled one way only.
    le = f'le=~"{bound:g}(\\\\.0)?"' if bound == int(bound) else f'le="{bound:g}"'
    return f"rate({select(metric, *matchers, le, suffix='_bucket')}[{window}])"


def quantile(
    q: float, metric: Metric, *matchers: str, by: Iterable[str] = (), window: str = WINDOW
) -> str:
    """The q-quantile of a histogram, over everything but the labels in ``by``."""
    _require(metric.kind == "histogram", f"{metric.name} is a {metric.kind}, not a histogram.")
    labels = ", ".join([*_labels(metric, by), "le"])
    inner = f"rate({select(metric, *matchers, suffix='_bucket')}[{window}])"
    return f"histogram_quantile({q:g}, sum by ({labels}) ({inner}))"


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


def count(expression: str, *, by: Iterable[str] = ()) -> str:
    """How many series there are, by the labels in ``by``."""
    return _aggregate("count", expression, by)


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
