"""Worker threads: how long a request waits for one, and how long its functions run there.

Starlette and FastAPI run ``def`` endpoints, dependencies and iterators through
``anyio.to_thread.run_sync``, which they look up in its module at each call. Who imported the function
before an app was instrumented calls it past us; that time is then in no part.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, cast

from anyio import to_thread

from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["Threads", "probe"]

COMPONENT = "probes.threads"

RunSync = Callable[..., Coroutine[Any, Any, Any]]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Threads(kit)


class Threads(Probe):
    """Writes the parts ``thread_wait`` and ``thread``."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set
        self._hooks.wrap(cast("Any", to_thread), "run_sync", self._around)

    def detach(self) -> None:
        self._hooks.undo()

    def _around(self, original: RunSync) -> RunSync:
        hooks = self._hooks

        async def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            exchange = CURRENT.get()
            if exchange is None or exchange.closed or not hooks.on:
                return await original(function, *args, **options)
            errand = Errand(exchange, function)
            errand.waits()
            try:
                return await original(errand, *args, **options)
            finally:
                errand.given_up = True
                errand.ends()

        return run_sync


class Errand:
    """A function on its way to a worker thread, and in it.

    Attributes:
        function: What the app wants to have run.
        part: The part that goes on.
        given_up: Whether the request does not wait for it any more; the function may still run.
    """

    __slots__ = ("exchange", "function", "given_up", "part")

    def __init__(self, exchange: Exchange, function: Callable[..., Any]) -> None:
        self.exchange = exchange
        self.function = function
        self.part: str | None = None
        self.given_up = False

    def __call__(self, *args: Any) -> Any:
        self.runs()
        try:
            return self.function(*args)
        finally:
            self.ends()

    def waits(self) -> None:
        """For its thread."""
        try:
            enter(self.exchange, "thread_wait", perf_counter())
            self.part = "thread_wait"
        except Exception as error:
            contain(COMPONENT, error)

    def runs(self) -> None:
        """In its thread."""
        try:
            now = perf_counter()
            waited, self.part = self.part, None
            if waited is None:
                return
            leave(self.exchange, waited, now)
            enter(self.exchange, "thread", now)
            self.part = "thread"
            if self.given_up:
                # In the meantime, when there was nothing to end.
                self.ends()
        except Exception as error:
            contain(COMPONENT, error)

    def ends(self) -> None:
        """On the loop or in the thread, whichever is first: each takes the part before it ends it."""
        try:
            part, self.part = self.part, None
            if part is not None:
                leave(self.exchange, part, perf_counter())
        except Exception as error:
            contain(COMPONENT, error)
