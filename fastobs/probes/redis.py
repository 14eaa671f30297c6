"""Connection pools and commands of redis-py, sync and async.

Its own metrics count connections up and down, and drift; what is told here is kept by connection.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from functools import partial
from time import perf_counter
from types import CodeType, FrameType
from typing import Any
from weakref import ref

from redis import Redis, RedisCluster
from redis import asyncio as aio
from redis.asyncio.connection import AbstractConnection as AioConnection
from redis.asyncio.sentinel import SentinelManagedConnection as AioManagedConnection
from redis.connection import AbstractConnection, BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as NoConnection
from redis.sentinel import SentinelManagedConnection

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._commands import Commands
from ._held import Unseen
from ._pools import ACQUIRING, Account, Lease, Pools

__all__ = ["RedisProbe", "probe"]

COMPONENT = "probes.redis"

POOLS = (ConnectionPool, aio.ConnectionPool)
BLOCKING = (BlockingConnectionPool, aio.BlockingConnectionPool)
CLIENTS = (Redis, aio.Redis)
CLUSTERS = (RedisCluster, aio.RedisCluster)

UNLIMITED = 2**31
"""The most connections of a pool that was given no limit, before redis-py 8."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return RedisProbe(kit)


class Cluster:
    """A client of a cluster. Of its connections, each node has some."""

    __slots__ = ("client", "given", "variable")

    def __init__(self, client: ref[Any]) -> None:
        self.client = client
        self.given = self.variable = ""


class PoolAccount(Account):
    """An account of a pool of redis-py.

    Attributes:
        plain: Whether a call for a connection needs no lease: nobody waits, and what opens a connection
            finds the call on the stack. What it takes to have one is then a part of the command.
    """

    plain = False

    def name_it(self, name: str, known: Collection[catalogue.Metric]) -> None:
        super().name_it(name, known)
        self.direct = _is_direct(self.pool())
        # Before, there is nowhere to count.
        self.plain = self.direct and not self.blocks


Lent = tuple[PoolAccount, Exchange | None, float]
"""A connection of a plain pool that is out: for whom, and since when."""


