"""The end of a process: what waits for a thread of ours, or for its next tick, is delivered before it.

Said twice, since each time somebody would miss the other: when the server ends the app's lifespan, for
uvicorn and granian then end the process by the very signal that they were sent, and nothing that is
registered with `atexit` runs; and when the interpreter ends, for an app that is served without a
lifespan, or used without a server.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

from ._contain import contained

__all__ = ["before_the_end", "forget", "say_farewell"]

_deliveries: dict[Callable[[], None], None] = {}


def before_the_end(deliver: Callable[[], None]) -> None:
    """Have this called when it may be the last time: bounded in time, and harmless if it is not."""
    _deliveries[deliver] = None


def forget(deliver: Callable[[], None]) -> None:
    """Have it called no more; nothing if it was not to be."""
    _deliveries.pop(deliver, None)


def say_farewell() -> None:
    """Deliver everything, each whatever becomes of the others."""
    for deliver in list(_deliveries):
        with contained("end"):
            deliver()


atexit.register(say_farewell)
