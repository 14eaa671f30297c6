"""Does the cache help?"""

from __future__ import annotations

from alerts.thresholds import Thresholds
from fastobs.catalogue import (
    CACHE_ENTRIES,
    CACHE_EVICTIONS,
    CACHE_LOAD,
    CACHE_MAX,
    CACHE_REQUESTS,
    CACHE_STAMPEDES,
)
from fastobs.promql import gauge, or_zero, quantile, rate, ratio, total

from .charts import line, painted, stat, timeseries
from .kit import SCOPE, Chart, query, unit_of, worse_above

__all__ = ["all_of_it", "overview"]

BY = ("cache",)
LEGEND = "{{cache}}"
RESULTS = {"hit$": "green", "miss$": "yellow", "error$": "red"}
UNBOUNDED = "the cache has no limit of entries, or does not tell"


def overview() -> list[Chart]:
    """The one panel that a service's overview needs."""
    return [
        timeseries(
            "Cache hit ratio",
            "Did the cache stop helping?",
            query(_hit_ratio(), LEGEND),
            unit="percentunit",
            width=6,
            high=1,
            alert="caches/FastobsCacheHitRatioDrop",
            board="fastobs-caches-and-limits",
        )
    ]


def all_of_it(limits: Thresholds) -> list[Chart]:
    """Hits, size, and what a miss costs."""
    return [
        stat(
            "Hit ratio now",
            "Which share of look-ups is answered from the cache?",
            query(_hit_ratio(), LEGEND),
            unit="percentunit",
            width=8,
            tall=8,
            no_value="no look-ups",
        ),
        timeseries(
            "Hit ratio",
            "When did it drop?",
            query(_hit_ratio(), LEGEND),
            unit="percentunit",
            high=1,
            alert="caches/FastobsCacheHitRatioDrop",
        ),
        timeseries(
            "Look-ups by result",
            "Hits, misses, or errors?",
            query(
                total(rate(CACHE_REQUESTS, *SCOPE), by=["cache", "result"]),
                "{{cache}}, {{result}}",
            ),
            unit="ops",
            stacked=True,
            alert="caches/FastobsCacheErrors",
            overrides=painted(RESULTS, shades=True),
        ),
        _fill(),
        timeseries(
            "Evictions",
            "Is it too small? Evictions beside a falling hit ratio say so.",
            query(total(rate(CACHE_EVICTIONS, *SCOPE), by=BY), LEGEND),
            unit=unit_of(CACHE_EVICTIONS),
            width=6,
        ),
        timeseries(
            "Load after a miss",
            "What does a miss cost?",
            *(
                query(
                    quantile(q, CACHE_LOAD, *SCOPE, by=BY),
                    f"P{q * 100:g}, {LEGEND}",
                    maybe_empty="the cache's loads are not watched",
                )
                for q in (0.5, 0.99)
            ),
            unit=unit_of(CACHE_LOAD),
            width=6,
        ),
        timeseries(
            "Stampedes",
            "Which share of loads repeats one that is under way?",
            query(
                ratio(
                    total(rate(CACHE_STAMPEDES, *SCOPE), by=BY),
                    total(rate(CACHE_LOAD, *SCOPE), by=BY),
                ),
                LEGEND,
                maybe_empty="the cache's loads are not watched",
            ),
            unit="percentunit",
            width=6,
            steps=worse_above(limits.cache_stampedes),
            alert="caches/FastobsCacheStampede",
        ),
    ]


def _fill() -> Chart:
    entries = "entries, {{cache}}"
    return timeseries(
        "Entries",
        "How full is it, over all workers?",
        query(total(gauge(CACHE_ENTRIES, *SCOPE), by=BY), entries, maybe_empty=UNBOUNDED),
        query(total(gauge(CACHE_MAX, *SCOPE), by=BY), "limit, {{cache}}", maybe_empty=UNBOUNDED),
        unit=unit_of(CACHE_ENTRIES),
        width=6,
        overrides=[line("limit")],
    )


def _hit_ratio() -> str:
    # Errors are neither hit nor miss: a backend that is down must not look like a cold cache.
    lookups = total(rate(CACHE_REQUESTS, *SCOPE, 'result=~"hit|miss"'), by=BY)
    hits = total(rate(CACHE_REQUESTS, *SCOPE, 'result="hit"'), by=BY)
    return ratio(or_zero(hits, like=lookups), lookups)
