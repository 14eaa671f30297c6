"""What rate limiters decided about a request: kept until its route is known."""

from __future__ import annotations

from . import catalogue
from ._exchange import CURRENT, Exchange
from .cells import Meters

__all__ = ["Decision", "decide", "decisions"]

Decision = tuple[str, str, str]
"""The limiter, the limit it checked, and the outcome: allowed, limited or error."""

KEY = "fastobs.decisions"


def decide(meters: Meters, limiter: str, limit: str, outcome: str) -> None:
    """A limiter decided; within a request it is counted when that ends.

    A limiter in a middleware decides before routing: only the end of the exchange knows the route.
    """
    exchange = CURRENT.get()
    if exchange is None or exchange.closed:
        meters.counter(catalogue.LIMIT_DECISIONS, limiter, limit, "", outcome).add()
    else:
        exchange.noted = True
        exchange.scope.setdefault(KEY, []).append((limiter, limit, outcome))


def decisions(exchange: Exchange) -> list[Decision]:
    """All that was decided about this exchange."""
    made: list[Decision] = exchange.scope.get(KEY, [])
    return made
