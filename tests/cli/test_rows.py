"""Rows and their tables say what the samples say."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from rich.console import Console

from fastobs import catalogue
from fastobs.catalogue import ERROR, POOL, POOL_STATE, ROUTE, STATUS, Metric
from fastobs.cli import render, rows
from fastobs.cli.exposition import parse


def counter(metric: Metric, value: float, **labels: object) -> str:
    inside = ",".join(f'{name}="{label}"' for name, label in labels.items())
    return f"{metric.name}{{{inside}}} {value}\n"


def histogram(metric: Metric, counts: Mapping[str, float], **labels: object) -> str:
    inside = "".join(f'{name}="{label}",' for name, label in labels.items())
    name = metric.name
    lines = [f'{name}_bucket{{{inside}le="{le}"}} {count}' for le, count in counts.items()]
    lines.append(f"{name}_count{{{inside}}} {counts['+Inf']}")
    return "\n".join([*lines, ""])


def requests(route: str, counts: Mapping[str, float], status: int = 200) -> str:
    return histogram(catalogue.HTTP_DURATION, counts, **{ROUTE: route, STATUS: status})


def shown(table) -> str:
    console = Console(width=140, no_color=True)
    with console.capture() as capture:
        render.show(console, table, otherwise="nothing to tell.")
    return capture.get()


def test_a_route_has_its_rate_quantiles_errors_and_rejections():
    """All answers count for rate and latency; 5xx and 429 are told apart."""
    text = (
        requests("/a", {"0.1": 6, "0.2": 8, "+Inf": 8})
        + requests("/a", {"0.1": 1, "0.2": 1, "+Inf": 1}, status=503)
        + requests("/a", {"0.1": 1, "0.2": 1, "+Inf": 1}, status=429)
    )

    (row,) = rows.routes(parse(text), seconds=5)

    assert (row.requests, row.rate, row.errors, row.limited) == (10, 2.0, 1, 1)
    assert (row.p50, row.p95) == pytest.approx((0.0625, 0.175))


def test_routes_are_told_slowest_first_and_only_when_they_were_asked():
    """A route that nobody asked in this time is no line of the report."""
    text = (
        requests("/fast", {"0.1": 9, "+Inf": 9})
        + requests("/slow", {"0.1": 0, "5": 9, "+Inf": 9})
        + requests("/idle", {"0.1": 0, "+Inf": 0})
        + requests("", {"0.1": 1, "0.5": 2, "+Inf": 2})
    )

    found = rows.routes(parse(text), seconds=1)

    assert [row.route for row in found] == ["/slow", rows.NO_ROUTE, "/fast"]


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (4.0, ("db", 0.75)),  # the parts explain everything
        (5.0, ("db", 0.6)),
        (10.0, ("unaccounted", 0.6)),  # 6 of 10 seconds are nobody's
    ],
)
def test_a_route_names_the_part_that_took_most_of_its_time(spent, expected):
    """The share is of the request's time, not of what is known: the unknown is a part too."""
    part = catalogue.HTTP_PART
    text = (
        requests("/a", {"0.1": 1, "+Inf": 1})
        + f'{catalogue.HTTP_DURATION.name}_sum{{{ROUTE}="/a"}} {spent}\n'
        + counter(part, 3, **{ROUTE: "/a", "part": "db"})
        + counter(part, 1, **{ROUTE: "/a", "part": "cpu"})
        + counter(part, 9, **{ROUTE: "/b", "part": "http"})
    )

    (row,) = rows.routes(parse(text), seconds=1)

    assert (row.mostly, row.share) == expected


def test_a_server_without_a_breakdown_has_no_largest_part():
    """Nothing is called unaccounted when nothing was accounted for."""
    (row,) = rows.routes(parse(requests("/a", {"0.1": 1, "+Inf": 1})), seconds=1)

    assert row.mostly == ""
    assert "nothing to tell" in shown(render.parts([row]))


