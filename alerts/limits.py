"""Whom do we turn away?"""

from __future__ import annotations

from fastobs.catalogue import HTTP_DURATION, LIMIT_DECISIONS, LIMIT_REJECTED, STATUS
from fastobs.promql import increase, or_zero, rate, ratio, total

from .kit import ROUTE_NAME, Alert, Group, Record, bound
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["LIMITED", "groups"]

BOARD = "fastobs-caches-and-limits"
BY_JOB = ("job",)

_ANSWERED = total(rate(HTTP_DURATION, window="5m"), by=BY_JOB)
LIMITED = Record(
    name="fastobs:http_429:ratio_rate5m",
    expr=ratio(
        or_zero(
            total(rate(HTTP_DURATION, f'{STATUS}="429"', window="5m"), by=BY_JOB), like=_ANSWERED
        ),
        _ANSWERED,
    ),
)


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """More callers turned away than usual, limiters that fail, and others that turn us away."""
    return (Group(name="fastobs-limits", rules=(LIMITED, _spike(limits), _failing(), _upstream())),)


def _spike(limits: Thresholds) -> Alert:
    usual = f"avg_over_time({LIMITED}[6h] offset 10m)"
    return Alert(
        name="FastobsRateLimitSpike",
        severity="warning",
        expr=bound(
            f"{LIMITED} > {limits.limited_ratio:g}",
            f"{LIMITED} > {limits.limited_jump:g} * {usual}",
        ),
        lasts="5m",
        summary="{{ $labels.job }} turns away far more requests than usual.",
        description=(
            "{{ $value | humanizePercentage }} of requests get 429, more than "
            f"{limits.limited_jump:g} times the share of the last six hours."
        ),
        dashboard=BOARD,
    )


def _failing() -> Alert:
    errors = rate(LIMIT_DECISIONS, 'outcome="error"', window="5m")
    return Alert(
        name="FastobsRateLimiterErrors",
        severity="warning",
        expr=f"{total(errors, by=['job', 'limiter'])} > 0",
        lasts="5m",
        summary="Rate limiter {{ $labels.limiter }} of {{ $labels.job }} cannot decide.",
        description=(
            "{{ $value | humanize }} decisions per second fail. Depending on its setting, the "
            "limiter now lets everything through or nothing."
        ),
        dashboard=BOARD,
    )


def _upstream() -> Alert:
    refused = increase(LIMIT_REJECTED, 'source="upstream"', window="5m")
    return Alert(
        name="FastobsUpstreamRateLimited",
        severity="warning",
        expr=f"{total(refused, by=['job', 'http_route'])} > 0",
        lasts="10m",
        summary=f"Another service turns {ROUTE_NAME} of {{{{ $labels.job }}}} away.",
        description=(
            "{{ $value | humanize }} calls made for it were answered with 429 within five minutes."
        ),
        dashboard=BOARD,
    )
