"""How many connections the server behind an engine of SQLAlchemy takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Engine

from ._server import Question

__all__ = ["question"]

QUESTIONS = {
    "postgresql": "SHOW max_connections",
    "mysql": "SELECT @@max_connections",
    "mariadb": "SELECT @@max_connections",
}
"""By dialect; other servers have no such limit, or another way to ask."""


def question(engine: Engine) -> Question | None:
    """Asks the server, on a connection of its own; None if there is nothing to ask."""
    return partial(_most, engine) if engine.dialect.name in QUESTIONS else None


def _most(engine: Engine) -> int | None:
    # The pool's way to open a connection, with the app's arguments and listeners for it, has no
    # public name. Without it, the limit is not known.
    opens: Any = getattr(engine.pool, "_invoke_creator", None)
    if opens is None:
        return None
    question = QUESTIONS[engine.dialect.name]
    if not engine.dialect.is_async:
        return _answer(opens, question)
    # A loop of our own, so what opens the connection must not belong to the app's: not for a creator
    # that the app wrote.
    creator = getattr(engine.pool, "_creator", None)
    if getattr(creator, "__module__", "") != "sqlalchemy.engine.create":
        return None
    from sqlalchemy.util import greenlet_spawn

    return asyncio.run(greenlet_spawn(_answer, opens, question))


def _answer(opens: Callable[[Any], Any], question: str) -> int:
    connection = opens(None)
    try:
        cursor = connection.cursor()
        try:
            cursor.execute(question)
            return int(cursor.fetchone()[0])
        finally:
            cursor.close()
    finally:
        connection.close()
