"""Connection pools of psycopg_pool, sync and async.

Its own statistics are whole milliseconds, may be reset by anyone, and count a caller that gave up as
waiting until the next connection is returned; what is told here comes from `getconn` and `putconn`.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, ref

from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["PsycopgPool", "probe"]

COMPONENT = "probes.psycopg_pool"

KINDS = (ConnectionPool, AsyncConnectionPool)

NUMBERED = re.compile(r"pool-\d+")
"""What a pool is called that nobody gave a name."""

Pool = ConnectionPool[Any] | AsyncConnectionPool[Any]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return PsycopgPool(kit)


class Account:
    """One pool, and where it is counted."""

    def __init__(self, pool: Pool, meters: Meters, gone: Callable[[Any], object]) -> None:
        self.pool = ref(pool, gone)
        self.name = self.given = self.variable = ""
        self.own = "" if NUMBERED.fullmatch(pool.name) else pool.name
        self.described = _described(pool)
        self.waiting: dict[int, Acquire] = {}
        # Connections that nobody has had yet, and when they were opened.
        self.fresh: WeakKeyDictionary[Any, tuple[float, float]] = WeakKeyDictionary()
        # Connections are opened before the pool is in the variable that names it.
        self.opened: deque[float] = deque(maxlen=1000)
        self.leaks: deque[Checkout] = deque()
        self._meters = meters

    @property
    def wanted(self) -> str:
        return self.given or self.own or self.variable or self.described

    def name_it(self, name: str, *, timed: bool) -> None:
        """From now on everything is counted under this name."""
        meters = self._meters
        self.name = name
        self.use = meters.histogram(catalogue.POOL_USE, name)
        self.timeouts = meters.counter(catalogue.POOL_TIMEOUTS, name)
        self.wait = meters.histogram(catalogue.POOL_WAIT, name) if timed else None
        self.create = meters.histogram(catalogue.POOL_CREATE, name) if timed else None
        while self.create is not None and self.opened:
            self.create.observe(self.opened.popleft())
        # Alerts read it, so it exists before the first leak.
        meters.counter(catalogue.POOL_LEAKED, name, "")


class Acquire:
    """One call of ``getconn``."""

    __slots__ = ("account", "before", "began", "ended", "exchange", "opened")

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began
        self.before = ACQUIRING.get()
        self.opened = self.ended = False


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


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_psycopg_acquire", default=None)
"""The call of ``getconn`` that a connection is opened in. Only null pools do it there; others have
workers for it, whose connections anybody may get."""


class PsycopgPool(Probe):
    """The pools family, for psycopg_pool."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._accounts: dict[int, Account] = {}
        self._out: dict[int, Checkout] = {}
        self._lock = threading.RLock()
        # Whether it can be told how long connections take to open: only then is the rest waiting.
        self._timed = True

    @property
    def kinds(self) -> tuple[type, ...]:
        return KINDS

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        hooks = self._hooks
        hooks.wrap(ConnectionPool, "getconn", self._around_getconn)
        hooks.wrap(ConnectionPool, "putconn", self._around_putconn)
        hooks.wrap(AsyncConnectionPool, "getconn", self._around_async_getconn)
        hooks.wrap(AsyncConnectionPool, "putconn", self._around_putconn)
        # No public name.
        self._timed = all("_connect" in vars(kind) for kind in KINDS)
        if self._timed:
            hooks.wrap(ConnectionPool, "_connect", self._around_connect)
            hooks.wrap(AsyncConnectionPool, "_connect", self._around_async_connect)

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, KINDS):
            return False
        account = self._account(obj)
        if name is not None and name != account.given:
            account.given = name
            if account.name:
                self._name(account)
        return True

    def found(self, obj: Any, name: str) -> None:
        account = self._account(obj)
        account.variable = account.variable or name

    def read(self) -> Iterator[Reading]:
        checkouts = list(self._out.values())
        for account in list(self._accounts.values()):
            while account.leaks:
                leak = account.leaks.popleft()
                self.kit.meters.counter(catalogue.POOL_LEAKED, account.name, leak.route).add()
            mine = [checkout for checkout in checkouts if checkout.account is account]
            pool = account.pool()
            # One that is closed stays for as long as its connections are out.
            if pool is not None and (mine or not pool.closed):
                if not account.name:
                    self._name(account)
                yield from _readings(account, pool, mine)

    def status(self) -> Iterator[tuple[str, str]]:
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None:
                size = f"at most {pool.max_size} connections" if pool.max_size else "no limit"
                yield account.name or account.wanted, f"psycopg {type(pool).__name__}, {size}"

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        if not self._timed:
            yield "psycopg_pool", "this release hides when it opens connections. Update fastobs."

    # What follows runs within the app's calls: it must not raise.

    def _around_getconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def getconn(pool: Pool, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = original(pool, *args, **options)
            except BaseException as error:
                self._failed(acquire, error)
                raise
            self._got(acquire, connection)
            return connection

        return getconn

    def _around_async_getconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def getconn(pool: Pool, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = await original(pool, *args, **options)
            except BaseException as error:
                self._failed(acquire, error)
                raise
            self._got(acquire, connection)
            return connection

        return getconn

    def _around_putconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Of the async one it returns the coroutine.
        def putconn(pool: Pool, conn: Any) -> Any:
            # Before: within the call, the connection may already be somebody else's.
            self._returned(pool, conn)
            return original(pool, conn)

        return putconn

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(pool: Pool, *args: Any, **options: Any) -> Any:
            acquire, began = self._opening(pool), perf_counter()
            connection = original(pool, *args, **options)
            self._opened(pool, acquire, connection, began)
            return connection

        return connect

    def _around_async_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def connect(pool: Pool, *args: Any, **options: Any) -> Any:
            acquire, began = self._opening(pool), perf_counter()
            connection = await original(pool, *args, **options)
            self._opened(pool, acquire, connection, began)
            return connection

        return connect

    def _begin(self, pool: Pool) -> Acquire | None:
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
            enter(acquire.exchange, "pool_wait", now)
            ACQUIRING.set(acquire)
            # Last: nothing can fail from here on and leave it waiting for ever.
            account.waiting[id(acquire)] = acquire
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return acquire

    def _got(self, acquire: Acquire | None, connection: Any) -> None:
        if acquire is None:
            return
        try:
            now = self._end(acquire)
            account = acquire.account
            opened = account.fresh.pop(connection, None) if account.fresh else None
            if not acquire.opened and account.wait is not None:
                waited = now - acquire.began
                if opened is not None:
                    # A worker opened it meanwhile: that part of the time was not waiting.
                    began, ended = opened
                    waited -= max(0.0, min(ended, now) - max(began, acquire.began))
                account.wait.observe(waited)
            if self._hooks.on:
                key = id(connection)
                checkout = Checkout(acquire, now)
                checkout.connection = ref(connection, lambda _: self._leaked(key))
                self._out[key] = checkout
        except Exception as error:
            contain(COMPONENT, error)

    def _failed(self, acquire: Acquire | None, error: BaseException) -> None:
        if acquire is None:
            return
        try:
            now = self._end(acquire)
            if acquire.opened:
                return
            account = acquire.account
            if isinstance(error, PoolTimeout):
                account.timeouts.add()
            if account.wait is not None:
                account.wait.observe(now - acquire.began)
        except Exception as ours:
            contain(COMPONENT, ours)

    def _end(self, acquire: Acquire) -> float:
        acquire.ended = True
        acquire.account.waiting.pop(id(acquire), None)
        ACQUIRING.set(acquire.before)
        now = perf_counter()
        leave(acquire.exchange, "db" if acquire.opened else "pool_wait", now)
        return now

    def _returned(self, pool: Pool, connection: Any) -> None:
        try:
            checkout = self._out.get(id(connection))
            # A pool refuses the connections of another one.
            if checkout is not None and checkout.account.pool() is pool:
                del self._out[id(connection)]
                checkout.account.use.observe(perf_counter() - checkout.since)
        except Exception as error:
            contain(COMPONENT, error)

    def _leaked(self, key: int) -> None:
        # Called wherever the collector runs: it is counted when metrics are shown.
        if (checkout := self._out.pop(key, None)) is not None:
            checkout.account.leaks.append(checkout)

    def _opening(self, pool: Pool) -> Acquire | None:
        try:
            acquire = ACQUIRING.get()
            if acquire is None or acquire.ended or acquire.account.pool() is not pool:
                return None
            if not acquire.opened:
                acquire.opened = True
                now = perf_counter()
                acquire.account.waiting.pop(id(acquire), None)
                leave(acquire.exchange, "pool_wait", now)
                enter(acquire.exchange, "db", now)
                if acquire.account.wait is not None:
                    acquire.account.wait.observe(now - acquire.began)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return acquire

    def _opened(self, pool: Pool, acquire: Acquire | None, connection: Any, began: float) -> None:
        if not self._hooks.on:
            return
        try:
            now = perf_counter()
            account = self._accounts.get(id(pool)) or self._account(pool)
            if not account.name:
                account.opened.append(now - began)
            elif account.create is not None:
                account.create.observe(now - began)
            if acquire is None:
                account.fresh[connection] = (began, now)
        except Exception as error:
            contain(COMPONENT, error)

    def _account(self, pool: Pool) -> Account:
        with self._lock:
            key = id(pool)
            if (account := self._accounts.get(key)) is None:
                account = Account(pool, self.kit.meters, lambda _: self._accounts.pop(key, None))
                self._accounts[key] = account
            return account

    def _name(self, account: Account) -> None:
        with self._lock:
            name = self.kit.names.claim(account, account.wanted)
            account.name_it(name, timed=self._timed)


def _readings(account: Account, pool: Pool, out: list[Checkout]) -> Iterator[Reading]:
    name = account.name
    yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
    yield Reading(catalogue.POOL_COUNT, (name, "idle"), pool.get_stats()["pool_available"])
    yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
    # A null pool without a limit says 0.
    if pool.max_size:
        yield Reading(catalogue.POOL_MAX, (name,), pool.max_size)
    now = perf_counter()
    oldest: dict[str, float] = {}
    for checkout in out:
        route = checkout.route
        oldest[route] = max(now - checkout.since, oldest.get(route, 0.0))
    for route, age in oldest.items():
        yield Reading(catalogue.POOL_OLDEST, (name, route), age)


def _described(pool: Pool) -> str:
    """``psycopg:host/database``, never with credentials."""
    conninfo = pool.conninfo
    options = pool.kwargs
    try:
        # Both may be functions, which are the pool's to call.
        parts = conninfo_to_dict(
            conninfo if isinstance(conninfo, str) else "",
            **{
                key: value
                for key, value in (options.items() if isinstance(options, dict) else ())
                if key in {"host", "port", "dbname"}
            },
        )
    except Exception:
        # Not ours to complain about: it will fail to connect, and say why.
        return "psycopg"
    host = ":".join(str(parts[key]) for key in ("host", "port") if parts.get(key))
    return f"psycopg:{host}/{parts.get('dbname', '')}" if host else "psycopg"
