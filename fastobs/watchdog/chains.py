"""What a request does just now, as a stack: what it awaits, runs, or has done in a worker thread."""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import cached_property, lru_cache
from types import AsyncGeneratorType, CodeType, CoroutineType
from typing import Any

from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER

from fastobs._exchange import Exchange
from fastobs._middleware import Middleware
from fastobs._steps import Driven, awaits

from .frames import Line, stack
from .heart import Heart
from .holder import exchange_of, step

__all__ = ["Chains", "View", "awaited"]

MAX_DEPTH = 400
"""Frames of a stack; renderers are recursive."""

MIDDLEWARE = Middleware.__call__.__code__
PASSED_ON = "starlette/middleware/base.py"
"""Tasks that wait here only wait for the task of the next middleware."""
LISTENS = ("listen_for_disconnect", "starlette/responses.py")
"""Where the task of a request waits for its client to leave, while another one sends the response."""
GROUPS = {"_wait", "wait_for", "__aexit__"}
"""The functions of asyncio and of anyio in which a task waits for others."""
CHILDREN = 8
"""Tasks that a request waits for at once and that are told apart; also, how deep."""
KINDS = {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}
OPAQUE = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}


class View:
    """One look at an event loop: where each request is, of those that are asked for.

    Args:
        heart: Of the loop.
        loop: The loop.
        wanted: Which exchanges.
        errand: The code below which a worker thread runs what a request has done there; the local
            variable ``self`` of its frame has the exchange. None if nothing is known of threads.
    """

    def __init__(
        self,
        heart: Heart,
        loop: AbstractEventLoop,
        wanted: Container[Exchange],
        errand: CodeType | None,
    ) -> None:
        current = asyncio.current_task(loop)
        self._current = None if current is None else exchange_of(current)
        self._running = step(heart)
        if current is not asyncio.current_task(loop):
            # It went on meanwhile, and nobody knows whose frames these are.
            self._current, self._running = None, []
        self._tasks: dict[Exchange, list[asyncio.Task[Any]]] = defaultdict(list)
        for task in asyncio.all_tasks(loop):
            exchange = exchange_of(task)
            if exchange is not None and exchange in wanted:
                self._tasks[exchange].append(task)
        self._errand = errand

    def __contains__(self, exchange: Exchange) -> bool:
        """Whether this loop serves it."""
        return exchange in self._tasks

    def runs(self, exchange: Exchange) -> list[str] | None:
        """The stack of its step, if it is the one that the loop runs; from the root."""
        if self._current is not exchange:
            return None
        return [_named(*line) for _, line in reversed(self._running)][:MAX_DEPTH]

    def stacks(self, exchange: Exchange) -> list[list[str]]:
        """What it does, from the root; several if it waits for as many tasks at once."""
        if (running := self.runs(exchange)) is not None:
            return [running]
        tasks = self._tasks[exchange]
        if any(getattr(task.get_coro(), "cr_running", False) for task in tasks):
            # Since the beginning of this look; what a coroutine awaits while it runs is unknown.
            return []
        chains = Chains(tasks, exchange)
        stacks = [[_named(*frame) for frame in chain] for chain in chains]
        if len(stacks) == 1 and (worker := self._in_threads.get(exchange)):
            return [(stacks[0] + worker)[:MAX_DEPTH]]
        return [[*stack[:MAX_DEPTH], AWAIT_FRAME_IDENTIFIER] for stack in stacks]

    @cached_property
    def _in_threads(self) -> dict[Exchange | None, list[str]]:
        """What worker threads run, by whom it is for, from the root."""
        if self._errand is None:
            return {}
        found: dict[Exchange | None, list[str]] = {}
        for thread in sys._current_frames():
            frames = stack(thread)
            for height, (frame, (code, _)) in enumerate(frames):
                if code is self._errand:
                    # A frame that ends with the call, and so does the dict that this makes.
                    exchange = getattr(frame.f_locals.get("self"), "exchange", None)
                    found[exchange] = [_named(*line) for _, line in reversed(frames[:height])]
                    break
        return found


def awaited(task: asyncio.Task[Any]) -> Iterator[Line]:
    """The frames that are suspended in a task, the outermost first."""
    waiting: Any = task.get_coro()
    for _ in range(MAX_DEPTH):
        if waiting is None:
            return
        for kind, inner in KINDS.items():
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                if frame.f_code is not awaits.__code__:
                    yield frame.f_code, frame.f_lineno
                waiting = getattr(waiting, inner, None)
                break
        else:
            waiting = _inside(waiting)


