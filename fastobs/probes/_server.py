"""How many connections a database server takes: asked now and then, beside the app."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from sqlalchemy import Engine

__all__ = ["Asker", "Server"]

logger = logging.getLogger("fastobs")

QUESTIONS = {
    "postgresql": "SHOW max_connections",
    "mysql": "SELECT @@max_connections",
    "mariadb": "SELECT @@max_connections",
}
"""By dialect; other servers have no such limit, or another way to ask."""


class Server:
    """What is known of the server behind one pool.

    Attributes:
        reached: Whether the app itself has had a connection; no other server is asked.
        most: Connections that it takes; None until it has answered. If it cannot be asked later, this
            stays: the limit of a running server does not change.
        asked: When, in seconds; None if never.
    """

    __slots__ = ("asked", "most", "reached")

    def __init__(self) -> None:
        self.reached = False
        self.most: int | None = None
        self.asked: float | None = None


class Asker:
    """Asks on a thread, with a connection that is opened for it and closed again, none of a pool's.

    Args:
        every: Seconds between two questions to one server.
        clock: Seconds.
    """

    def __init__(self, every: float, clock: Callable[[], float] = monotonic) -> None:
        self._every = every
        self._clock = clock
        self._thread: threading.Thread | None = None

    def ask(self, servers: Iterable[tuple[Server, Engine]]) -> None:
        """Begin to ask those whose time has come; does not wait for the answers."""
        # One thread at a time: where a server does not answer, threads must not pile up.
        if self._thread is not None and self._thread.is_alive():
            return
        now = self._clock()
        due = [
            (server, engine)
            for server, engine in servers
            if server.reached
            and engine.dialect.name in QUESTIONS
            and (server.asked is None or now - server.asked >= self._every)
        ]
        if not due:
            return
        for server, _ in due:
            server.asked = now
        self._thread = threading.Thread(
            target=_ask, args=(due,), name="fastobs-server-limits", daemon=True
        )
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until what was begun is done, at most so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)


def _ask(due: list[tuple[Server, Engine]]) -> None:
    for server, engine in due:
        try:
            most = _most(engine)
        except Exception as error:
            # The class only: a driver's message may hold what it was told to connect with.
            kind = type(error).__qualname__
            logger.debug("fastobs: %s could not be asked for its limit: %s", engine.name, kind)
        else:
            server.most = server.most if most is None else most


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
