"""What a request waits for while the event loop does something else."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextvars import Context
from types import FrameType
from typing import Any

from pyinstrument.low_level.stat_profile import get_frame_info
from pyinstrument.stack_sampler import AsyncState, active_profiler_context_var

__all__ = ["Waiting"]

PARKED = {
    ("call_next", "starlette/middleware/base.py"),
    ("body_stream", "starlette/middleware/base.py"),
    ("receive_or_disconnect", "starlette/middleware/base.py"),
    ("wrap", "starlette/middleware/base.py"),
    ("listen_for_disconnect", "starlette/responses.py"),
    ("__aexit__", "anyio/_backends/_asyncio.py"),
    ("__aexit__", "asyncio/taskgroups.py"),
}
"""Functions that wait for another task of the same request, which is the one worth showing."""
KINDS = (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await"))
"""Coroutines, generators, asynchronous generators: how they name what they wait for."""
DRIVERS = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
"""Types that do not say what they drive, but refer to nothing else that waits."""
SHARE = 0.02
"""Of the time may go into looking through the loop's tasks."""


class Waiting:
    """Finds the stack on which a request waits.

    Pyinstrument names the task of the request that ran last. A request with one task has no other;
    but behind a BaseHTTPMiddleware that is the middleware, which waits for the endpoint in a task of
    its own, and after `create_task` it may be one that has ended. So the tasks themselves are
    asked. Nothing changes until one of them runs again, which pyinstrument tells us by a new state.

    Args:
        owner: The value of pyinstrument's variable in the contexts of the request's tasks.
        beginning: A stack of the request's first task, while it ran.
    """

    def __init__(self, owner: object, beginning: list[str]) -> None:
        self._owner = owner
        self._loop, task = _running()
        self._stem = _stem(task, beginning)
        self._state: AsyncState | None = None
        self._found: list[str] = []
        self._rest_until = 0.0

    def stack(self, state: AsyncState) -> list[str]:
        """From its root, without what stands for the waiting itself."""
        if state is not self._state:
            self._found, resting = self._look(state.info)
            # Looked for in vain for now: the next sample asks again.
            self._state = None if resting else state
        return self._found

    def is_loop(self, stack: list[str]) -> bool:
        """Whether a stack ends in the event loop, although the request's context is current.

        So it is when a task goes on after its waiting. Other loops show their own code in between,
        outside the context; uvloop has no Python code to show.
        """
        return len(stack) <= len(self._stem)

    def ended(self) -> list[str]:
        """From its root, the stack of the waiting that ends right now."""
        task = asyncio.current_task()
        if task is None:
            # A timer of the request, run by the loop itself: all its tasks are still waiting.
            return self._look([])[0]
        return [*self._stem, *_chain(task)]

    def _look(self, last: list[str]) -> tuple[list[str], bool]:
        """The stack to show, given that of the task that ran last; and whether it is a guess."""
        began = time.perf_counter()
        if self._loop is None or began < self._rest_until:
            return last, self._loop is not None
        chains = [chain for task in self._tasks() if (chain := _chain(task))]
        now = time.perf_counter()
        self._rest_until = now + (now - began) / SHARE
        busy = [chain for chain in chains if not any(map(_is_parked, chain))]
        if not busy or any(chain[-1:] == last[-1:] for chain in busy):
            return last, False
        return [*self._stem, *max(busy, key=len)], False

    def _tasks(self) -> Iterator[asyncio.Task[Any]]:
        for task in asyncio.all_tasks(self._loop):
            context = _context_of(task)
            if context is not None and context.get(active_profiler_context_var) is self._owner:
                yield task


def _running() -> tuple[asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None]:
    try:
        return asyncio.get_running_loop(), asyncio.current_task()
    except RuntimeError:
        return None, None


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    if (get := getattr(task, "get_context", None)) is not None:
        context: Context = get()
        return context
    # Python 3.11 has it, but does not hand it out.
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)


def _stem(task: asyncio.Task[Any] | None, stack: list[str]) -> list[str]:
    """The part of a running task's stack that belongs to the event loop."""
    if task is not None and (frame := getattr(task.get_coro(), "cr_frame", None)) is not None:
        first = _identifier(get_frame_info(frame))
        for depth, info in enumerate(stack):
            if _identifier(info) == first:
                return stack[:depth]
    return []


def _chain(task: asyncio.Task[Any]) -> list[str]:
    """The frames of a task that waits, from the outermost to the one that waits."""
    chain = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame, waiting = _step(waiting)
        if frame is not None:
            chain.append(get_frame_info(frame))
    return chain


def _step(waiting: Any) -> tuple[FrameType | None, Any]:
    """The frame of a coroutine or generator, and what it waits for."""
    for kind, awaits in KINDS:
        if hasattr(waiting, awaits):
            awaited = getattr(waiting, awaits)
            if awaited is None and getattr(waiting, f"{kind}_running"):
                # About to go on, it does not tell any more; what it waited for is on its stack.
                referents = gc.get_referents(waiting)
                awaited = next((one for one in reversed(referents) if _waits(one)), None)
            return getattr(waiting, f"{kind}_frame"), awaited
    if type(waiting).__name__ in DRIVERS:
        return None, next(filter(_waits, gc.get_referents(waiting)), None)
    return None, None


def _waits(one: object) -> bool:
    return any(hasattr(one, awaits) for _, awaits in KINDS)


def _identifier(info: str) -> str:
    return info.partition("\x01")[0]


def _is_parked(info: str) -> bool:
    function, _, place = info.partition("\x00")
    file = place.partition("\x00")[0].replace("\\", "/")
    return any(function == name and file.endswith(end) for name, end in PARKED)
