"""Connection pools and commands of redis-py, sync and async.

Its own metrics count connections up and down, and drift; what is told here is kept by connection.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
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
from redis.exceptions import MaxConnectionsError

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks
from ._pools import ages
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

COMMANDS = 200
"""Different commands that become a label each; Redis has some 240 and nobody uses them all."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return RedisProbe(kit)


class Account:
    """One pool, and where it is counted."""

    def __init__(self, pool: Any, meters: Meters, gone: Callable[[Any], object]) -> None:
        self.pool = ref(pool, gone)
        self.name = self.given = self.variable = ""
        self.own = str(pool.connection_kwargs.get("client_name") or "")
        self.described = _described(pool.connection_kwargs)
        self.waiting: dict[int, Acquire] = {}
        self._meters = meters

    @property
    def wanted(self) -> str:
        return self.given or self.own or self.variable or self.described

    def name_it(self, name: str) -> None:
        """From now on everything is counted under this name."""
        meters = self._meters
        self.name = name
        self.wait = meters.histogram(catalogue.POOL_WAIT, name)
        self.create = meters.histogram(catalogue.POOL_CREATE, name)
        self.use = meters.histogram(catalogue.POOL_USE, name)
        self.timeouts = meters.counter(catalogue.POOL_TIMEOUTS, name)


class Cluster:
    """A client of a cluster. Of its connections, each node has some."""

    __slots__ = ("client", "given", "variable")

    def __init__(self, client: ref[Any]) -> None:
        self.client = client
        self.given = self.variable = ""


class Acquire:
    """One call of ``get_connection``: it waits, and then connects what it got if it must."""

    __slots__ = ("account", "before", "began", "blocks", "ended", "exchange", "waits")

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began
        self.before = ACQUIRING.get()
        self.waits = True
        self.ended = self.blocks = False


class Checkout:
    """A connection that is out."""

    __slots__ = ("account", "connection", "exchange", "since")

    connection: ref[Any]

    def __init__(self, acquire: Acquire, since: float) -> None:
        self.account = acquire.account
        self.exchange = acquire.exchange
        self.since = since

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


class Opening:
    """A connection that is being opened."""

    __slots__ = ("account", "began", "exchange")

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began


class Operation:
    """A command or a pipeline that is under way."""

    __slots__ = ("before", "began", "exchange", "waited")

    def __init__(self, exchange: Exchange | None, began: float) -> None:
        self.exchange = exchange
        self.began = began
        self.before = OPERATING.get()
        self.waited = 0.0


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_redis_acquire", default=None)
"""The call of ``get_connection`` that a connection is connected for."""

OPERATING: ContextVar[Operation | None] = ContextVar("fastobs_redis_operation", default=None)
"""The command that a connection is wanted for. Waiting for one is not its time."""


