"""Who runs on an event loop just now, seen from another thread."""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import AbstractEventLoop
from collections.abc import Iterable
from contextvars import Context
from types import CodeType, FrameType
from typing import Any, NamedTuple
from weakref import ref

from fastobs._exchange import CURRENT, Exchange
from fastobs._files import distance, relative

from .frames import Line, stack
from .heart import Heart

__all__ = ["Holder", "Place", "Spot", "exchange_of", "holder", "others", "step"]


AGAIN = 3
"""Looks that are taken anew if the loop goes on meanwhile, which takes a switch of threads each time."""


class Place(NamedTuple):
    """Where in the code, for people."""

    function: str
    file: str
    """Relative to the project or to site-packages."""
    line: int


class Spot(NamedTuple):
    """Where in the code, as it is found: made into a `Place` only if somebody is told."""

    code: CodeType
    line: int

    def place(self) -> Place:
        return Place(self.code.co_qualname, relative(self.code.co_filename), self.line)


class Holder(NamedTuple):
    """What the loop runs: a step of a task, or a callback."""

    mark: ref[Any] | FrameType
    """Tells one step from another. A task has one step at most between two beats; of a callback the
    frame is kept, so that another callback cannot have the same."""
    exchange: Exchange | None
    """Whose step it is; None if no request led to it."""
    spot: Spot

    @property
    def task(self) -> ref[asyncio.Task[Any]] | None:
        """Of which task it is a step; None for a callback."""
        return None if isinstance(self.mark, FrameType) else self.mark

    def goes_on(self, now: Holder | None) -> bool:
        """Whether this is what the loop still runs."""
        # A client in the same process makes a request, or many of them, within a step of its own.
        return now is not None and now.mark == self.mark and now.exchange is self.exchange


def holder(heart: Heart, loop: AbstractEventLoop) -> Holder | None:
    """Who holds the loop now; None if it waits, or runs only itself."""
    task, frames = asyncio.current_task(loop), step(heart)
    for _ in range(AGAIN):
        if asyncio.current_task(loop) is task:
            break
        # The loop went on in between: another step may have begun, and these are its frames.
        task, frames = asyncio.current_task(loop), step(heart)
    if not frames:
        return None
    if task is None:
        return Holder(frames[-1][0], None, _spot(frames))
    return Holder(ref(task), exchange_of(task), _spot(frames))


def step(heart: Heart) -> list[tuple[FrameType, Line]]:
    """The frames of what the loop runs, the innermost first, without the loop's own."""
    frames = stack(heart.thread)
    return frames[: max(len(frames) - heart.floor, 0)]


def others(loop: AbstractEventLoop, culprit: Exchange | None) -> tuple[Exchange, ...]:
    """The requests that are in flight on the loop beside this one."""
    found = {
        id(exchange): exchange
        for task in asyncio.all_tasks(loop)
        if (exchange := exchange_of(task)) is not None and not exchange.closed
    }
    found.pop(id(culprit), None)
    return tuple(found.values())


def exchange_of(task: asyncio.Task[Any]) -> Exchange | None:
    """Which exchange a task works for."""
    context = _context_of(task)
    return None if context is None else context.get(CURRENT)


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # 3.11 has no name for it; of all that a task refers to, it is the first context.
    return next((found for found in gc.get_referents(task) if type(found) is Context), None)


def _spot(frames: Iterable[tuple[FrameType, Line]]) -> Spot:
    """The innermost frame of the app's own code; else of a library's, else of all."""
    spots = [Spot(code, line or 0) for _, (code, line) in frames]
    return min(spots, key=lambda spot: distance(spot.code.co_filename))
