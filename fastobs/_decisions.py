"""What rate limiters decided about a request: kept until its route is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

from . import catalogue
from ._exchange import CURRENT, Exchange
from .catalogue import ROUTE, Metric
from .cells import Meters
from .cells.meters import OTHER, Counter, Histogram

__all__ = ["Decision", "Limit", "decide", "decisions", "folded", "undecided"]

Decision = tuple[str, str, str]
"""The limiter, the limit it checked, and the outcome: allowed, limited or error."""

KEY = "fastobs.decisions"

LIMITS = 50
"""Limits of one limiter that are told apart. Who has more makes them from data, as for each customer;
then the room of all limiters would be full of them."""

LISTED = 20
"""Routes that are named to people; more than so many are a number."""


_told: WeakKeyDictionary[Meters, dict[str, set[str]]] = WeakKeyDictionary()
"""The limits that are told apart, by limiter."""


class Limit:
    """One limit of one limiter; it knows its rows, so that a decision does not look for them.

    Args:
        limiter: The label ``limiter``.
        limit: The label ``limit``; if the limiter has too many, it becomes ``_other``.

    Attributes:
        rows: Where it is counted outside of requests, by outcome: those that it has had, and that have a
            row of their own.
    """

    __slots__ = ("_meters", "limit", "limiter", "rows")

    def __init__(self, meters: Meters, limiter: str, limit: str) -> None:
        known = _told.setdefault(meters, {}).setdefault(limiter, set())
        if len(known) < LIMITS:
            known.add(limit)
        self.limiter = limiter
        self.limit = limit if limit in known else OTHER
        self._meters = meters
        self.rows: dict[str, Counter] = {}

    def decide(self, outcome: str) -> None:
        """It was decided; within a request that is counted when the request ends.

        A limiter in a middleware decides before routing: only the end of the exchange knows the
        route.
        """
        exchange = CURRENT.get()
        if exchange is None or exchange.closed:
            try:
                row = self.rows[outcome]
            except KeyError:
                row = self._row(outcome)
            # As `add` does: the call takes as long as that.
            row.cells[row.at] += 1.0
            return
        exchange.noted = True
        made = exchange.scope.get(KEY)
        if made is None:
            # Two threads of a request may get here at once.
            made = exchange.scope.setdefault(KEY, [])
        made.append((self.limiter, self.limit, outcome))

    def _row(self, outcome: str) -> Counter:
        values = (self.limiter, self.limit, "", outcome)
        row = self._meters.counter(catalogue.LIMIT_DECISIONS, *values)
        # Of what has no row of its own, each event is counted as one too many.
        if self.limit == OTHER:
            folded(self._meters)
        elif row.values == values:
            self.rows[outcome] = row
        return row


def folded(meters: Meters) -> None:
    """A decision was about one limit too many."""
    meters.counter(catalogue.SELF_OVERFLOW, catalogue.LIMIT_DECISIONS.name).add()


def decide(meters: Meters, limiter: str, limit: str, outcome: str) -> None:
    """A limiter decided, about a limit that is not kept."""
    Limit(meters, limiter, limit).decide(outcome)


def decisions(exchange: Exchange) -> list[Decision]:
    """All that was decided about this exchange."""
    made: list[Decision] = exchange.scope.get(KEY, [])
    return made


def undecided(meters: Meters, routes: Iterable[str]) -> Iterator[str]:
    """Which of these routes no limiter of this process ever decided on; lines for people.

    Those that had requests come first: with them something is wrong, or no limit is meant.
    """
    decided = _by_route(meters, catalogue.LIMIT_DECISIONS)
    if OTHER in decided:
        yield "there are too many decisions to tell them all apart, so nobody knows"
        return
    requests = _by_route(meters, catalogue.HTTP_DURATION)
    # Without any they may be switched off, and with too many to tell apart they are not all here.
    otherwise = "no request yet" if requests and OTHER not in requests else "no decision"
    found = [route for route in dict.fromkeys(routes) if route not in decided]
    found.sort(key=lambda route: -requests.get(route, 0))
    for route in found[:LISTED]:
        count = requests.get(route)
        yield f"{route}: {f'{count:.0f} requests, no decision' if count else otherwise}"
    if len(found) > LISTED:
        yield f"and {len(found) - LISTED} more"


def _by_route(meters: Meters, metric: Metric) -> dict[str, float]:
    """How much was counted; routes without anything are left out."""
    at = metric.labels.index(ROUTE)
    found: dict[str, float] = {}
    for row in meters.rows(metric):
        if count := row.count if isinstance(row, Histogram) else row.cells[row.at]:
            found[row.values[at]] = found.get(row.values[at], 0.0) + count
    return found
