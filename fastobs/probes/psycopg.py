"""Statements of psycopg, sync and async, on connections of a pool and on others.

What a cursor's ``stream`` and ``copy`` take is partly the app's time, and what is sent in a pipeline
is not done when the call returns: they are not timed. Nor is there a statement for what psycopg does
with a transaction by itself.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncCursor, AsyncServerCursor, Cursor, ServerCursor
from psycopg.sql import SQL, Composed

from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks
from ._statements import Statements, argument

__all__ = ["Psycopg", "probe"]

COMPONENT = "probes.psycopg"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Psycopg(kit)


class Psycopg(Probe):
    """Statement times of the pools family, for psycopg."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._statements = PsycopgStatements(kit, self._hooks, COMPONENT)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set
        self._statements.missing.clear()
        # A connection's own methods, and the cursors that are not here, go through these.
        for kind in (Cursor, AsyncCursor, ServerCursor, AsyncServerCursor):
            for name in ("execute", "executemany"):
                self._statements.wrap(kind, name, _told, awaited=kind.__name__.startswith("Async"))

    def detach(self) -> None:
        self._hooks.undo()

    def unknown(self) -> str:
        if not (missing := ", ".join(self._statements.missing)):
            return ""
        return f"this release has no {missing}; what goes through it is not timed. Update fastobs."


class PsycopgStatements(Statements):
    """Statements of psycopg."""

    # A pool asks its connections whether they live.
    others = (*Statements.others, "psycopg_pool.")

    def _timed(self, subject: Any) -> bool:
        # In a pipeline, a call returns before the server has heard of it.
        return not subject.connection.pgconn.pipeline_status


_first = argument("query")


def _told(subject: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """How the statement begins; it may be composed of many parts."""
    query = _first(subject, args, options)
    while isinstance(query, Composed):
        query = next(iter(query), "")
    if isinstance(query, SQL):
        return query.as_string()
    if isinstance(query, bytes):
        return query[:24].decode("ascii", "replace")
    return query if isinstance(query, str) else ""
