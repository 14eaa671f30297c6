"""Times of the statements that SQLAlchemy sends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import ExecuteStyle

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._parts import enter, leave
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram

from ._findings import LONG, slowest
from ._hooks import Hooks, parameters
from ._repeats import sent
from ._shapes import shape, shown
from ._statements import OPERATIONS

__all__ = ["Executions"]

COMPONENT = "probes.sqlalchemy"

ONCE = ExecuteStyle.EXECUTE
"""``context.executemany`` asks for the others, and takes 0.5 us for that."""

EXECUTION = ("self", "dialect", "context", "statement", "parameters")
"""What the method takes that sends one statement. To hand on whatever comes takes 0.2 us more, so that is
left to methods which take something else than they do today."""

SYSTEMS = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
"""Dialects whose name is not the one of the semantic conventions
(https://opentelemetry.io/docs/specs/semconv/database/database-spans/)."""

Begun = tuple[str, str, Exchange | None, float]
"""Dialect, statement, the exchange that waits for it, and when it began."""


class Executions:
    """How long statements take, by kind.

    Attributes:
        missing: Private methods that this release does not have; what goes through them is not timed.
    """

    def __init__(self, meters: Meters, hooks: Hooks) -> None:
        self.missing: list[str] = []
        self._meters = meters
        self._hooks = hooks
        self._rows: dict[tuple[str, str], Histogram] = {}

    def attach(self) -> None:
        # SQLAlchemy's own events around a statement take 5 us, whatever their listeners do, and those of
        # a transaction's end come only before it. These private methods are around both; where a
        # release does not have one, what goes through it is not timed, and `missing` says so.
        self.missing = []
        usual = parameters(Connection, "_exec_single_context") == EXECUTION
        for name, around in (
            ("_exec_single_context", self._around_execution if usual else self._around_any),
            ("_exec_insertmany_context", self._around_any),
            ("_cursor_execute", self._around_cursor),
            ("_commit_impl", partial(self._around_ending, "COMMIT")),
            ("_rollback_impl", partial(self._around_ending, "ROLLBACK")),
        ):
            if name in vars(Connection):
                self._hooks.wrap(Connection, name, around)
            else:
                self.missing.append(name)

    # What follows runs within the app's calls: it must not raise.

    def _around_execution(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, begin, ended = self._hooks, self.begin, self.ended

        def execute(
            connection: Connection, dialect: Any, context: Any, statement: Any, parameters: Any
        ) -> Any:
            begun = begin(connection, context) if hooks.on else None
            try:
                result = original(connection, dialect, context, statement, parameters)
            except BaseException as error:
                ended(begun, type(error))
                raise
            ended(begun, None)
            return result

        return execute

    def _around_any(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around what has an execution's context for its second argument, whatever else it takes."""

        def execute(connection: Connection, *args: Any, **options: Any) -> Any:
            context = args[1] if len(args) > 1 else options.get("context")
            timed = self._around_execution(lambda *_: original(connection, *args, **options))
            return timed(connection, None, context, None, None)

        return execute

    def _around_cursor(self, original: Callable[..., None]) -> Callable[..., None]:
        def execute(connection: Connection, *args: Any, **options: Any) -> None:
            # Cursor, statement, parameters and context. With one these are sequences and defaults;
            # without, a dialect sends it on its own account.
            context = args[3] if len(args) > 3 else options.get("context")
            if context is None or not self._hooks.on:
                return original(connection, *args, **options)
            begun = self.begin_further(connection, str(args[1]))
            try:
                original(connection, *args, **options)
            except BaseException as error:
                self.ended(begun, type(error))
                raise
            self.ended(begun, None)
            return None

        return execute

    def _around_ending(self, operation: str, original: Callable[..., None]) -> Callable[..., None]:
        def end(connection: Connection, *args: Any, **options: Any) -> None:
            begun = self.begin_ending(connection, operation) if self._hooks.on else None
            try:
                original(connection, *args, **options)
            except BaseException as error:
                self.ended(begun, type(error))
                raise
            self.ended(begun, None)

        return end

    def begin(self, connection: Connection, context: Any) -> Begun | None:
        """A statement is about to be sent; None if it is none of the app's.

        Args:
            connection: On which.
            context: SQLAlchemy's, of its execution.
        """
        try:
            if connection.__dict__.get("_allow_autobegin") is False:
                # SQLAlchemy's own, which asks a new server who it is.
                return None
            system, statement, exchange = connection.dialect.name, context.statement, CURRENT.get()
            if exchange is None:
                return system, statement, None, perf_counter()
            if not exchange.closed and context.execute_style is ONCE:
                sent(exchange, context)
            now = perf_counter()
            enter(exchange, "db", now)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return system, statement, exchange, now

    def begin_further(self, connection: Connection, statement: str) -> Begun | None:
        """Something is sent that another statement, or a transaction, needs."""
        try:
            system, exchange, now = connection.dialect.name, CURRENT.get(), perf_counter()
            if exchange is not None:
                enter(exchange, "db", now)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return system, statement, exchange, now

    def begin_ending(self, connection: Connection, operation: str) -> Begun | None:
        """A transaction is about to end; None if there is none to be ended any more."""
        try:
            if connection.closed or connection.invalidated:
                return None
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return self.begin_further(connection, operation)

    def ended(self, begun: Begun | None, failure: type[BaseException] | None) -> None:
        """It is done; with an error, that is the one which the app sees."""
        if begun is None:
            return
        try:
            system, statement, exchange, began = begun
            now = perf_counter()
            if exchange is not None:
                leave(exchange, "db", now)
                if now - began >= LONG:
                    slowest(exchange, shown(shape(statement), system), now - began)
            if failure is not None:
                self._row(system, statement, qualified_name(failure)).observe(now - began)
                return
            key = (system, statement[:8])
            row = self._rows.get(key)
            if row is None:
                row = self._row(system, statement, "")
                # Only what does not begin with blanks or a comment says its kind this early.
                if key[1][:1].isalpha() and len(self._rows) < 1000:
                    self._rows[key] = row
            row.observe(now - began)
        except Exception as error:
            contain(COMPONENT, error)

    def _row(self, system: str, statement: str, error: str) -> Histogram:
        words = statement[:200].replace("(", " ").split(None, 1)
        operation = words[0].upper() if words else ""
        return self._meters.histogram(
            catalogue.DB_DURATION,
            SYSTEMS.get(system, system),
            operation if operation in OPERATIONS else "_OTHER",
            error,
        )