def _settled(task: asyncio.Task[Any]) -> list[Line]:
    """What a task awaits; nothing if it went on while that was read."""
    before = getattr(task, "_fut_waiter", None)
    chain = list(awaited(task))
    return chain if getattr(task, "_fut_waiter", None) is before else []


def _inside(waiting: Any) -> Any:
    """What has frames, of what hides it: a step of an async generator, an ``__await__``, our driver."""
    if isinstance(waiting, Driven):
        return waiting.coroutine
    if type(waiting).__name__ not in OPAQUE:
        return None
    found = gc.get_referents(waiting)
    return next(
        (each for each in found if isinstance(each, (AsyncGeneratorType, CoroutineType))), None
    )


class Chains:
    """Where the tasks of one request wait."""

    def __init__(self, tasks: Iterable[asyncio.Task[Any]], exchange: Exchange) -> None:
        endpoint = getattr(exchange.scope.get("endpoint"), "__code__", None)
        self._chains = {task: chain for task in tasks if (chain := _settled(task))}
        self._ours = {task for task, chain in self._chains.items() if _is_ours(chain)}
        self._main = max(self._chains, key=lambda task: self._rank(task, endpoint), default=None)

    def __iter__(self) -> Iterator[list[Line]]:
        """The chain of its endpoint; before and behind that, of the innermost middleware.

        If that waits for other tasks, their chains follow on it, each for itself.
        """
        return iter([] if self._main is None else self._from(self._main, CHILDREN))

    def _rank(self, task: asyncio.Task[Any], endpoint: object) -> tuple[bool, bool, bool, int]:
        codes = [code for code, _ in self._chains[task]]
        passed_on = any(
            code.co_name == "call_next" and code.co_filename.endswith(PASSED_ON)
            for code in codes[-6:]
        )
        return endpoint in codes, task in self._ours, not passed_on, len(codes)

    def _from(self, task: asyncio.Task[Any], depth: int) -> list[list[Line]]:
        chain = self._chains[task]
        behind = [each for each in self._behind(task) if each in self._chains and each is not task]
        if not behind or not depth:
            return [chain]
        stem, inner = chain[: _listening(chain)], list[list[Line]]()
        for each in behind:
            # Each has one at least. Tasks that share what they wait for would be too many to walk.
            inner += self._from(each, depth - 1)
            if len(inner) >= CHILDREN:
                break
        return [stem + found for found in inner[:CHILDREN]]

    def _behind(self, task: asyncio.Task[Any]) -> Iterable[asyncio.Task[Any]]:
        """The tasks that a task waits for."""
        # asyncio has no public name for it; without it, these are in no stack.
        waiter = getattr(task, "_fut_waiter", None)
        if isinstance(waiter, asyncio.Task):
            return [waiter]
        if (gathered := getattr(waiter, "_children", None)) is not None:
            return [each for each in gathered if not each.done()]
        chain = self._chains[task]
        last, _ = chain[-1]
        groups = last.co_name in GROUPS and "asyncio" in last.co_filename
        if task is self._main and (groups or _listening(chain) is not None):
            return [each for each in self._chains if each not in self._ours]
        return []


def _listening(chain: list[Line]) -> int | None:
    """Where in the chain of a streaming response the waiting for its client begins, if it does."""
    name, file = LISTENS
    for at, (code, _) in enumerate(chain):
        if code.co_name == name and code.co_filename.endswith(file):
            return at
    return None


def _is_ours(chain: list[Line]) -> bool:
    """Whether the server or a middleware began the task, and not the endpoint."""
    # Below the middleware's function there may be one of anyio's.
    return any(code.co_filename.endswith(PASSED_ON) for code, _ in chain[:2]) or any(
        code is MIDDLEWARE for code, _ in chain
    )


@lru_cache(maxsize=4096)
def _named(code: CodeType, line: int | None) -> str:
    """A frame as pyinstrument writes it."""
    function = code.co_qualname.rpartition("<locals>.")[2]
    return f"{function}\x00{code.co_filename}\x00{code.co_firstlineno}\x01l{line or 0}"
