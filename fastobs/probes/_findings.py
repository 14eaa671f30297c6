"""What a request is told of its statements and its connections, if they took long."""

from __future__ import annotations

from typing import Any

from fastobs._exchange import SLOWEST, Exchange

from ._sites import call_site, written

__all__ = ["HELD", "LONG", "WAITED", "note", "slowest"]

LONG = 0.1
"""Seconds; shorter waits, holds and statements are no finding."""
MOST = 5
"""Findings of connections that one request is told; a stream may have more."""
WAITED, HELD = "waited_for_connection", "held_connection"
"""Findings: of who had to wait, and of who kept a connection while it did something else."""


def slowest(exchange: Exchange, statement: str, seconds: float) -> None:
    """A statement took long, and perhaps longer than any other; called below the line that sent it.

    Args:
        exchange: Who sent it.
        statement: As people may see it.
        seconds: How long it took.
    """
    notes = _notes(exchange)
    before = notes.get(SLOWEST)
    if before is None or before["seconds"] < seconds:
        at = written(call_site())
        notes[SLOWEST] = {"seconds": round(seconds, 6), "statement": statement, "at": at}


def note(exchange: Exchange, kind: str, pool: str, seconds: float, **more: Any) -> None:
    """Something about connections that the line of this request shall say."""
    findings = _notes(exchange).setdefault("findings", [])
    if sum(finding["kind"] == kind for finding in findings) < MOST:
        findings.append({"kind": kind, "pool": pool, "seconds": round(seconds, 6), **more})


def _notes(exchange: Exchange) -> dict[str, Any]:
    if exchange.notes is None:
        exchange.notes = {}
        exchange.noted = True
    return exchange.notes
