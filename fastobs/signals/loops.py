"""Learning of event loops: a request introduces the one that serves it to the probes."""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from weakref import ref

from fastobs._exchange import Exchange, Signal

__all__ = ["loops"]


def loops(introduce: Callable[[AbstractEventLoop], None]) -> Signal:
    """Tell of each loop; of several that serve at once, more often than once.

    Args:
        introduce: Called on the loop.
    """
    # Weak: a loop that nobody closed must still be able to say so when it is collected.
    last: Callable[[], AbstractEventLoop | None] = lambda: None  # noqa: E731

    def begin(exchange: Exchange) -> None:  # noqa: ARG001 - only where it is served matters
        nonlocal last
        try:
            loop = get_running_loop()
        except RuntimeError:
            # Starlette also runs on trio, which has no such loop.
            return
        if loop is not last():
            introduce(loop)
            last = ref(loop)

    return begin
