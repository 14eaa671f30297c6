"""Can the other numbers be trusted?"""

from __future__ import annotations

from fastobs.catalogue import (
    BUILD_INFO,
    SELF_DROPPED,
    SELF_ERRORS,
    SELF_EXPORTS,
    SELF_OVERFLOW,
)
from fastobs.promql import SCRAPE_DURATION, gauge, increase, present, rate, ratio, total

from .kit import Alert, Group, bound
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["groups"]

BOARD = "fastobs-telemetry"


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """Data that was lost on the way, and fastobs' own faults."""
    return (
        Group(
            name="fastobs-telemetry",
            rules=(_dropped(), _refused(limits), _overflow(), _scrape(limits), _errors()),
        ),
    )


def _dropped() -> Alert:
    drops = total(increase(SELF_DROPPED, window="10m"), by=["job", "signal", "reason"])
    return Alert(
        name="FastobsTelemetryDropped",
        severity="warning",
        expr=f"{drops} > 0",
        lasts="5m",
        summary="{{ $labels.job }} loses {{ $labels.signal }} ({{ $labels.reason }}).",
        description=(
            "{{ $value | humanize }} items were dropped within ten minutes. "
            "What is missing in traces, logs or profiles may have happened all the same."
        ),
        dashboard=BOARD,
    )


def _refused(limits: Thresholds) -> Alert:
    by = ("job", "signal")
    failed = total(rate(SELF_EXPORTS, 'outcome="failure"', window="5m"), by=by)
    everything = total(rate(SELF_EXPORTS, window="5m"), by=by)
    return Alert(
        name="FastobsExportFailing",
        severity="warning",
        expr=f"{ratio(failed, everything)} > {limits.export_failures:g}",
        lasts="10m",
        summary="The backend does not take {{ $labels.signal }} of {{ $labels.job }}.",
        description="{{ $value | humanizePercentage }} of batches fail; soon the queue is full and items are dropped.",
        dashboard=BOARD,
    )


def _overflow() -> Alert:
    folded = total(increase(SELF_OVERFLOW, window="15m"), by=["job", "metric"])
    return Alert(
        name="FastobsLabelOverflow",
        severity="warning",
        expr=f"{folded} > 0",
        keep="1h",
        summary="{{ $labels.metric }} of {{ $labels.job }} has too many label sets.",
        description=(
            "{{ $value | humanize }} observations of the last 15 minutes are in the overflow "
            "series: totals are right, the split by label is not."
        ),
        dashboard=BOARD,
    )


def _scrape(limits: Thresholds) -> Alert:
    # Prometheus measures every target; ours are those that say so.
    ours = present(gauge(BUILD_INFO), by=["job", "instance"])
    return Alert(
        name="FastobsScrapeSlow",
        severity="warning",
        expr=bound(
            f"{gauge(SCRAPE_DURATION)} > {limits.scrape_seconds:g}", f"on (job, instance) {ours}"
        ),
        lasts="10m",
        summary="Scraping {{ $labels.instance }} of {{ $labels.job }} takes too long.",
        description=(
            "The last scrape took {{ $value | humanizeDuration }}; beyond Prometheus' time limit "
            "every series of the instance is lost."
        ),
        dashboard=BOARD,
    )


def _errors() -> Alert:
    faults = total(increase(SELF_ERRORS, window="10m"), by=["job", "component"])
    return Alert(
        name="FastobsInstrumentationErrors",
        severity="warning",
        expr=f"{faults} > 0",
        keep="30m",
        summary="fastobs itself fails in {{ $labels.job }} ({{ $labels.component }}).",
        description=(
            "{{ $value | humanize }} of our own errors were contained within ten minutes. No "
            "request failed, but numbers of this component are incomplete. Please report the logged traceback."
        ),
        dashboard=BOARD,
    )
