"""Times of statements that an app hands to a driver itself, and the kinds of statements that have a name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from time import perf_counter
from types import FrameType
from typing import Any

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._parts import enter, leave
from fastobs.cells.meters import Histogram

from . import Kit
from ._hooks import Hooks
from ._names import of_the_app

__all__ = ["OPERATIONS", "Statements", "argument"]

Told = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Finds the statement: in the object that a method was called on, its arguments or its keywords."""


def argument(name: str) -> Told:
    """It is the first argument, which may be given by this name."""
    return lambda _, args, options: args[0] if args else options.get(name)


Begun = tuple[Exchange | None, float]
"""A statement that is under way: whose time it is, and since when."""


class Statements:
    """How long statements take, by kind, that an app hands to a driver of PostgreSQL itself.

    Who calls the driver is read off the stack: what SQLAlchemy sends has been timed by its adapter,
    and what a pool or the driver does for itself is no statement of the app. That does not depend on
    who was imported or connected first, and is right for a connection that changes hands.
    """

    others: tuple[str, ...] = (
        "sqlalchemy.",
        "fastobs.probes._questions",
        "fastobs.probes._engines",
    )
    """How modules are called whose statements are not the app's."""
    housekeeping: Collection[str] = ()
    """Modules of the driver that send statements nobody asked for."""

    def __init__(self, kit: Kit, hooks: Hooks, component: str) -> None:
        self._meters = kit.meters
        self._hooks = hooks
        self._component = component
        self._rows: dict[str, Histogram] = {}
        self.missing: list[str] = []

    def wrap(self, owner: type, name: str, told: Told, *, awaited: bool) -> None:
        """Time a method; if this release does not have it, it is one of those `missing`."""
        if name in vars(owner):
            around = self._around_async if awaited else self._around
            self._hooks.wrap(owner, name, lambda method: around(method, told))
        else:
            self.missing.append(f"{owner.__name__}.{name}")

    def _timed(self, subject: Any) -> bool:  # noqa: ARG002
        """Whether the call lasts until the statement is done."""
        return True

    # What follows runs within the app's calls: it must not raise.

    def _around(self, original: Callable[..., Any], told: Told) -> Callable[..., Any]:
        def call(subject: Any, *args: Any, **options: Any) -> Any:
            begun = self._begin(subject)
            if begun is None:
                return original(subject, *args, **options)
            try:
                result = original(subject, *args, **options)
            except BaseException as error:
                self._done(begun, error, told, subject, args, options)
                raise
            self._done(begun, None, told, subject, args, options)
            return result

        return call

    def _around_async(self, original: Callable[..., Any], told: Told) -> Callable[..., Any]:
        async def call(subject: Any, *args: Any, **options: Any) -> Any:
            begun = self._begin(subject)
            if begun is None:
                return await original(subject, *args, **options)
            try:
                result = await original(subject, *args, **options)
            except BaseException as error:
                self._done(begun, error, told, subject, args, options)
                raise
            self._done(begun, None, told, subject, args, options)
            return result

        return call

    def _begin(self, subject: Any) -> Begun | None:
        if not self._hooks.on:
            return None
        try:
            # Below this function lies the hook, and below that who called it; or who awaits it.
            if not self._of_the_app(sys._getframe(2)) or not self._timed(subject):
                return None
            exchange, now = CURRENT.get(), perf_counter()
            enter(exchange, "db", now)
        except Exception as error:
            contain(self._component, error)
            return None
        return exchange, now

    def _of_the_app(self, caller: FrameType) -> bool:
        # The driver's own layers, somebody's subclass, and what other tools have wrapped around the
        # driver's methods may lie in between.
        frame: FrameType | None = caller
        alone = bool(self.housekeeping)
        for _ in range(DEPTH):
            if frame is None:
                break
            name = frame.f_globals.get("__name__", "")
            if name.startswith(self.others) or (alone and name in self.housekeeping):
                return False
            alone = alone and not of_the_app(name)
            frame = frame.f_back
        return True

    def _done(
        self,
        begun: Begun,
        error: BaseException | None,
        told: Told,
        subject: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        try:
            exchange, began = begun
            now = perf_counter()
            leave(exchange, "db", now)
            statement = told(subject, args, options)
            words = statement[:24].split(None, 1) if isinstance(statement, str) else ()
            self._row(words[0] if words else "", error).observe(now - began)
        except Exception as ours:
            contain(self._component, ours)

    def _row(self, word: str, error: BaseException | None) -> Histogram:
        if error is None and (known := self._rows.get(word)) is not None:
            return known
        operation = word.partition("(")[0].rstrip(";").upper()
        if operation not in OPERATIONS:
            operation = "_OTHER"
        kind = "" if error is None else qualified_name(type(error))
        row = self._meters.histogram(catalogue.DB_DURATION, "postgresql", operation, kind)
        # Upper and lower case may be mixed in many ways, and after a bracket comes anything.
        if error is None and operation != "_OTHER" and len(self._rows) < 100:
            self._rows[word] = row
        return row


DEPTH = 6
"""How many callers are looked at. SQLAlchemy is at most the third one below the driver's methods."""

OPERATIONS = frozenset(
    {
        "ALTER",
        "ANALYZE",
        "BEGIN",
        "CALL",
        "COMMIT",
        "COPY",
        "CREATE",
        "DELETE",
        "DROP",
        "EXPLAIN",
        "INSERT",
        "LOCK",
        "MERGE",
        "PRAGMA",
        "REFRESH",
        "RELEASE",
        "REPLACE",
        "ROLLBACK",
        "SAVEPOINT",
        "SELECT",
        "SET",
        "SHOW",
        "TRUNCATE",
        "UPDATE",
        "VACUUM",
        "WITH",
    }
)
"""Anything else is ``_OTHER``: a label is not made from what a statement happens to begin with."""
