"""Connection pools and commands of redis-py, sync and async.

Its own metrics count connections up and down, and drift; what is told here is kept by connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any
from weakref import ref

from redis import Redis, RedisCluster
from redis import asyncio as aio
from redis.asyncio.client import Pipeline as AioPipeline
from redis.asyncio.cluster import ClusterPipeline as AioClusterPipeline
from redis.asyncio.connection import AbstractConnection as AioConnection
from redis.client import Pipeline
from redis.cluster import ClusterPipeline
from redis.connection import AbstractConnection, BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as NoConnection

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._operations import NAMES, Operations
from ._pools import ACQUIRING, Account, Lease, Pools
from ._replies import OBSERVERS

__all__ = ["RedisProbe", "probe"]

COMPONENT = "probes.redis"

POOLS = (ConnectionPool, aio.ConnectionPool)
BLOCKING = (BlockingConnectionPool, aio.BlockingConnectionPool)
CLIENTS = (Redis, aio.Redis)
CLUSTERS = (RedisCluster, aio.RedisCluster)

UNLIMITED = 2**31
"""The most connections of a pool that was given no limit, before redis-py 8."""

COMMAND = re.compile(r"[A-Z][A-Z0-9_.]{0,31}")
"""What may become a label; whatever else a command begins with is ``_OTHER``."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return RedisProbe(kit)


class Cluster:
    """A client of a cluster. Of its connections, each node has some."""

    __slots__ = ("client", "given", "variable")

    def __init__(self, client: ref[Any]) -> None:
        self.client = client
        self.given = self.variable = ""


class Opening:
    """A connection that is being opened, for a lease and in the time of a request."""

    __slots__ = ("began", "exchange", "lease")

    def __init__(self, lease: Lease, exchange: Exchange | None) -> None:
        self.lease = lease
        self.exchange = exchange
        self.began = perf_counter()


PIPELINING: ContextVar[bool] = ContextVar("fastobs_redis_pipelining", default=False)
"""Whether a pipeline is under way. It may send its commands one by one, and tells of them itself."""