class Opening:
    """A connection that is being opened, in the time of a request.

    Attributes:
        account: Of its pool.
        lease: For whom; None if it was lost while it was out, and is opened again for a command.
    """

    __slots__ = ("account", "began", "exchange", "lease")

    def __init__(self, account: Account, exchange: Exchange | None, lease: Lease | None) -> None:
        self.account = account
        self.exchange = exchange
        self.lease = lease
        self.began = perf_counter()


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
        self._commands = Commands(kit.meters, self._hooks)
        self._clusters: dict[int, Cluster] = {}
        # Of plain pools: what is out, by the connection's id; and for whom one was opened, by the frame
        # of the call for it, until that is over.
        self._lent: dict[int, Lent] = {}
        self._opened_in: dict[FrameType, Lease] = {}
        # By these the frames of the hooks are known.
        self._plain_calls: set[CodeType] = set()
        self._other_calls: set[CodeType] = set()

    @property
    def kinds(self) -> tuple[type, ...]:
        return (*POOLS, *CLIENTS, *CLUSTERS)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - who blocks or subscribes holds one for good
        wrap = self._hooks.wrap
        wrap(ConnectionPool, "get_connection", self._around_plain)
        wrap(BlockingConnectionPool, "get_connection", self._around_acquire)
        wrap(aio.ConnectionPool, "get_connection", self._around_async_plain)
        wrap(aio.BlockingConnectionPool, "get_connection", self._around_async_acquire)
        for kind in (*POOLS, *BLOCKING):
            wrap(kind, "release", self._around_release)
        wrap(AbstractConnection, "connect", self._around_connect)
        wrap(AioConnection, "connect", self._around_async_connect)
        for managed, around in (
            (SentinelManagedConnection, self._around_connect),
            (AioManagedConnection, self._around_async_connect),
        ):
            wrap(managed, "connect", around if _connects_itself(managed) else _around_reaching)
        self._commands.attach()
        self._take_stock()

    def detach(self) -> None:
        super().detach()
        self._lent.clear()

    def begin_anew(self) -> None:
        super().begin_anew()
        self._lent.clear()
        self._opened_in.clear()
        self._take_stock()

    def _take_stock(self) -> None:
        """Whatever is out now was not seen to be taken."""
        for account in list(self._accounts.values()):
            account.unseen = Unseen(_taken(account.pool()))

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
        account = PoolAccount(there, self.kit.meters, described=_described(pool), own=own)
        account.blocks = isinstance(pool, BLOCKING)
        account.unseen = Unseen(_taken(pool))
        return account

    def _what(self, pool: Any) -> str:
        most = pool.max_connections
        size = f"at most {most} connections" if most < UNLIMITED else "no limit"
        return f"Redis {type(pool).__name__}, {size}"

    def _shown(self, pool: Any, out: list[Lease]) -> bool:  # noqa: ARG002 - all are
        return True

    def _readings(self, account: Account, pool: Any, out: list[Lease]) -> Iterator[Reading]:
        name = account.name
        unseen = account.unseen.left(_taken(pool) - len(out))
        yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out) + unseen)
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
        out = sum(lease.account.pool() is pool for lease in self._leases())
        return bool(out >= pool.max_connections)

    def _leases(self) -> list[Lease]:
        lent = list(self._lent.values())
        return super()._leases() + [
            Lease(account, exchange, None, since) for account, exchange, since in lent
        ]

    def _gone(self, key: int) -> None:
        self._lent.pop(key, None)
        super()._gone(key)

    # What follows runs within the app's calls: it must not raise.

    def _around_plain(self, original: Callable[..., Any]) -> Callable[..., Any]:
        accounts: dict[int, Any] = self._accounts
        hooks, handed, refused = self._hooks, self._handed, self._refused
        others = self._around_acquire(original)

        def get_connection(pool: Any, *args: Any, **options: Any) -> Any:
            account = accounts.get(id(pool))
            if account is None or not account.plain or not hooks.on:
                return others(pool, *args, **options)
            # `_lease_in` finds both by their names.
            began = perf_counter()
            try:
                # Since 5.3 redis-py says nothing more, and to hand on what is not there takes 0.1 us.
                connection = original(pool, *args, **options) if args or options else original(pool)
            except BaseException:
                refused(account, began)
                raise
            handed(account, began, connection)
            return connection

        self._plain_calls.add(get_connection.__code__)
        return get_connection

    def _around_async_plain(self, original: Callable[..., Any]) -> Callable[..., Any]:
        accounts: dict[int, Any] = self._accounts
        hooks, handed, refused = self._hooks, self._handed, self._refused
        others = self._around_async_acquire(original)

        async def get_connection(pool: Any, *args: Any, **options: Any) -> Any:
            account = accounts.get(id(pool))
            if account is None or not account.plain or not hooks.on:
                return await others(pool, *args, **options)
            began = perf_counter()
            try:
                connection = await (
                    original(pool, *args, **options) if args or options else original(pool)
                )
            except BaseException:
                refused(account, began)
                raise
            handed(account, began, connection)
            return connection

        self._plain_calls.add(get_connection.__code__)
        return get_connection

    def _around_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hook = super()._around_acquire(original)
        self._other_calls.add(hook.__code__)
        return hook

    def _around_async_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hook = super()._around_async_acquire(original)
        self._other_calls.add(hook.__code__)
        return hook

    def _around_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        lent = self._lent

        # Of the async one it returns the coroutine.
        def release(pool: Any, connection: Any, *args: Any, **options: Any) -> Any:
            # Before: within the call, the connection may already be somebody else's.
            try:
                key = id(connection)
                if key not in lent:
                    self._take_back(connection, pool)
                else:
                    account, _, since = lent[key]
                    # Another pool refuses it.
                    if account.pool() is pool:
                        del lent[key]
                        if (use := account.use) is not None:
                            held = perf_counter() - since
                            # `observe`, without the call.
                            bounds = use.bounds
                            bucket = 0 if held <= bounds[0] else bisect_left(bounds, held)
                            cells, at = use.cells, use.at
                            cells[at + bucket] += 1.0
                            cells[at + use.last] += held
            except Exception as error:
                contain(COMPONENT, error)
            if args or options:
                return original(pool, connection, *args, **options)
            return original(pool, connection)

        return release

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, opening, opened = self._hooks, self._opening, self._opened

        def connect(connection: Any, *args: Any, **options: Any) -> Any:
            # Pools have every connection connected that they hand out; nearly always it is already. Where
            # that is hidden, `opening` asks in other ways, which take a call or two.
            there, lease = getattr(connection, "_sock", None) is not None, ACQUIRING.get()
            told = lease is None or lease.ended or lease.account.direct
            begun = None if (there and told) or not hooks.on else opening(connection)
            if begun is None:
                if args or options:
                    return original(connection, *args, **options)
                return original(connection)
            try:
                result = original(connection, *args, **options)
            except BaseException:
                opened(begun, done=False)
                raise
            opened(begun, done=True)
            return result

        return connect

    def _around_async_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, opening, opened = self._hooks, self._opening, self._opened

        async def connecting(begun: Opening, connection: Any, *args: Any, **options: Any) -> Any:
            try:
                result = await original(connection, *args, **options)
            except BaseException:
                opened(begun, done=False)
                raise
            opened(begun, done=True)
            return result

        # It returns a coroutine: if there is nothing to be told, that of the library.
        def connect(connection: Any, *args: Any, **options: Any) -> Any:
            there, lease = getattr(connection, "_reader", None) is not None, ACQUIRING.get()
            told = lease is None or lease.ended or lease.account.direct
            begun = None if (there and told) or not hooks.on else opening(connection)
            if begun is None:
                if args or options:
                    return original(connection, *args, **options)
                return original(connection)
            return connecting(begun, connection, *args, **options)

        return connect

    def _got(self, lease: Lease, connection: Any) -> None:
        try:
            now = lease.since
            if lease.waits:
                account = lease.account
                account.waiting.discard(lease)
                now = perf_counter()
                # A connection class that connects in a way of its own gives no waits: they could not
                # be told from the time that it takes.
                if (lease.reached or account.direct) and account.wait is not None:
                    account.wait.observe(now - lease.since)
            self._end(lease, now)
            if self._hooks.on:
                self._hand_out(lease, connection, now)
        except Exception as error:
            contain(COMPONENT, error)

    def _handed(self, account: PoolAccount, began: float, connection: Any) -> None:
        """A plain pool has handed out a connection to the caller."""
        try:
            now = perf_counter()
            opened = self._opened_in
            lease = opened.pop(sys._getframe(1), None) if opened else None
            if lease is not None:
                # It has waited until it was opened; after that it was only looked at.
                lease.ended, now = True, lease.since
            elif (wait := account.wait) is not None:
                waited = now - began
                # `observe`, without the call.
                bounds = wait.bounds
                bucket = 0 if waited <= bounds[0] else bisect_left(bounds, waited)
                cells, at = wait.cells, wait.at
                cells[at + bucket] += 1.0
                cells[at + wait.last] += waited
            if self._hooks.on:
                key = id(connection)
                if key not in self._alive:
                    self._seen(key, connection)
                self._lent[key] = account, CURRENT.get(), now
        except Exception as error:
            contain(COMPONENT, error)

    def _refused(self, account: PoolAccount, began: float) -> None:
        """A plain pool has raised an error instead."""
        try:
            lease = self._opened_in.pop(sys._getframe(1), None)
            if lease is not None:
                lease.ended = True
            else:
                account.waited(perf_counter() - began)
        except Exception as error:
            contain(COMPONENT, error)

    def _plain_call(self) -> FrameType | None:
        """The frame of the call for a connection, if one of a plain pool is the innermost."""
        # Looked for only where a connection is opened. To leave it in the context takes 0.5 us each time.
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code not in self._other_calls:
            if frame.f_code in self._plain_calls:
                return frame
            frame = frame.f_back
        return None

    def _lease_in(self, call: FrameType) -> Lease:
        """Of the call in this frame, which opens a connection; before that it needs none."""
        lease = self._opened_in.get(call)
        if lease is None:
            its = call.f_locals
            lease = Lease(its["account"], CURRENT.get(), None, its["began"])
            self._opened_in[call] = lease
        return lease

    def _opening(self, connection: Any) -> Opening | None:
        try:
            call = self._plain_call()
            lease = ACQUIRING.get() if call is None else None
            if lease is not None:
                if lease.ended:
                    lease = None
                else:
                    lease.reached = True
            if _is_connected(connection):
                return None
            if call is not None:
                lease = self._lease_in(call)
            if lease is None:
                account = self._account_of(connection)
                if account is None:
                    return None
                opening = Opening(account, CURRENT.get(), None)
            else:
                if lease.waits:
                    self._waited(lease)
                opening = Opening(lease.account, lease.exchange, lease)
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
            if lease is not None and not lease.ended:
                lease.since = now
            if done:
                opening.account.opened(now - opening.began)
        except Exception as error:
            contain(COMPONENT, error)

    def _account_of(self, connection: Any) -> Account | None:
        """Of one that is out."""
        key = id(connection)
        if (lent := self._lent.get(key)) is not None:
            return lent[0]
        lease = self._out.get(key)
        return None if lease is None else lease.account

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


