"""Service level objectives as recording rules: bad events by all events, over eight windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastobs.catalogue import HTTP_DURATION, STATUS
from fastobs.promql import bucket, or_zero, rate, total

from .kit import Record
from .thresholds import Thresholds

__all__ = [
    "BUDGET",
    "FAILED",
    "REMAINING",
    "SECONDS",
    "bad",
    "error_ratio",
    "records",
    "requests",
]

BY_JOB = ("job",)
FAILED = f'{STATUS}=~"5.."'
SERVED = f'{STATUS}!~"5.."'

SECONDS = {
    "5m": 300,
    "30m": 1800,
    "1h": 3600,
    "2h": 7200,
    "6h": 21600,
    "1d": 86400,
    "3d": 259200,
    "30d": 2592000,
}
"""The windows, and their length."""

BUDGET = "fastobs:slo_error_budget:ratio"
"""The recorded share of bad events that the objective allows, by slo."""

COUNTED = ("5m", "30m", "1h", "2h")
"""Windows computed from the requests themselves; the longer ones average the five-minute rates,
which weighs by requests all the same and reads two series instead of all buckets of a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A promise: which events there are, and which of them break it."""

    name: str
    budget: float
    total: Callable[[str], str]
    bad: Callable[[str], str]


def _averaged(name: str, window: str) -> Record:
    return Record(name=f"{name}{window}", expr=f"avg_over_time({name}5m[{window}])")


def requests(window: str) -> Record:
    """All events per second, by job and slo."""
    return _averaged("fastobs:sli_total:rate", window)


def bad(window: str) -> Record:
    """Bad events per second, by job and slo."""
    return _averaged("fastobs:sli_bad:rate", window)


def error_ratio(window: str) -> Record:
    """The share of bad events, by job and slo; a gap without traffic."""
    return Record(
        name=f"fastobs:sli_error:ratio_rate{window}",
        expr=f"{bad(window)} / ({requests(window)} > 0)",
    )


REMAINING = Record(
    name="fastobs:slo_budget_remaining:ratio30d",
    expr=f"1 - {error_ratio('30d')} / on (slo) group_left () {BUDGET}",
)


def records(limits: Thresholds) -> tuple[Record, ...]:
    """Everything that the burn-rate alerts and the SLO board read."""
    slos = _slos(limits)
    return (
        *(rule for window in COUNTED for slo in slos for rule in _counted(slo, window)),
        *(
            rule
            for window in SECONDS
            if window not in COUNTED
            for rule in (requests(window), bad(window))
        ),
        *(error_ratio(window) for window in SECONDS),
        *(
            Record(name=BUDGET, expr=f"vector({slo.budget:g})", labels={"slo": slo.name})
            for slo in slos
        ),
        REMAINING,
    )


def _slos(limits: Thresholds) -> tuple[Slo, ...]:
    def failed(window: str) -> str:
        return or_zero(
            total(rate(HTTP_DURATION, FAILED, window=window), by=BY_JOB),
            like=total(rate(HTTP_DURATION, window=window), by=BY_JOB),
        )

    def slow(window: str) -> str:
        served = total(rate(HTTP_DURATION, SERVED, window=window), by=BY_JOB)
        fast = total(
            bucket(HTTP_DURATION, limits.latency_p99.target, SERVED, window=window), by=BY_JOB
        )
        # The two rates are extrapolated apart; their difference must not fall below zero.
        return f"clamp_min({served} - {fast}, 0)"

    return (
        Slo(
            name="availability",
            budget=limits.slo_availability,
            total=lambda window: total(rate(HTTP_DURATION, window=window), by=BY_JOB),
            bad=failed,
        ),
        Slo(
            name="latency",
            budget=limits.slo_latency,
            total=lambda window: total(rate(HTTP_DURATION, SERVED, window=window), by=BY_JOB),
            bad=slow,
        ),
    )


def _counted(slo: Slo, window: str) -> tuple[Record, Record]:
    labels = {"slo": slo.name}
    return (
        Record(name=requests(window).name, expr=slo.total(window), labels=labels),
        Record(name=bad(window).name, expr=slo.bad(window), labels=labels),
    )
