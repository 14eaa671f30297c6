"""Times of redis-py's commands and pipelines, sync and async."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from redis import Redis, RedisCluster
from redis import asyncio as aio
from redis.asyncio.client import Pipeline as AioPipeline
from redis.asyncio.cluster import ClusterPipeline as AioClusterPipeline
from redis.client import Pipeline
from redis.cluster import ClusterPipeline

from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._parts import enter, leave
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram

from ._hooks import Hooks
from ._operations import NAMES, Operations
from ._pools import ACQUIRING
from ._replies import OBSERVERS

__all__ = ["Commands"]

COMPONENT = "probes.redis"

COMMAND = re.compile(r"[A-Z][A-Z0-9_.]{0,31}")
"""What may become a label; whatever else a command begins with is ``_OTHER``."""

PIPELINING: ContextVar[bool] = ContextVar("fastobs_redis_pipelining", default=False)
"""Whether a pipeline is under way. It may send its commands one by one, and tells of them itself."""

Begun = tuple[Exchange | None, float, float]
"""For whom a pipeline was sent, when, and what had been waited for connections by then."""


class Commands:
    """How long commands take, by name. Waiting for a connection is not their time."""

    def __init__(self, meters: Meters, hooks: Hooks) -> None:
        self._hooks = hooks
        self._operations = Operations(meters, "redis", COMMAND)
        # By what the app says for a command, as long as that is few words.
        self._known: dict[Any, tuple[str, Histogram]] = {}

    def attach(self) -> None:
        wrap = self._hooks.wrap
        wrap(Redis, "execute_command", self._around_command)
        wrap(RedisCluster, "execute_command", self._around_command)
        wrap(Pipeline, "immediate_execute_command", self._around_command)
        wrap(aio.Redis, "execute_command", self._around_async_command)
        wrap(aio.RedisCluster, "execute_command", self._around_async_command)
        wrap(AioPipeline, "immediate_execute_command", self._around_async_command)
        wrap(Pipeline, "execute", self._around_pipeline)
        wrap(ClusterPipeline, "execute", self._around_pipeline)
        wrap(AioPipeline, "execute", self._around_async_pipeline)
        wrap(AioClusterPipeline, "execute", self._around_async_pipeline)

    # What follows runs within the app's calls: it must not raise.

    def _around_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, replied, failed = self._hooks, self.replied, self.failed

        # The client and the command: to take them apart and put them together takes 0.2 us.
        def execute_command(*sent: Any, **options: Any) -> Any:
            if not hooks.on:
                return original(*sent, **options)
            exchange, lease, began = CURRENT.get(), ACQUIRING.get(), perf_counter()
            waited = 0.0 if lease is None else lease.waited
            if exchange is not None:
                try:
                    enter(exchange, "cache", began)
                except Exception as error:
                    contain(COMPONENT, error)
            try:
                reply = original(*sent, **options)
            except BaseException as error:
                failed(exchange, began, waited, sent, error)
                raise
            replied(exchange, began, waited, sent, reply)
            return reply

        return execute_command

    def _around_async_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, replied, failed = self._hooks, self.replied, self.failed

        async def execute_command(*sent: Any, **options: Any) -> Any:
            if not hooks.on:
                return await original(*sent, **options)
            exchange, lease, began = CURRENT.get(), ACQUIRING.get(), perf_counter()
            waited = 0.0 if lease is None else lease.waited
            if exchange is not None:
                try:
                    enter(exchange, "cache", began)
                except Exception as error:
                    contain(COMPONENT, error)
            try:
                reply = await original(*sent, **options)
            except BaseException as error:
                failed(exchange, began, waited, sent, error)
                raise
            replied(exchange, began, waited, sent, reply)
            return reply

        return execute_command

    def _around_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            # Afterwards it has a new, empty list. One without commands sends nothing.
            stack = _collected(pipeline)
            begun = self.begin() if stack and hooks.on else None
            outer = PIPELINING.get()
            PIPELINING.set(True)
            try:
                replies = original(pipeline, *args, **options)
            except BaseException as error:
                PIPELINING.set(outer)
                self.pipeline(begun, stack, error, failed=True)
                raise
            PIPELINING.set(outer)
            self.pipeline(begun, stack, replies)
            return replies

        return execute

    def _around_async_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            stack = _collected(pipeline)
            begun = self.begin() if stack and hooks.on else None
            outer = PIPELINING.get()
            PIPELINING.set(True)
            try:
                replies = await original(pipeline, *args, **options)
            except BaseException as error:
                PIPELINING.set(outer)
                self.pipeline(begun, stack, error, failed=True)
                raise
            PIPELINING.set(outer)
            self.pipeline(begun, stack, replies)
            return replies

        return execute

    def begin(self) -> Begun:
        """A pipeline is sent."""
        exchange, lease, began = CURRENT.get(), ACQUIRING.get(), perf_counter()
        try:
            enter(exchange, "cache", began)
        except Exception as error:
            contain(COMPONENT, error)
        return exchange, began, 0.0 if lease is None else lease.waited

    def replied(
        self, exchange: Exchange | None, began: float, waited: float, sent: Any, reply: Any
    ) -> None:
        """A command has its reply.

        Args:
            exchange: For whom it was sent.
            began: When.
            waited: What had been waited for connections by then.
            sent: The client and the command.
            reply: What the app gets.
        """
        try:
            now = perf_counter()
            if exchange is not None:
                leave(exchange, "cache", now)
            took = now - began
            if (lease := ACQUIRING.get()) is not None:
                took -= lease.waited - waited
            try:
                name, row = self._known[sent[1]]
            except (LookupError, TypeError):
                name, row = self._learn(sent[1:])
            # `observe`, without the call.
            bounds = row.bounds
            bucket = 0 if took <= bounds[0] else bisect_left(bounds, took)
            cells, at = row.cells, row.at
            cells[at + bucket] += 1.0
            cells[at + row.last] += took
            observer = OBSERVERS.get(name)
            if observer is not None and not PIPELINING.get():
                observer(sent[1:], reply, took)
        except Exception as error:
            contain(COMPONENT, error)

    def failed(
        self,
        exchange: Exchange | None,
        began: float,
        waited: float,
        sent: Any,
        error: BaseException,
    ) -> None:
        """A command has an error instead."""
        try:
            args = sent[1:]
            took = self._took(exchange, began, waited)
            name = _name_of(args)
            self._operations.row(name, qualified_name(type(error))).observe(took)
            observer = OBSERVERS.get(name)
            if observer is not None and not PIPELINING.get():
                observer(args, error, took)
        except Exception as ours:
            contain(COMPONENT, ours)

    def pipeline(
        self, begun: Begun | None, stack: Any, replies: Any, *, failed: bool = False
    ) -> None:
        """A pipeline has its replies, or an error."""
        if begun is None:
            return
        try:
            took = self._took(*begun)
            error = qualified_name(type(replies)) if failed else ""
            self._operations.row("PIPELINE", error).observe(took)
            if OBSERVERS and not PIPELINING.get():
                if failed:
                    replies = [replies] * len(stack)
                for command, reply in zip(stack, replies, strict=False):
                    # Those of a cluster are objects, the others are pairs.
                    args = command[0] if isinstance(command, tuple) else command.args
                    if (observer := OBSERVERS.get(_name_of(args))) is not None:
                        observer(args, reply, took)
        except Exception as ours:
            contain(COMPONENT, ours)

    def _took(self, exchange: Exchange | None, began: float, waited: float) -> float:
        now = perf_counter()
        if exchange is not None:
            leave(exchange, "cache", now)
        lease = ACQUIRING.get()
        return now - began if lease is None else now - began - (lease.waited - waited)

    def _learn(self, args: Any) -> tuple[str, Histogram]:
        name = _name_of(args)
        known = name, self._operations.row(name)
        word = args[0] if args else None
        if type(word) is str and len(self._known) < NAMES:
            self._known[word] = known
        return known


def _name_of(args: Any) -> str:
    """``GET``; of ``CONFIG GET`` the first word, since a key may follow one just as well."""
    word = args[0] if args else ""
    if isinstance(word, bytes):
        word = word.decode("ascii", "replace")
    elif not isinstance(word, str):
        return ""
    if " " in word:
        word = word.split(None, 1)[0]
    return word if word.isupper() else word.upper()


def _collected(pipeline: Any) -> Any:
    """The commands that a pipeline has collected; empty where it does not tell."""
    try:
        return _stack_of(pipeline)
    except Exception as error:
        contain(COMPONENT, error)
        return ()


def _stack_of(pipeline: Any) -> Any:
    # A cluster's has no public name for them, and its `command_stack` stays empty.
    strategy = getattr(pipeline, "_execution_strategy", None)
    if strategy is None:
        stack = getattr(pipeline, "command_stack", ())
        # An asyncio cluster had a private name for them before it had strategies.
        return stack or tuple(getattr(pipeline, "_command_stack", ()))
    # It may be emptied in place.
    return list(getattr(strategy, "_command_queue", ()))