def test_a_pool_shows_the_worker_that_came_closest_to_its_limit():
    """Peaks are of one scrape and one worker: sums over workers would hide a full pool."""
    peaks = rows.Peaks()
    for zero, one in ((0, 1), (2, 0), (1, 1)):
        peaks.see(
            parse(
                "".join(
                    counter(
                        catalogue.POOL_COUNT,
                        used,
                        **{POOL: "db", POOL_STATE: "used", "worker": worker},
                    )
                    + counter(catalogue.POOL_MAX, 2, **{POOL: "db", "worker": worker})
                    for worker, used in enumerate((zero, one))
                )
            )
        )
    text = histogram(catalogue.POOL_WAIT, {"0.1": 10, "+Inf": 10}, **{POOL: "db"})
    text += counter(catalogue.POOL_TIMEOUTS, 3, **{POOL: "db"})

    (row,) = rows.pools(parse(text), peaks)

    assert (row.pool, row.used, row.most, row.waits, row.timeouts) == ("db", 2, 2, 10, 3)
    assert row.wait_p95 == pytest.approx(0.095)


def test_a_pool_that_only_timed_out_is_told():
    """Timeouts count even when nobody ever got a connection; unknown limits are not invented."""
    text = counter(catalogue.POOL_TIMEOUTS, 3, **{POOL: "db"})

    (row,) = rows.pools(parse(text), rows.Peaks())

    assert (row.timeouts, row.waits, math.isnan(row.used), math.isnan(row.wait_p95)) == (
        3,
        0,
        True,
        True,
    )


def test_a_pool_that_nobody_used_is_not_told():
    """Series that exist from the first scrape on are zero, and no line."""
    text = counter(catalogue.POOL_TIMEOUTS, 0, **{POOL: "db"})

    assert rows.pools(parse(text), rows.Peaks()) == []


def test_caches_are_told_lowest_hit_rate_first():
    """Errors are neither hits nor misses."""
    metric = catalogue.CACHE_REQUESTS
    text = (
        counter(metric, 9, cache="warm", result="hit")
        + counter(metric, 1, cache="warm", result="miss")
        + counter(metric, 5, cache="warm", result="error")
        + counter(metric, 4, cache="cold", result="miss")
        + counter(metric, 0, cache="idle", result="hit")
    )

    found = rows.caches(parse(text))

    assert [(row.cache, row.hit_rate) for row in found] == [("cold", 0.0), ("warm", 0.9)]


def test_blocks_of_the_event_loop_are_told_by_who_held_it_longest():
    """Fewer but longer blocks come first."""
    text = "".join(
        counter(catalogue.LOOP_BLOCKS, times, **{ROUTE: route})
        + counter(catalogue.LOOP_BLOCKED, held, **{ROUTE: route})
        for route, times, held in (("/often", 9, 1.0), ("/long", 2, 3.0), ("/never", 0, 0.0))
    )

    found = rows.blocks(parse(text))

    assert [(row.route, row.blocks) for row in found] == [("/long", 2), ("/often", 9)]


def test_limits_are_told_with_every_outcome():
    """One line for each limiter, limit and route."""
    where = {"limiter": "slowapi", "limit": "2 per 1 second", ROUTE: "/a"}
    metric = catalogue.LIMIT_DECISIONS
    text = counter(metric, 7, **where, outcome="allowed") + counter(
        metric, 3, **where, outcome="limited"
    )

    (row,) = rows.limits(parse(text))

    assert (row.limiter, row.limit, row.route) == ("slowapi", "2 per 1 second", "/a")
    assert (row.allowed, row.limited, row.errors) == (7, 3, 0)


def test_findings_are_repeated_queries_and_unhandled_exceptions():
    """What happened most often comes first; what never happened is no finding."""
    text = (
        counter(catalogue.DB_REPEATED, 8, **{ROUTE: "/n-plus-one"})
        + counter(catalogue.DB_REPEATED, 0, **{ROUTE: "/fine"})
        + counter(catalogue.HTTP_EXCEPTIONS, 2, **{ROUTE: "/a", ERROR: "KeyError"})
    )

    found = rows.findings(parse(text))

    assert [(row.what, row.route, row.count) for row in found] == [
        ("repeated queries (N+1)", "/n-plus-one", 8),
        ("unhandled KeyError", "/a", 2),
    ]


def test_a_table_without_rows_is_one_sentence():
    """An empty table would look as if something were broken."""
    assert shown(render.blocks([])).strip() == "Event loop blocked by: nothing to tell."


def test_tables_show_times_in_milliseconds_and_unknown_as_a_dash():
    """NaN never reaches the reader."""
    text = counter(catalogue.POOL_TIMEOUTS, 3, **{POOL: "db"})
    out = shown(render.pools(rows.pools(parse(text), rows.Peaks())))

    assert "db" in out
    assert "nan" not in out
    assert render.seconds(0.0042) == "4.2 ms"
    assert render.seconds(1.25) == "1,250 ms"
