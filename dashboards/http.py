"""Is the service fast, and does it answer without errors?"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from alerts.thresholds import Pair, Thresholds
from fastobs.catalogue import (
    ERROR,
    HTTP_ACTIVE,
    HTTP_DISCONNECTS,
    HTTP_DURATION,
    HTTP_EXCEPTIONS,
    HTTP_PART,
    HTTP_REQUEST_SIZE,
    HTTP_RESPONSE_SIZE,
    HTTP_SLOW,
    HTTP_WEBSOCKETS,
    METHOD,
    ROUTE,
    STATUS,
)
from fastobs.promql import (
    buckets,
    gauge,
    named,
    or_zero,
    quantile,
    rate,
    ratio,
    top,
    total,
)

from .charts import heatmap, line, painted, stat, table, timeseries
from .kit import SCOPE, Chart, Query, Steps, query, route_url, unit_of, worse_above, worse_below

__all__ = ["of_route", "red", "routes", "targets", "where_the_time_goes"]

OF_ROUTE = (*SCOPE, f'{ROUTE}=~"$route"')
OF_ROUTE_AND_METHOD = (*OF_ROUTE, f'{METHOD}=~"$method"')
ROUTE_BOARD = "fastobs-route"
UNMATCHED = "(no route)"
YOUNG = "the service is younger than a day"
SECONDS = unit_of(HTTP_DURATION)

SERVER_ERROR = f'{STATUS}=~"5.."'
CALLER_ERROR = f'{STATUS}=~"4..", {STATUS}!="429"'
LIMITED = f'{STATUS}="429"'

CLASSES = {"^2": "green", "^3": "blue", "^4": "yellow", "^429": "purple", "^5": "red"}
"""What became of a request."""
PARTS = {
    # Work is cool, waiting is warm, and the red ones are seldom anybody's wish.
    "^db$": "blue",
    "^cache$": "green",
    "^http$": "purple",
    "^thread$": "light-blue",
    "^cpu$": "dark-green",
    "^unaccounted$": "#707880",
    "^thread_wait$": "yellow",
    "^loop_wait$": "orange",
    "^pool_wait$": "red",
    "^blocking$": "dark-red",
}
"""What a request spends its time on; sections of the app's own have the colours that remain."""


def targets(limits: Thresholds) -> list[Chart]:
    """The numbers that were promised, first what users feel."""
    requests = total(rate(HTTP_DURATION, *SCOPE))
    return [
        stat(
            "P50 latency",
            "Is the median under its target?",
            query(quantile(0.5, HTTP_DURATION, *SCOPE), "P50"),
            unit=SECONDS,
            steps=worse_above(limits.latency_p50),
            no_value="no traffic",
            alert="http/FastobsLatencyP50High",
            board=ROUTE_BOARD,
        ),
        stat(
            "P99 latency",
            "Is the tail under its target?",
            query(quantile(0.99, HTTP_DURATION, *SCOPE), "P99"),
            unit=SECONDS,
            steps=worse_above(limits.latency_p99),
            no_value="no traffic",
            alert="http/FastobsLatencyP99High",
            board=ROUTE_BOARD,
        ),
        stat(
            "Error ratio",
            "Which share of requests ends with 5xx? Zero when nothing fails.",
            query(_share(SERVER_ERROR), "5xx"),
            unit="percentunit",
            steps=worse_above(limits.error_ratio),
            no_value="no traffic",
            alert="http/FastobsErrorRatioHigh",
            board=ROUTE_BOARD,
        ),
        stat(
            "Throughput",
            "How many requests per second are served now?",
            query(requests, "requests"),
            unit="reqps",
            steps=_throughput(limits.throughput),
            width=3,
            alert="http/FastobsThroughputBelowTarget",
            board=ROUTE_BOARD,
        ),
    ]


def red(limits: Thresholds) -> list[Chart]:
    """Rate, errors, duration of all routes together."""
    return [
        by_status(SCOPE, board=ROUTE_BOARD),
        timeseries(
            "Error ratio by class",
            "Are failures ours (5xx), the caller's (4xx) or throttling (429)?",
            query(_share(SERVER_ERROR), "5xx, ours"),
            query(_share(CALLER_ERROR), "4xx, the caller's"),
            query(_share(LIMITED), "429, throttled"),
            unit="percentunit",
            steps=worse_above(limits.error_ratio),
            alert="http/FastobsErrorRatioHigh",
            board=ROUTE_BOARD,
            overrides=painted(CLASSES),
        ),
        percentiles(SCOPE, limits, board="fastobs-slo"),
        distribution(SCOPE, width=6, board=ROUTE_BOARD),
        where_the_time_goes(SCOPE, width=6, tall=8, board=ROUTE_BOARD),
        timeseries(
            "In flight",
            "Do requests pile up, or WebSockets?",
            query(total(gauge(HTTP_ACTIVE, *SCOPE), by=["instance"]), "requests, {{instance}}"),
            query(
                total(gauge(HTTP_WEBSOCKETS, *SCOPE), by=["instance"]), "WebSockets, {{instance}}"
            ),
            unit="short",
            width=6,
            board="fastobs-runtime",
        ),
        _traffic_against_yesterday(limits),
    ]


