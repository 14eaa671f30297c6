"""What rate limiters decided, and where none did."""

from __future__ import annotations

from fastobs import catalogue
from fastobs._decisions import LIMITS, LISTED, decide, undecided
from fastobs.cells import Meters
from fastobs.signals.limits import rejections
from tests.probes.upstream import request


def requested(meters: Meters, route: str, times: int = 1) -> None:
    for _ in range(times):
        meters.histogram(catalogue.HTTP_DURATION, "GET", route, "200", "").observe(0.1)


def decided(meters: Meters, route: str) -> None:
    meters.counter(catalogue.LIMIT_DECISIONS, "front", "5 per 1 minute", route, "allowed").add()


def test_routes_without_a_decision_are_told_with_their_requests(meters: Meters) -> None:
    """The busiest first, each once; one that was decided on is not among them."""
    requested(meters, "/a", 2)
    requested(meters, "/b", 3)
    requested(meters, "/c", 4)
    decided(meters, "/c")
    # A sibling's: there is room for the series here, and nothing was counted.
    meters.counter(catalogue.LIMIT_DECISIONS, "front", "5 per 1 minute", "/new", "allowed")

    assert list(undecided(meters, ["/new", "/a", "/b", "/c", "/b"])) == [
        "/b: 3 requests, no decision",
        "/a: 2 requests, no decision",
        "/new: no request yet",
    ]


def test_where_requests_are_not_counted_nothing_is_said_of_them(meters: Meters) -> None:
    """They may have been many."""
    decided(meters, "/c")

    assert list(undecided(meters, ["/a", "/c"])) == ["/a: no decision"]


def test_of_many_routes_some_are_named(meters: Meters) -> None:
    """The rest is a number."""
    lines = list(undecided(meters, (f"/{number}" for number in range(LISTED + 3))))

    assert len(lines) == LISTED + 1
    assert lines[-1] == "and 3 more"


def test_decisions_that_cannot_be_told_apart_accuse_no_route(meters: Meters) -> None:
    """The one in question may be among those that were folded together."""
    decided(meters, "_other")

    (line,) = undecided(meters, ["/a"])
    assert "nobody knows" in line


def test_limits_that_are_made_from_data_leave_room_for_others(meters: Meters) -> None:
    """A limiter that has ever new ones, as for each customer, has all further ones in one; what it
    decided about a route is told all the same."""
    for number in range(LIMITS + 3):
        for _ in range(2):
            decide(meters, "quota", f"{number} per 1 minute", "allowed")
    with request("/orders") as exchange:
        decide(meters, "quota", "a new one", "limited")
    rejections(meters)(exchange)
    decide(meters, "front", "5 per 1 minute", "allowed")

    counted = {row.values: row.cells[row.at] for row in meters.rows(catalogue.LIMIT_DECISIONS)}
    assert len(counted) == LIMITS + 3
    assert counted["quota", "0 per 1 minute", "", "allowed"] == 2
    assert counted["quota", "_other", "", "allowed"] == 6
    assert counted["quota", "_other", "/orders", "limited"] == 1
    assert counted["front", "5 per 1 minute", "", "allowed"] == 1
    (overflow,) = meters.rows(catalogue.SELF_OVERFLOW)
    assert overflow.cells[overflow.at] == 7