class RedisProbe(Pools):
    """The pools family, for redis-py.

    A pool has every connection connected that it hands out, which ends the wait for it. What is
    forgotten stays in use: its pool keeps it, and its place, for ever. With the pool it goes.
    """

    component = COMPONENT
    # A blocking pool has no error of its own for it.
    timeout = NoConnection

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._known = {
            catalogue.POOL_WAIT,
            catalogue.POOL_CREATE,
            catalogue.POOL_USE,
            catalogue.POOL_TIMEOUTS,
        }
        self._commands = Commands(kit.meters)
        self._clusters: dict[int, Cluster] = {}

    @property
    def kinds(self) -> tuple[type, ...]:
        return (*POOLS, *CLIENTS, *CLUSTERS)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - who blocks or subscribes holds one for good
        wrap = self._hooks.wrap
        for kind in (ConnectionPool, BlockingConnectionPool):
            wrap(kind, "get_connection", self._around_acquire)
            wrap(kind, "release", self._around_release)
        for aio_kind in (aio.ConnectionPool, aio.BlockingConnectionPool):
            wrap(aio_kind, "get_connection", self._around_async_acquire)
            wrap(aio_kind, "release", self._around_release)
        wrap(AbstractConnection, "connect", self._around_connect)
        wrap(AioConnection, "connect", self._around_async_connect)
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

    def watch(self, obj: Any, name: str | None) -> bool:
        if isinstance(obj, CLUSTERS):
            cluster = self._cluster(obj)
            cluster.given = name or cluster.given
            return True
        return super().watch(obj.connection_pool if isinstance(obj, CLIENTS) else obj, name)

    def found(self, obj: Any, name: str) -> None:
        if isinstance(obj, CLUSTERS):
            cluster = self._cluster(obj)
            cluster.variable = cluster.variable or name
            return
        super().found(obj.connection_pool if isinstance(obj, CLIENTS) else obj, name)

    def read(self) -> Iterator[Reading]:
        self._name_nodes()
        yield from super().read()

    def status(self) -> Iterator[tuple[str, str]]:
        self._name_nodes()
        yield from super().status()

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None and _free(pool) is None:
                yield (
                    account.name or account.wanted,
                    "its idle connections are unknown: it keeps them in a way of its own.",
                )
        for cluster in list(self._clusters.values()):
            if isinstance(cluster.client(), aio.RedisCluster):
                yield (
                    cluster.given or cluster.variable or "redis cluster",
                    "its commands are timed, its connections cannot be watched: it has no pools.",
                )

    def _open_account(self, pool: Any) -> Account:
        options = pool.connection_kwargs
        own = str(options.get("client_name") or "")
        there = ref(pool, self._close_account(id(pool)))
        account = Account(there, self.kit.meters, described=_described(options), own=own)
        account.blocks = isinstance(pool, BLOCKING)
        return account

    def _what(self, pool: Any) -> str:
        most = pool.max_connections
        size = f"at most {most} connections" if most < UNLIMITED else "no limit"
        return f"Redis {type(pool).__name__}, {size}"

    def _shown(self, pool: Any, out: list[Lease]) -> bool:  # noqa: ARG002 - all are
        return True

    def _readings(self, account: Account, pool: Any, out: list[Lease]) -> Iterator[Reading]:
        name = account.name
        yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
        yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
        if (free := _free(pool)) is not None:
            # What is lost, or could not be opened, stays among them.
            idle = sum(map(_is_connected, free))
            yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
        if pool.max_connections < UNLIMITED:
            yield Reading(catalogue.POOL_MAX, (name,), pool.max_connections)

    def _ask(self, pool: Any) -> Callable[[], object]:
        kind: Any = Redis if isinstance(pool, ConnectionPool) else aio.Redis
        client = kind(connection_pool=pool)
        if kind is Redis:
            return partial(client.ping)

        async def ask() -> None:
            await client.ping()

        return ask

    def _saturated(self, pool: Any) -> bool:
        out = sum(lease.account.pool() is pool for lease in list(self._out.values()))
        return bool(out >= pool.max_connections)

    # What follows runs within the app's calls: it must not raise.

    def _around_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Of the async one it returns the coroutine.
        def release(pool: Any, connection: Any, *args: Any, **options: Any) -> Any:
            # Before: within the call, the connection may already be somebody else's.
            try:
                self._take_back(connection, pool)
            except Exception as error:
                contain(COMPONENT, error)
            return original(pool, connection, *args, **options)

        return release

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        def connect(connection: Any, *args: Any, **options: Any) -> Any:
            opening = self._opening(connection) if hooks.on else None
            if opening is None:
                return original(connection, *args, **options)
            try:
                result = original(connection, *args, **options)
            except BaseException:
                self._opened(opening, done=False)
                raise
            self._opened(opening, done=True)
            return result

        return connect

    def _around_async_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def connect(connection: Any, *args: Any, **options: Any) -> Any:
            opening = self._opening(connection) if hooks.on else None
            if opening is None:
                return await original(connection, *args, **options)
            try:
                result = await original(connection, *args, **options)
            except BaseException:
                self._opened(opening, done=False)
                raise
            self._opened(opening, done=True)
            return result

        return connect

    def _around_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands, hooks = self._commands, self._hooks

        def execute_command(client: Any, *args: Any, **options: Any) -> Any:
            begun = commands.begin() if hooks.on else None
            try:
                reply = original(client, *args, **options)
            except BaseException as error:
                commands.failed(begun, args, error)
                raise
            commands.replied(begun, args, reply)
            return reply

        return execute_command

    def _around_async_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands, hooks = self._commands, self._hooks

        async def execute_command(client: Any, *args: Any, **options: Any) -> Any:
            begun = commands.begin() if hooks.on else None
            try:
                reply = await original(client, *args, **options)
            except BaseException as error:
                commands.failed(begun, args, error)
                raise
            commands.replied(begun, args, reply)
            return reply

        return execute_command

    def _around_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands, hooks = self._commands, self._hooks

        def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            # Afterwards it has a new, empty list. One without commands sends nothing.
            stack = _collected(pipeline)
            begun = commands.begin() if stack and hooks.on else None
            outer = PIPELINING.get()
            PIPELINING.set(True)
            try:
                replies = original(pipeline, *args, **options)
            except BaseException as error:
                PIPELINING.set(outer)
                commands.pipeline(begun, stack, error, failed=True)
                raise
            PIPELINING.set(outer)
            commands.pipeline(begun, stack, replies)
            return replies

        return execute

    def _around_async_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands, hooks = self._commands, self._hooks

        async def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            stack = _collected(pipeline)
            begun = commands.begin() if stack and hooks.on else None
            outer = PIPELINING.get()
            PIPELINING.set(True)
            try:
                replies = await original(pipeline, *args, **options)
            except BaseException as error:
                PIPELINING.set(outer)
                commands.pipeline(begun, stack, error, failed=True)
                raise
            PIPELINING.set(outer)
            commands.pipeline(begun, stack, replies)
            return replies

        return execute

    def _got(self, lease: Lease, connection: Any) -> None:
        try:
            now = lease.since
            if lease.waits:
                account = lease.account
                account.waiting.discard(lease)
                now = perf_counter()
                # A connection class that connects in a way of its own gives no waits: they could not
                # be told from the time that it takes.
                if lease.reached and account.wait is not None:
                    account.wait.observe(now - lease.since)
            self._end(lease, now)
            if self._hooks.on:
                self._hand_out(lease, connection, now)
        except Exception as error:
            contain(COMPONENT, error)

    def _opening(self, connection: Any) -> Opening | None:
        try:
            lease = ACQUIRING.get()
            if lease is not None:
                if lease.ended:
                    lease = None
                else:
                    lease.reached = True
            # As nearly always. To ask a sync one for what it has, takes a call or two.
            if getattr(connection, "_sock", None) is not None or _is_connected(connection):
                return None
            if lease is not None and lease.waits:
                self._waited(lease)
            held = lease or self._out.get(id(connection))
            if held is None:
                return None
            # One that is out was lost, and is opened again for a command.
            opening = Opening(held, CURRENT.get() if lease is None else lease.exchange)
            enter(opening.exchange, "cache", opening.began)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return opening

    def _opened(self, opening: Opening, *, done: bool) -> None:
        try:
            now = perf_counter()
            leave(opening.exchange, "cache", now)
            lease = opening.lease
            if not lease.ended:
                lease.since = now
            if done:
                lease.account.opened(now - opening.began)
        except Exception as error:
            contain(COMPONENT, error)

    def _cluster(self, client: Any) -> Cluster:
        with self._lock:
            key = id(client)
            if (cluster := self._clusters.get(key)) is None:
                gone = ref(client, lambda _: self._clusters.pop(key, None))
                cluster = self._clusters[key] = Cluster(gone)
            return cluster

    def _name_nodes(self) -> None:
        """The pools of a cluster's nodes, which come and go, are called after both."""
        for cluster in list(self._clusters.values()):
            client = cluster.client()
            name = cluster.given or cluster.variable
            if name and isinstance(client, RedisCluster):
                nodes: list[Any] = client.get_nodes()  # type: ignore[no-untyped-call]
                for node in nodes:
                    if node.redis_connection is not None:
                        account = self._account(node.redis_connection.connection_pool)
                        self._give(account, f"{name} {node.host}:{node.port}")


