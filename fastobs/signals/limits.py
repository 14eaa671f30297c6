"""Who was turned away, and by whom: limiters' decisions and answers with 429, once per response."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Router

from fastobs import catalogue
from fastobs._decisions import decisions, folded
from fastobs._exchange import Exchange, Finish
from fastobs.cells import Meters
from fastobs.cells.meters import OTHER

__all__ = ["rejections"]

MIDDLEWARE = 20
"""Around a mounted app are hardly more."""


def rejections(meters: Meters) -> Finish:
    """Count decisions by route, and each 429 by who gave it and whether it said until when."""

    def finish(exchange: Exchange) -> None:
        made = decisions(exchange)
        for limiter, limit, outcome in made:
            meters.counter(catalogue.LIMIT_DECISIONS, limiter, limit, exchange.route, outcome).add()
            if limit == OTHER:
                folded(meters)
        if exchange.status == 429:
            limited = any(outcome == "limited" for _, _, outcome in made)
            source = _source(exchange, limited=limited)
            meters.counter(catalogue.LIMIT_REJECTED, exchange.route, source).add()
            told = (exchange.notes or {}).get("retry_after")
            sent = "yes" if told else "no"
            meters.counter(catalogue.LIMIT_RETRY_AFTER, exchange.route, sent).add()

    return finish


def _source(exchange: Exchange, *, limited: bool) -> str:
    if limited:
        return "limiter"
    # Routing puts the endpoint into the scope; without one, a middleware answered.
    endpoint = exchange.scope.get("endpoint")
    return "middleware" if endpoint is None or _routes_itself(endpoint) else "app"


def _routes_itself(endpoint: Any) -> bool:
    """Whether it is a mounted app, perhaps within its middleware: then none of its endpoints answered."""
    for _ in range(MIDDLEWARE):
        if isinstance(endpoint, (Starlette, Router)):
            return True
        endpoint = getattr(endpoint, "app", None)
    return False
