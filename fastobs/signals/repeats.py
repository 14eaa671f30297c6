"""Requests that sent one statement again and again (N+1)."""

from __future__ import annotations

from fastobs import catalogue
from fastobs._exchange import Exchange, Finish
from fastobs._repeats import repeated
from fastobs.cells import Meters

__all__ = ["repeats"]

TOLD = 5
"""Findings of one request that are told; the first ones are the most frequent."""


def repeats(meters: Meters) -> Finish:
    """Count such requests, and leave what they repeated in the notes, as ``findings``."""

    def finish(exchange: Exchange) -> None:
        if exchange.notes is None:
            return
        found = repeated(exchange)
        if not found:
            return
        meters.counter(catalogue.DB_REPEATED, exchange.route).add()
        findings = exchange.notes.setdefault("findings", [])
        findings.extend(each.finding() for each in found[:TOLD])

    return finish