def routes(limits: Thresholds) -> list[Chart]:
    """All routes, the busiest first; each leads to its own board."""
    by = (METHOD, ROUTE)
    requests = total(rate(HTTP_DURATION, *SCOPE), by=by)
    failed = or_zero(total(rate(HTTP_DURATION, *SCOPE, SERVER_ERROR), by=by), like=requests)
    spent = total(rate(HTTP_DURATION, *SCOPE, of="sum"), by=by)
    everything = total(rate(HTTP_DURATION, *SCOPE, of="sum"))
    return [
        table(
            "Routes",
            "Which route is slow, failing or hot? A click on it opens its board. Share of time is "
            "the part of all request time: what to make faster first.",
            query(requests),
            query(quantile(0.5, HTTP_DURATION, *SCOPE, by=by)),
            query(quantile(0.99, HTTP_DURATION, *SCOPE, by=by)),
            query(ratio(failed, requests)),
            query(f"{spent} / on () group_left () ({everything} > 0)"),
            unit="reqps",
            transformations=_columns(),
            overrides=_cells(limits),
            sort="Share of time",
        )
    ]


def of_route(limits: Thresholds) -> list[Chart]:
    """Rate, errors and duration of the chosen routes."""
    return [
        by_status(OF_ROUTE_AND_METHOD),
        percentiles(OF_ROUTE_AND_METHOD, limits),
        _against_yesterday(),
    ]


def details(limits: Thresholds) -> list[Chart]:
    """What else is known about the chosen routes."""
    by_instance = quantile(0.99, HTTP_DURATION, *OF_ROUTE_AND_METHOD, by=["instance"])
    return [
        distribution(OF_ROUTE_AND_METHOD),
        timeseries(
            "P99 by instance",
            "Is one instance the slow one?",
            query(top(10, by_instance), "{{instance}}", exemplar=True),
            unit=SECONDS,
            steps=worse_above(limits.route_p99),
            alert="http/FastobsRouteLatencyP99High",
        ),
        _events(
            "Exceptions by type",
            "Which exception is it? The log has the traceback.",
            total(rate(HTTP_EXCEPTIONS, *OF_ROUTE), by=[ERROR]),
            f"{{{{{ERROR}}}}}",
            maybe_empty="nothing has failed yet",
        ),
        _events(
            "Slow requests",
            "How many crossed the slow threshold? Each has a line in the log.",
            _by_route(rate(HTTP_SLOW, *OF_ROUTE)),
            f"{{{{{ROUTE}}}}}",
            maybe_empty="nothing has been slow yet",
        ),
        _events(
            "Client disconnects",
            "Do callers give up before the response is complete?",
            _by_route(rate(HTTP_DISCONNECTS, *OF_ROUTE)),
            f"{{{{{ROUTE}}}}}",
            maybe_empty="nobody has given up yet",
        ),
        timeseries(
            "Body sizes P95",
            "Did the payload grow?",
            query(quantile(0.95, HTTP_RESPONSE_SIZE, *OF_ROUTE_AND_METHOD), "response"),
            query(
                quantile(0.95, HTTP_REQUEST_SIZE, *OF_ROUTE_AND_METHOD),
                "request",
                maybe_empty="requests without a body",
            ),
            unit=unit_of(HTTP_RESPONSE_SIZE),
        ),
    ]


def by_status(scope: tuple[str, ...], *, board: str = "") -> Chart:
    """Requests per second by status code."""
    return timeseries(
        "Requests by status",
        "Did traffic or its mix of outcomes change?",
        query(total(rate(HTTP_DURATION, *scope), by=[STATUS]), f"{{{{{STATUS}}}}}"),
        unit="reqps",
        stacked=True,
        board=board,
        overrides=painted(CLASSES, shades=True),
    )


def percentiles(scope: tuple[str, ...], limits: Thresholds, *, board: str = "") -> Chart:
    """P50, P90, P99, with exemplars."""
    return timeseries(
        "Latency percentiles",
        "Is everybody slow, or only the tail? A diamond opens its trace.",
        *(
            query(quantile(q, HTTP_DURATION, *scope), f"P{q * 100:g}", exemplar=True)
            for q in (0.5, 0.9, 0.99)
        ),
        unit=SECONDS,
        steps=worse_above(limits.latency_p99),
        alert="http/FastobsLatencyP99High",
        board=board,
    )


def distribution(scope: tuple[str, ...], *, width: int = 8, board: str = "") -> Chart:
    """The latency heatmap."""
    return heatmap(
        "Latency distribution",
        "One hump or two (cache miss, cold start, one slow instance)?",
        query(buckets(HTTP_DURATION, *scope), exemplar=True),
        unit=SECONDS,
        width=width,
        board=board,
    )