class RedisProbe(Probe):
    """The pools family, for redis-py."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._commands = Commands(kit.meters)
        self._accounts: dict[int, Account] = {}
        self._out: dict[int, Checkout] = {}
        self._clusters: dict[int, Cluster] = {}
        self._lock = threading.RLock()

    @property
    def kinds(self) -> tuple[type, ...]:
        return (*POOLS, *CLIENTS, *CLUSTERS)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        wrap = self._hooks.wrap
        for kind in (ConnectionPool, BlockingConnectionPool):
            wrap(kind, "get_connection", self._around_get)
            wrap(kind, "release", self._around_release)
        for aio_kind in (aio.ConnectionPool, aio.BlockingConnectionPool):
            wrap(aio_kind, "get_connection", self._around_async_get)
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

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
            return False
        if isinstance(obj, CLUSTERS):
            cluster = self._cluster(obj)
            cluster.given = name or cluster.given
        else:
            self._give(self._account(_pool_of(obj)), name)
        return True

    def found(self, obj: Any, name: str) -> None:
        if isinstance(obj, CLUSTERS):
            cluster = self._cluster(obj)
            cluster.variable = cluster.variable or name
            return
        account = self._account(_pool_of(obj))
        account.variable = account.variable or name

    def read(self) -> Iterator[Reading]:
        self._name_nodes()
        checkouts = list(self._out.values())
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None:
                if not account.name:
                    self._name(account)
                mine = [checkout for checkout in checkouts if checkout.account is account]
                yield from _readings(account, pool, mine)

    def status(self) -> Iterator[tuple[str, str]]:
        self._name_nodes()
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None:
                most = pool.max_connections
                size = f"at most {most} connections" if most < UNLIMITED else "no limit"
                yield account.name or account.wanted, f"Redis {type(pool).__name__}, {size}"

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

    # What follows runs within the app's calls: it must not raise.

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_connection(pool: Any, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = original(pool, *args, **options)
            except BaseException as error:
                self._end(acquire, error)
                raise
            self._end(acquire, None, connection)
            return connection

        return get_connection

    def _around_async_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def get_connection(pool: Any, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = await original(pool, *args, **options)
            except BaseException as error:
                self._end(acquire, error)
                raise
            self._end(acquire, None, connection)
            return connection

        return get_connection

    def _around_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Of the async one it returns the coroutine.
        def release(pool: Any, connection: Any) -> Any:
            # Before: within the call, the connection may already be somebody else's.
            self._released(pool, connection)
            return original(pool, connection)

        return release

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(connection: Any) -> Any:
            opening = self._opening(connection)
            try:
                result = original(connection)
            except BaseException:
                self._opened(opening, done=False)
                raise
            self._opened(opening, done=True)
            return result

        return connect

    def _around_async_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def connect(connection: Any) -> Any:
            opening = self._opening(connection)
            try:
                result = await original(connection)
            except BaseException:
                self._opened(opening, done=False)
                raise
            self._opened(opening, done=True)
            return result

        return connect

    def _around_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands = self._commands

        def execute_command(client: Any, *args: Any, **options: Any) -> Any:
            operation = commands.begin() if self._hooks.on else None
            try:
                reply = original(client, *args, **options)
            except BaseException as error:
                commands.command(operation, args, error, failed=True)
                raise
            commands.command(operation, args, reply)
            return reply

        return execute_command

    def _around_async_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands = self._commands

        async def execute_command(client: Any, *args: Any, **options: Any) -> Any:
            operation = commands.begin() if self._hooks.on else None
            try:
                reply = await original(client, *args, **options)
            except BaseException as error:
                commands.command(operation, args, error, failed=True)
                raise
            commands.command(operation, args, reply)
            return reply

        return execute_command

    def _around_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands = self._commands

        def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            # Afterwards it has a new, empty list. One without commands sends nothing.
            stack = _stack_of(pipeline)
            operation = commands.begin() if stack and self._hooks.on else None
            try:
                replies = original(pipeline, *args, **options)
            except BaseException as error:
                commands.pipeline(operation, stack, error, failed=True)
                raise
            commands.pipeline(operation, stack, replies)
            return replies

        return execute

    def _around_async_pipeline(self, original: Callable[..., Any]) -> Callable[..., Any]:
        commands = self._commands

        async def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
            stack = _stack_of(pipeline)
            operation = commands.begin() if stack and self._hooks.on else None
            try:
                replies = await original(pipeline, *args, **options)
            except BaseException as error:
                commands.pipeline(operation, stack, error, failed=True)
                raise
            commands.pipeline(operation, stack, replies)
            return replies

        return execute

    def _begin(self, pool: Any) -> Acquire | None:
        if not self._hooks.on:
            return None
        try:
            account = self._accounts.get(id(pool)) or self._account(pool)
            if not account.name:
                # It may be in a variable that nobody has looked at yet.
                self.kit.look()
                self._name(account)
            now = perf_counter()
            acquire = Acquire(account, CURRENT.get(), now)
            acquire.blocks = isinstance(pool, BLOCKING)
            enter(acquire.exchange, "pool_wait", now)
            ACQUIRING.set(acquire)
            # Last: nothing can fail from here on and leave it waiting for ever.
            account.waiting[id(acquire)] = acquire
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return acquire

    def _end(
        self, acquire: Acquire | None, error: BaseException | None, connection: Any = None
    ) -> None:
        if acquire is None:
            return
        try:
            acquire.ended = True
            acquire.account.waiting.pop(id(acquire), None)
            ACQUIRING.set(acquire.before)
            now = perf_counter()
            if acquire.waits:
                # Nothing was connected. A connection class that does it in a way of its own gives
                # no waits: they could not be told from the time that it takes to connect.
                self._waited(acquire, now, counted=error is not None)
                if acquire.blocks and _is_timeout(error):
                    acquire.account.timeouts.add()
            if error is None and self._hooks.on:
                key = id(connection)
                checkout = Checkout(acquire, now)
                # What is forgotten stays in use: its pool keeps it, and its place, for ever. With the
                # pool it goes.
                checkout.connection = ref(connection, lambda _: self._out.pop(key, None))
                self._out[key] = checkout
        except Exception as ours:
            contain(COMPONENT, ours)

    def _waited(self, acquire: Acquire, now: float, *, counted: bool) -> None:
        acquire.waits = False
        acquire.account.waiting.pop(id(acquire), None)
        leave(acquire.exchange, "pool_wait", now)
        waited = now - acquire.began
        if counted:
            acquire.account.wait.observe(waited)
        if (operation := OPERATING.get()) is not None:
            operation.waited += waited

    def _released(self, pool: Any, connection: Any) -> None:
        try:
            checkout = self._out.get(id(connection))
            # A pool refuses the connections of another one.
            if checkout is not None and checkout.account.pool() is pool:
                del self._out[id(connection)]
                checkout.account.use.observe(perf_counter() - checkout.since)
        except Exception as error:
            contain(COMPONENT, error)

    def _opening(self, connection: Any) -> Opening | None:
        if not self._hooks.on:
            return None
        try:
            acquire = ACQUIRING.get()
            if acquire is not None and acquire.ended:
                acquire = None
            now = perf_counter()
            if acquire is not None and acquire.waits:
                self._waited(acquire, now, counted=True)
            if connection.is_connected:
                return None
            if acquire is not None:
                account, exchange = acquire.account, acquire.exchange
            elif (checkout := self._out.get(id(connection))) is not None:
                # It was lost, and is opened again for a command.
                account, exchange = checkout.account, CURRENT.get()
            else:
                return None
            enter(exchange, "cache", now)
            return Opening(account, exchange, now)
        except Exception as error:
            contain(COMPONENT, error)
            return None

    def _opened(self, opening: Opening | None, *, done: bool) -> None:
        if opening is None:
            return
        try:
            now = perf_counter()
            leave(opening.exchange, "cache", now)
            if done:
                opening.account.create.observe(now - opening.began)
        except Exception as error:
            contain(COMPONENT, error)

    def _give(self, account: Account, name: str | None) -> None:
        if name is not None and name != account.given:
            account.given = name
            if account.name:
                self._name(account)

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

    def _account(self, pool: Any) -> Account:
        with self._lock:
            key = id(pool)
            if (account := self._accounts.get(key)) is None:
                account = Account(pool, self.kit.meters, lambda _: self._accounts.pop(key, None))
                self._accounts[key] = account
            return account

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted))


class Commands:
    """How long commands take, by name."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._rows: dict[tuple[str, str], Histogram] = {}
        # By what the app says for a command, as long as that is few words.
        self._known: dict[str, tuple[str, Histogram]] = {}
        self._names: set[str] = set()

    def begin(self) -> Operation | None:
        """A command or a pipeline is sent."""
        try:
            now = perf_counter()
            operation = Operation(CURRENT.get(), now)
            enter(operation.exchange, "cache", now)
            OPERATING.set(operation)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return operation

    def command(
        self, operation: Operation | None, args: Any, reply: Any, *, failed: bool = False
    ) -> None:
        """A command has its reply, or an error."""
        if operation is None:
            return
        try:
            took = self._ended(operation)
            word = args[0] if args else ""
            known = self._known.get(word) if type(word) is str and not failed else None
            if known is None:
                name = _name_of(args)
                known = name, self._row(name, reply if failed else None)
                if type(word) is str and not failed and len(self._known) < COMMANDS:
                    self._known[word] = known
            name, row = known
            row.observe(took)
            if operation.before is None:
                for observer in OBSERVERS:
                    observer(name, args, reply, took)
        except Exception as error:
            contain(COMPONENT, error)

    def pipeline(
        self, operation: Operation | None, stack: Any, replies: Any, *, failed: bool = False
    ) -> None:
        """A pipeline has its replies, or an error."""
        if operation is None:
            return
        try:
            took = self._ended(operation)
            self._row("PIPELINE", replies if failed else None).observe(took)
            if OBSERVERS and operation.before is None:
                if failed:
                    replies = [replies] * len(stack)
                for command, reply in zip(stack, replies, strict=False):
                    # Those of a cluster are objects, the others are pairs.
                    args = command[0] if isinstance(command, tuple) else command.args
                    for observer in OBSERVERS:
                        observer(_name_of(args), args, reply, took)
        except Exception as error:
            contain(COMPONENT, error)

    def _ended(self, operation: Operation) -> float:
        OPERATING.set(operation.before)
        now = perf_counter()
        leave(operation.exchange, "cache", now)
        return now - operation.began - operation.waited

    def _row(self, name: str, error: Any) -> Histogram:
        kind = "" if error is None else qualified_name(type(error))
        row = self._rows.get((name, kind))
        if row is None:
            label = name if COMMAND.fullmatch(name) else "_OTHER"
            if label not in self._names:
                if len(self._names) < COMMANDS:
                    self._names.add(label)
                else:
                    label = "_OTHER"
            row = self._meters.histogram(catalogue.DB_DURATION, "redis", label, kind)
            if label != "_OTHER":
                self._rows[name, kind] = row
        return row


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


