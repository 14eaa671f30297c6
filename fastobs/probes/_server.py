"""How many connections a database server takes: asked now and then, beside the app."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from time import monotonic

__all__ = ["Asker", "Question", "Server"]

logger = logging.getLogger("fastobs")

Question = Callable[[], int | None]
"""Asks a server how many connections it takes, on a connection of its own; None if it does not say."""


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

    def ask(self, servers: Iterable[tuple[Server, Question | None]]) -> None:
        """Begin to ask those whose time has come; does not wait for the answers."""
        # One thread at a time: where a server does not answer, threads must not pile up.
        if self._thread is not None and self._thread.is_alive():
            return
        now = self._clock()
        due = [
            (server, question)
            for server, question in servers
            if server.reached
            and question is not None
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


def _ask(due: list[tuple[Server, Question]]) -> None:
    for server, question in due:
        try:
            most = question()
        except Exception as error:
            # The class only: a driver's message may hold what it was told to connect with.
            kind = type(error).__qualname__
            logger.debug("fastobs: a server could not be asked for its limit: %s", kind)
        else:
            server.most = server.most if most is None else most