def _is_direct(pool: Any) -> bool:
    """Whether its connections are connected as they are hooked, on the stack of who asks for one."""
    # What an app makes of a pool may do otherwise.
    if type(pool) not in (*POOLS, *BLOCKING):
        return False
    kind = AbstractConnection if isinstance(pool, ConnectionPool) else AioConnection
    own = getattr(pool.connection_class, "connect", None) is not kind.connect
    # With a cache on the client's side, another connection is around it.
    return not own and getattr(pool, "cache", None) is None


def _around_reaching(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around what goes the common way if it has to connect, and is hooked there."""

    # Of the async one it returns the coroutine.
    def connect(connection: Any) -> Any:
        lease = ACQUIRING.get()
        if lease is not None and not lease.ended:
            lease.reached = True
        return original(connection)

    return connect


def _connects_itself(managed: Any) -> bool:
    """Whether a connection that asks a sentinel for its server connects without the common way.

    It does in newer releases; hooked in both places it would be opened twice.
    """
    code = getattr(getattr(managed, "connect_to", None), "__code__", None)
    return code is not None and "connect" not in code.co_names


def _free(pool: Any) -> list[Any] | None:
    """Connections that nobody uses; None where the pool does not tell.

    `get_connection_count` is public, but waits for a lock that a caller may hold for long.
    """
    if isinstance(pool, BlockingConnectionPool):
        free = getattr(pool.pool, "queue", None)
    else:
        free = getattr(pool, "_available_connections", None)
    return None if free is None else [connection for connection in list(free) if connection]


def _taken(pool: Any) -> int:
    """How many connections are out, or just being opened; 0 where the pool does not tell, or is gone."""
    if isinstance(pool, BlockingConnectionPool):
        free = _free(pool)
        return 0 if free is None else len(getattr(pool, "_connections", ())) - len(free)
    return len(getattr(pool, "_in_use_connections", ()))


def _is_connected(connection: Any) -> bool:
    """Whether it is open. A sync one has no public name for that before redis-py 8."""
    connected: bool | None = getattr(connection, "is_connected", None)
    if connected is not None:
        return connected
    # With a cache on the client's side, another one is around it.
    return getattr(connection, "_conn", connection)._sock is not None


def _described(pool: Any) -> str:
    """``redis:host:port/database``, never with credentials."""
    options = pool.connection_kwargs
    database = options.get("db") or 0
    if service := getattr(pool, "service_name", None):
        # Of a sentinel, which knows the server's address: another one after a failure.
        return f"redis:{service}{'' if pool.is_master else ' replicas'}/{database}"
    if path := options.get("path"):
        # Of a socket only its name: where it lies says nothing, and differs between machines.
        return f"redis:{str(path).rpartition('/')[2]}/{database}"
    return f"redis:{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"
