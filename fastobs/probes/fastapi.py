"""Dependencies of FastAPI with a ``max_concurrency``: how many requests wait for their turn.

FastAPI keeps a semaphore for each declaration and event loop, in a variable of the loop. It is only
read: the semaphores are made, taken and given back without us.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary, ref

from anyio import lowlevel
from fastapi import Depends, concurrency

from fastobs import catalogue
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe

__all__ = ["Dependencies", "probe"]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Dependencies(kit)


class Dependencies(Probe):
    """Asks the semaphores, from any thread."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._loops: list[ref[AbstractEventLoop]] = []
        self._semaphores: Any = None
        self._variables: Any = None

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set
        # Both private: FastAPI shows nobody its semaphores, anyio a loop's variables only on that loop.
        self._semaphores = getattr(concurrency, "_dependency_semaphores", None)
        self._variables = getattr(lowlevel, "_run_vars", None)

    def detach(self) -> None:
        self._loops.clear()

    def unknown(self) -> str:
        if self._known or "max_concurrency" not in signature(Depends).parameters:
            return ""
        return "this release hides who waits for a max_concurrency. Update fastobs."

    def on_loop(self, loop: AbstractEventLoop) -> None:
        if self._known:
            # With the first question anyio makes the loop's variables.
            self._semaphores.get(None)
            others = [each for each in self._living() if each is not loop]
            self._loops = [ref(each) for each in (*others, loop)]

    def read(self) -> Iterator[Reading]:
        found = [self._variables.get(loop) for loop in self._living()]
        waiting = [self._waiting(variables) for variables in found if variables is not None]
        if waiting:
            yield Reading(catalogue.DEPENDENCY_PENDING, (), float(sum(waiting)))

    @property
    def _known(self) -> bool:
        return self._semaphores is not None and self._variables is not None

    def _living(self) -> list[AbstractEventLoop]:
        loops = [each() for each in self._loops]
        return [loop for loop in loops if loop is not None and not loop.is_closed()]

    def _waiting(self, variables: Mapping[Any, Any]) -> int:
        """How many wait on a loop, of which these are the variables."""
        # Older releases of anyio keep them by name.
        name = getattr(self._semaphores, "_name", None)
        kept = variables.get(self._semaphores) or variables.get(name)
        if not kept:
            # FastAPI makes them when they are needed first.
            return 0
        return sum(each.statistics().tasks_waiting for each in _values(kept))


def _values(kept: WeakKeyDictionary[Any, Any]) -> list[Any]:
    """What it holds now; to iterate over it fails when the loop's thread adds to it meanwhile."""
    keys = [key for each in kept.keyrefs() if (key := each()) is not None]
    return [value for key in keys if (value := kept.get(key)) is not None]