Begun = tuple[Exchange | None, float, float]
"""For whom a command or a pipeline was sent, when, and what had been waited for connections by then."""


class Commands:
    """How long commands take, by name. Waiting for a connection is not their time."""

    def __init__(self, meters: Meters) -> None:
        self._operations = Operations(meters, "redis", COMMAND)
        # By what the app says for a command, as long as that is few words.
        self._known: dict[Any, tuple[str, Histogram]] = {}

    def begin(self) -> Begun | None:
        """A command or a pipeline is sent."""
        try:
            exchange = CURRENT.get()
            lease = ACQUIRING.get()
            now = perf_counter()
            if exchange is not None:
                enter(exchange, "cache", now)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return exchange, now, 0.0 if lease is None else lease.waited

    def replied(self, begun: Begun | None, args: Any, reply: Any) -> None:
        """A command has its reply."""
        if begun is None:
            return
        try:
            exchange, began, waited = begun
            now = perf_counter()
            if exchange is not None:
                leave(exchange, "cache", now)
            took = now - began
            if (lease := ACQUIRING.get()) is not None:
                took -= lease.waited - waited
            try:
                name, row = self._known[args[0]]
            except (LookupError, TypeError):
                name, row = self._learn(args)
            row.observe(took)
            if OBSERVERS and not PIPELINING.get():
                for observer in OBSERVERS:
                    observer(name, args, reply, took)
        except Exception as error:
            contain(COMPONENT, error)

    def failed(self, begun: Begun | None, args: Any, error: BaseException) -> None:
        """A command has an error instead."""
        if begun is None:
            return
        try:
            took = self._took(begun)
            name = _name_of(args)
            self._operations.row(name, qualified_name(type(error))).observe(took)
            if not PIPELINING.get():
                for observer in OBSERVERS:
                    observer(name, args, error, took)
        except Exception as ours:
            contain(COMPONENT, ours)

    def pipeline(
        self, begun: Begun | None, stack: Any, replies: Any, *, failed: bool = False
    ) -> None:
        """A pipeline has its replies, or an error."""
        if begun is None:
            return
        try:
            took = self._took(begun)
            error = qualified_name(type(replies)) if failed else ""
            self._operations.row("PIPELINE", error).observe(took)
            if OBSERVERS and not PIPELINING.get():
                if failed:
                    replies = [replies] * len(stack)
                for command, reply in zip(stack, replies, strict=False):
                    # Those of a cluster are objects, the others are pairs.
                    args = command[0] if isinstance(command, tuple) else command.args
                    for observer in OBSERVERS:
                        observer(_name_of(args), args, reply, took)
        except Exception as ours:
            contain(COMPONENT, ours)

    def _took(self, begun: Begun) -> float:
        exchange, began, waited = begun
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


def _free(pool: Any) -> list[Any] | None:
    """Connections that nobody uses; None where the pool does not tell.

    `get_connection_count` is public, but waits for a lock that a caller may hold for long.
    """
    if isinstance(pool, BlockingConnectionPool):
        free = getattr(pool.pool, "queue", None)
    else:
        free = getattr(pool, "_available_connections", None)
    return None if free is None else [connection for connection in list(free) if connection]


def _is_connected(connection: Any) -> bool:
    """Whether it is open. A sync one has no public name for that before redis-py 8."""
    connected: bool | None = getattr(connection, "is_connected", None)
    if connected is not None:
        return connected
    # With a cache on the client's side, another one is around it.
    return getattr(connection, "_conn", connection)._sock is not None


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


def _described(options: Any) -> str:
    """``redis:host:port/database``, never with credentials."""
    database = options.get("db") or 0
    if path := options.get("path"):
        # Of a socket only its name: where it lies says nothing, and differs between machines.
        return f"redis:{str(path).rpartition('/')[2]}/{database}"
    return f"redis:{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"
