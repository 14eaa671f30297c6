"""Whom do we turn away?"""

from __future__ import annotations

from alerts.thresholds import Thresholds
from fastobs.catalogue import (
    HTTP_DURATION,
    LIMIT_DECISIONS,
    LIMIT_REJECTED,
    LIMIT_RETRY_AFTER,
    ROUTE,
    STATUS,
)
from fastobs.promql import named, or_zero, rate, ratio, top, total

from .charts import painted, stat, timeseries
from .kit import SCOPE, Chart, query, worse_above

__all__ = ["all_of_it", "by_source", "overview"]


OUTCOMES = {"allowed$": "green", "limited$": "purple", "error$": "red"}


def overview() -> list[Chart]:
    """The one panel that a service's overview needs."""
    return [by_source(SCOPE, width=6, board="fastobs-caches-and-limits")]


def by_source(scope: tuple[str, ...], *, width: int = 8, board: str = "") -> Chart:
    """Who turns requests away."""
    return timeseries(
        "Turned away (429)",
        "Who turns requests away: a limiter, the app, or another service?",
        query(
            total(rate(LIMIT_REJECTED, *scope), by=["source"]),
            "{{source}}",
            maybe_empty="nobody has been turned away yet",
        ),
        unit="reqps",
        width=width,
        alert="limits/FastobsRateLimitSpike",
        board=board,
    )


def all_of_it(limits: Thresholds) -> list[Chart]:
    """How many, by whom, and where."""
    refused = total(rate(HTTP_DURATION, *SCOPE, f'{STATUS}="429"'))
    by_route = named(total(rate(LIMIT_REJECTED, *SCOPE), by=[ROUTE, "source"]), ROUTE, empty="-")
    return [
        stat(
            "429 ratio",
            "Which share of requests is turned away?",
            query(ratio(or_zero(refused), total(rate(HTTP_DURATION, *SCOPE))), "429"),
            unit="percentunit",
            width=8,
            tall=8,
            steps=worse_above(limits.limited_ratio),
            no_value="no traffic",
            alert="limits/FastobsRateLimitSpike",
        ),
        timeseries(
            "Decisions",
            "What do the limiters decide, and does one fail?",
            query(
                total(rate(LIMIT_DECISIONS, *SCOPE), by=["limiter", "outcome"]),
                "{{limiter}}, {{outcome}}",
            ),
            unit="reqps",
            stacked=True,
            alert="limits/FastobsRateLimiterErrors",
            overrides=painted(OUTCOMES, shades=True),
        ),
        timeseries(
            "Limited by limit",
            "Which limit is the one that callers meet?",
            query(
                total(rate(LIMIT_DECISIONS, *SCOPE, 'outcome="limited"'), by=["limiter", "limit"]),
                "{{limiter}}, {{limit}}",
                maybe_empty="no limiter has limited yet",
            ),
            unit="reqps",
        ),
        timeseries(
            "429 by route",
            "Which route is throttled, and by whom?",
            query(
                top(10, by_route),
                f"{{{{{ROUTE}}}}}, {{{{source}}}}",
                maybe_empty="nobody has been turned away yet",
            ),
            unit="reqps",
            width=16,
            alert="limits/FastobsUpstreamRateLimited",
        ),
        timeseries(
            "Told when to come back",
            "Do our 429s carry Retry-After? Callers that are not told try again at once.",
            query(
                total(rate(LIMIT_RETRY_AFTER, *SCOPE), by=["sent"]),
                "{{sent}}",
                maybe_empty="nobody has been turned away yet",
            ),
            unit="reqps",
            stacked=True,
            overrides=painted({"^yes$": "green", "^no$": "orange"}),
        ),
    ]
