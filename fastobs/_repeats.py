"""Statements that a request sends again and again, and the block in which that is meant."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from threading import Lock
from typing import Any

from ._exchange import Exchange

__all__ = [
    "ALLOWED",
    "REPEATED",
    "STATEMENTS",
    "Repeat",
    "allow_repeats",
    "repeat",
    "repeated",
    "sent",
]

REPEATED = 5
"""So often a request sends one statement before it is a finding."""

DISTINCT = 100
"""Statements of one request that are counted; who sends more makes them from data."""

STATEMENTS = "statements"
"""Where they are in the exchange's notes, by key."""

ALLOWED: ContextVar[bool] = ContextVar("fastobs_repeats_allowed", default=False)


class Repeat:
    """One statement of one request.

    Attributes:
        count: How often it was sent.
        relation: The ORM relation that was loaded, like ``Order.items``; empty if it was none.
        statement: The statement without its literals, once it is a finding.
        at: The line of the app's code that sent it, like ``shop/orders.py:31``, once it is a finding;
            empty if none did.
    """

    __slots__ = ("at", "count", "relation", "statement")

    def __init__(self, relation: str) -> None:
        self.count = 0
        self.relation = relation
        self.statement = self.at = ""

    def finding(self) -> dict[str, Any]:
        """As it is told, in a line or on a span."""
        what = {"relation": self.relation} if self.relation else {"statement": self.statement}
        where = {"at": self.at} if self.at else {}
        return {"kind": "repeated_query", **what, "count": self.count, **where}


_making = Lock()


def repeat(exchange: Exchange, key: tuple[str, str]) -> Repeat | None:
    """The statement of this key, to be counted; None if there are too many.

    Args:
        exchange: Who sends it.
        key: What makes two statements the same: the text without literals, and the relation.
    """
    # Two threads of a request may get here at once, and both count.
    with _making:
        if exchange.notes is None:
            exchange.notes = {}
            exchange.noted = True
        statements: dict[tuple[str, str], Repeat] = exchange.notes.setdefault(STATEMENTS, {})
        if key not in statements:
            if len(statements) >= DISTINCT:
                return None
            statements[key] = Repeat(key[1])
        return statements[key]


def sent(exchange: Exchange) -> int:
    """How many queries the exchange sent, as far as they were counted."""
    statements = {} if exchange.notes is None else exchange.notes.get(STATEMENTS, {})
    return sum(each.count for each in list(statements.values()))


def repeated(exchange: Exchange) -> list[Repeat]:
    """What the exchange sent often enough to be a finding, the most frequent first."""
    statements = {} if exchange.notes is None else exchange.notes.get(STATEMENTS, {})
    often = [each for each in list(statements.values()) if each.count >= REPEATED]
    return sorted(often, key=lambda each: -each.count)


class allow_repeats:  # noqa: N801 - it reads like the verb that it is
    """A block in which sending one statement again and again is meant, like polling.

    What is sent within it is not counted towards a finding of repeated queries:
    ``with fastobs.allow_repeats("waits for the job"): ...``

    Args:
        reason: For whoever reads the code.
    """

    __slots__ = ("_tokens", "reason")

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(ALLOWED.set(True))

    def __exit__(self, *_: object) -> None:
        # A generator that a framework enters and leaves on different threads has two contexts; the
        # first is gone with its thread.
        with suppress(ValueError):
            ALLOWED.reset(self._tokens.pop())