def where_the_time_goes(
    scope: tuple[str, ...], *, width: int = 24, tall: int = 12, board: str = ""
) -> Chart:
    """The mean request, cut into its parts."""
    requests = total(rate(HTTP_DURATION, *scope))
    known = 'part!="unaccounted"'
    parts = total(rate(HTTP_PART, *scope, known), by=["part"])
    spent = total(rate(HTTP_DURATION, *scope, of="sum"))
    # A request of which nothing is known has no parts, not even the rest; hence it is computed here.
    rest = f"clamp_min({spent} - {or_zero(total(rate(HTTP_PART, *scope, known)))}, 0)"
    mean = "mean latency"
    return timeseries(
        "Where does the time go?",
        "What does the mean request spend its time on? The areas are seconds per request: "
        "waiting for a connection (pool_wait), the database (db), other services (http), the "
        "cache, threads, its own code on the event loop (blocking, unaccounted), other requests' "
        "code (loop_wait), and your own sections.",
        query(
            f"{parts} / on () group_left () ({requests} > 0)",
            "{{part}}",
            maybe_empty="nothing that is watched was part of a request",
        ),
        query(ratio(rest, requests), "unaccounted"),
        query(ratio(spent, requests), mean),
        unit=SECONDS,
        width=width,
        tall=tall,
        stacked=True,
        board=board,
        overrides=[*painted(PARTS), line(mean)],
    )


def _against_yesterday() -> Chart:
    return timeseries(
        "P99 against yesterday",
        "Is this normal for the hour?",
        query(quantile(0.99, HTTP_DURATION, *OF_ROUTE_AND_METHOD), "now", exemplar=True),
        query(
            quantile(0.99, HTTP_DURATION, *OF_ROUTE_AND_METHOD, ago="1d"),
            "one day ago",
            maybe_empty=YOUNG,
        ),
        unit=SECONDS,
        overrides=[line("one day ago")],
    )


def _traffic_against_yesterday(limits: Thresholds) -> Chart:
    yesterday = total(rate(HTTP_DURATION, *SCOPE, ago="1d"))
    drop = limits.traffic_drop
    return timeseries(
        "Traffic against yesterday",
        "Do as many requests arrive as at this time yesterday? There is a ticket below the yellow "
        "line, and a page below the red one.",
        query(total(rate(HTTP_DURATION, *SCOPE)), "now"),
        query(yesterday, "one day ago", maybe_empty=YOUNG),
        query(f"{drop.target:g} * {yesterday}", "ticket", maybe_empty=YOUNG),
        query(f"{drop.critical:g} * {yesterday}", "page", maybe_empty=YOUNG),
        unit="reqps",
        width=6,
        alert="http/FastobsThroughputDrop",
        board=ROUTE_BOARD,
        overrides=[
            *(line(name) for name in ("one day ago", "ticket", "page")),
            *painted({"^ticket": "yellow", "^page": "red"}),
        ],
    )


def _throughput(least: Pair) -> Steps | None:
    """Colours where the target is set, which only its owner can do."""
    if least.target and least.critical:
        return worse_below(least)
    return worse_below(least.target or least.critical) if any(astuple(least)) else None


def _events(title: str, asks: str, expression: str, legend: str, *, maybe_empty: str) -> Chart:
    events: Query = query(expression, legend, maybe_empty=maybe_empty)
    return timeseries(title, asks, events, unit="cps")


def _by_route(rates: str) -> str:
    return top(10, named(total(rates, by=[ROUTE]), ROUTE, empty=UNMATCHED))


def _share(status: str) -> str:
    matchers = tuple(status.split(", "))
    failed = or_zero(total(rate(HTTP_DURATION, *SCOPE, *matchers)))
    return ratio(failed, total(rate(HTTP_DURATION, *SCOPE)))


def _columns() -> list[dict[str, Any]]:
    names = {
        METHOD: "Method",
        ROUTE: "Route",
        "Value #A": "Rate",
        "Value #B": "P50",
        "Value #C": "P99",
        "Value #D": "Errors",
        "Value #E": "Share of time",
    }
    order = {name: index for index, name in enumerate(names)}
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": names,
            },
        },
    ]


def _cells(limits: Thresholds) -> list[dict[str, Any]]:
    link = {
        "title": "Open the route's board",
        "url": route_url(
            route="${__data.fields.Route:percentencode}", method="${__data.fields.Method}"
        ),
    }
    unmatched = {"type": "special", "options": {"match": "empty", "result": {"text": UNMATCHED}}}
    return [
        _column("Route", ("links", [link]), ("mappings", [unmatched]), ("custom.width", 380)),
        _column("Method", ("custom.width", 100)),
        _column("P50", *_coloured(SECONDS, worse_above(limits.latency_p50))),
        _column("P99", *_coloured(SECONDS, worse_above(limits.latency_p99))),
        _column("Errors", *_coloured("percentunit", worse_above(limits.error_ratio))),
        _column(
            "Share of time",
            ("unit", "percentunit"),
            ("max", 1),
            ("min", 0),
            ("custom.cellOptions", {"mode": "basic", "type": "gauge"}),
        ),
    ]


def _coloured(unit: str, steps: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [
        ("unit", unit),
        ("thresholds", {"mode": "absolute", "steps": steps}),
        ("custom.cellOptions", {"type": "color-text"}),
    ]


def _column(name: str, *properties: tuple[str, Any]) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }
