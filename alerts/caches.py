"""Does the cache help?"""

from __future__ import annotations

from fastobs.catalogue import CACHE_LOAD, CACHE_REQUESTS, CACHE_STAMPEDES
from fastobs.promql import or_zero, rate, ratio, total

from .kit import Alert, Group, Record, bound, percent
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["HIT_RATIO", "LOOKUPS", "groups"]

BOARD = "fastobs-caches-and-limits"
BY_CACHE = ("job", "cache")
WINDOW = "15m"

# Errors are neither hit nor miss: a backend that is down must not look like a cold cache.
LOOKUPS = Record(
    name="fastobs:cache_lookups:rate15m",
    expr=total(rate(CACHE_REQUESTS, 'result=~"hit|miss"', window=WINDOW), by=BY_CACHE),
)
HIT_RATIO = Record(
    name="fastobs:cache_hit:ratio_rate15m",
    expr=ratio(
        or_zero(
            total(rate(CACHE_REQUESTS, 'result="hit"', window=WINDOW), by=BY_CACHE),
            like=str(LOOKUPS),
        ),
        str(LOOKUPS),
    ),
)


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """A cache that stopped helping, that fails, and that loads in vain."""
    return (
        Group(
            name="fastobs-caches",
            rules=(LOOKUPS, HIT_RATIO, _cold(limits), _failing(limits), _stampeding(limits)),
        ),
    )


def _cold(limits: Thresholds) -> Alert:
    usual = f"avg_over_time({HIT_RATIO}[1d] offset 1h)"
    return Alert(
        name="FastobsCacheHitRatioDrop",
        severity="warning",
        expr=bound(
            f"{HIT_RATIO} < {limits.cache_drop:g} * {usual}",
            f"{LOOKUPS} > {limits.min_cache_rate:g}",
        ),
        lasts="15m",
        summary="Cache {{ $labels.cache }} of {{ $labels.job }} hits far less than usual.",
        description=(
            "{{ $value | humanizePercentage }} of look-ups hit, less than "
            f"{percent(limits.cache_drop)} of yesterday's ratio. What the cache kept away now reaches the database."
        ),
        dashboard=BOARD,
    )


def _failing(limits: Thresholds) -> Alert:
    errors = total(rate(CACHE_REQUESTS, 'result="error"', window="5m"), by=BY_CACHE)
    everything = total(rate(CACHE_REQUESTS, window="5m"), by=BY_CACHE)
    return Alert(
        name="FastobsCacheErrors",
        severity="warning",
        expr=f"{ratio(errors, everything)} > {limits.cache_errors:g}",
        lasts="5m",
        summary="Cache {{ $labels.cache }} of {{ $labels.job }} fails.",
        description=(
            "{{ $value | humanizePercentage }} of look-ups end in an error. Is the cache server "
            "reachable, and is its pool large enough?"
        ),
        dashboard=BOARD,
    )


def _stampeding(limits: Thresholds) -> Alert:
    repeated = total(rate(CACHE_STAMPEDES, window="5m"), by=BY_CACHE)
    loads = total(rate(CACHE_LOAD, window="5m"), by=BY_CACHE)
    return Alert(
        name="FastobsCacheStampede",
        severity="warning",
        expr=f"{ratio(repeated, loads)} > {limits.cache_stampedes:g}",
        lasts="10m",
        summary="Requests of {{ $labels.job }} load the same value of cache {{ $labels.cache }} at once.",
        description=(
            "{{ $value | humanizePercentage }} of loads repeat one that is under way. "
            "A lock per key, or a refresh ahead of expiry, saves them."
        ),
        dashboard=BOARD,
    )