def _is_timeout(error: BaseException | None) -> bool:
    # A blocking pool has no error of its own for it; the other kind of pool has for being full.
    return isinstance(error, NoConnection) and not isinstance(error, MaxConnectionsError)


def _readings(account: Account, pool: Any, out: list[Checkout]) -> Iterator[Reading]:
    name = account.name
    yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
    yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
    if (free := _free(pool)) is not None:
        # What is lost, or could not be opened, stays among them.
        idle = sum(connection.is_connected for connection in free)
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
    if pool.max_connections < UNLIMITED:
        yield Reading(catalogue.POOL_MAX, (name,), pool.max_connections)
    yield from ages(name, out)


def _free(pool: Any) -> list[Any] | None:
    """Connections that nobody uses; None where the pool does not tell.

    `get_connection_count` is public, but waits for a lock that a caller may hold for long.
    """
    if isinstance(pool, BlockingConnectionPool):
        free = getattr(pool.pool, "queue", None)
    else:
        free = getattr(pool, "_available_connections", None)
    return None if free is None else [connection for connection in list(free) if connection]


def _stack_of(pipeline: Any) -> Any:
    """The commands that a pipeline has collected; empty where it does not tell."""
    # A cluster's has no public name for them, and its `command_stack` stays empty.
    strategy = getattr(pipeline, "_execution_strategy", None)
    if strategy is None:
        return getattr(pipeline, "command_stack", ())
    # It may be emptied in place.
    return list(getattr(strategy, "_command_queue", ()))


def _pool_of(obj: Any) -> Any:
    return obj if isinstance(obj, POOLS) else obj.connection_pool


def _described(options: Any) -> str:
    """``redis:host:port/database``, never with credentials."""
    database = options.get("db") or 0
    if path := options.get("path"):
        # Of a socket only its name: where it lies says nothing, and differs between machines.
        return f"redis:{str(path).rpartition('/')[2]}/{database}"
    return f"redis:{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"
