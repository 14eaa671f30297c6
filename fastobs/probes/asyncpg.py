"""Connection pools of asyncpg.

A pool hands out holders of connections. One is taken from a queue, connected if it must be, and
released; these three moments have no public names. Sizes have: what is used is what is connected and
not idle, so it cannot drift.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit
from weakref import ref

from asyncpg.pool import (  # type: ignore[import-untyped]
    Pool,
    PoolConnectionHolder,
)

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["AsyncPG", "probe"]

COMPONENT = "probes.asyncpg"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return AsyncPG(kit)


class Account:
    """One pool, and where it is counted."""

    def __init__(self, pool: Any, meters: Meters) -> None:
        # A pool takes no weak references. Until it has holders, which do, it is kept alive.
        self.pool: Callable[[], Any] = lambda: pool
        self.anchor: ref[Any] | None = None
        self.name = self.given = self.variable = ""
        self.described = _described(pool)
        self.waiting: dict[int, Acquire] = {}
        # Connections are opened before the pool is in the variable that names it.
        self.opened: deque[float] = deque(maxlen=1000)
        self._meters = meters

    @property
    def wanted(self) -> str:
        return self.given or self.variable or self.described

    def name_it(self, name: str, seen: set[str]) -> None:
        """From now on everything is counted under this name."""
        meters = self._meters
        self.name = name
        if "wait" in seen:
            self.wait = meters.histogram(catalogue.POOL_WAIT, name)
            self.timeouts = meters.counter(catalogue.POOL_TIMEOUTS, name)
        if "create" in seen:
            self.create = meters.histogram(catalogue.POOL_CREATE, name)
            while self.opened:
                self.create.observe(self.opened.popleft())
        if "use" in seen:
            self.use = meters.histogram(catalogue.POOL_USE, name)

    def loosen(self, gone: Callable[[Any], object]) -> None:
        """Do not keep the pool alive, as soon as that can be done."""
        holders = getattr(self.pool(), "_holders", None)
        if self.anchor is None and holders:
            anchor = self.anchor = ref(holders[0], gone)
            self.pool = lambda: None if (holder := anchor()) is None else holder._pool


class Acquire:
    """One call of ``Pool._acquire``: it waits for a holder, which perhaps opens a connection."""

    __slots__ = ("account", "before", "began", "exchange", "waits")

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began
        self.before = ACQUIRING.get()
        self.waits = True


class Checkout:
    """A connection that is out."""

    __slots__ = ("account", "exchange", "holder", "since")

    holder: ref[Any]

    def __init__(self, acquire: Acquire, since: float) -> None:
        self.account = acquire.account
        self.exchange = acquire.exchange
        self.since = since

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_asyncpg_acquire", default=None)
"""The call that a holder is taken for. With a timeout, a task of its own takes it."""


class AsyncPG(Probe):
    """The pools family, for asyncpg."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._seen: set[str] = set()
        self._accounts: dict[int, Account] = {}
        self._out: dict[int, Checkout] = {}
        self._lock = threading.RLock()

    @property
    def kinds(self) -> tuple[type, ...]:
        return (Pool,)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        wrap = self._hooks.wrap
        # None of these names is public: what is missing is unknown, and status() says so.
        self._seen.clear()
        if "_get_new_connection" in vars(Pool):
            self._seen.add("create")
            wrap(Pool, "_get_new_connection", self._around_connect)
        if "_acquire" in vars(Pool) and "acquire" in vars(PoolConnectionHolder):
            self._seen.add("wait")
            wrap(Pool, "_acquire", self._around_acquire)
            wrap(PoolConnectionHolder, "acquire", self._around_taking)
            if "_release" in vars(PoolConnectionHolder):
                self._seen.add("use")
                wrap(PoolConnectionHolder, "_release", self._around_release)

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, Pool):
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
        for key, account in list(self._accounts.items()):
            pool = account.pool()
            if pool is None:
                continue
            account.loosen(self._forget(key))
            size = pool.get_size()
            if pool.is_closing() and not size:
                # It cannot be opened again.
                self._accounts.pop(key, None)
                continue
            if not account.name:
                self._name(account)
            mine = [checkout for checkout in checkouts if checkout.account is account]
            yield from self._readings(account, pool, mine)

    def status(self) -> Iterator[tuple[str, str]]:
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None:
                size = f"at most {pool.get_max_size()} connections"
                yield account.name or account.wanted, f"asyncpg Pool, {size}"

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        if missing := {"wait", "create", "use"} - self._seen:
            times = ", ".join(sorted(missing))
            yield "asyncpg", f"this release hides some of its times: {times}. Update fastobs."

    def _readings(self, account: Account, pool: Any, out: list[Checkout]) -> Iterator[Reading]:
        name = account.name
        idle = pool.get_idle_size()
        # Asked from another thread, the pool may have changed in between.
        yield Reading(catalogue.POOL_COUNT, (name, "used"), max(0, pool.get_size() - idle))
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
        yield Reading(catalogue.POOL_MAX, (name,), pool.get_max_size())
        if "wait" in self._seen:
            yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
        now = perf_counter()
        oldest: dict[str, float] = {}
        for checkout in out:
            route = checkout.route
            oldest[route] = max(now - checkout.since, oldest.get(route, 0.0))
        for route, age in oldest.items():
            yield Reading(catalogue.POOL_OLDEST, (name, route), age)

    # What follows runs within the app's calls: it must not raise.

    def _around_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def acquire(pool: Any, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = await original(pool, *args, **options)
            except BaseException as error:
                self._end(acquire, error)
                raise
            self._end(acquire, None)
            return connection

        return acquire

    def _around_taking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def acquire(holder: Any) -> Any:
            acquire = self._taking()
            connection = await original(holder)
            self._taken(acquire, holder)
            return connection

        return acquire

    def _around_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def release(holder: Any) -> Any:
            # Before: within the call, the holder may already be somebody else's.
            self._released(holder)
            return original(holder)

        return release

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def connect(pool: Any) -> Any:
            began = perf_counter()
            connection = await original(pool)
            self._opened(pool, began)
            return connection

        return connect

    def _begin(self, pool: Any) -> Acquire | None:
        if not self._hooks.on:
            return None
        try:
            account = self._known(pool)
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

    def _end(self, acquire: Acquire | None, error: BaseException | None) -> None:
        if acquire is None:
            return
        try:
            ACQUIRING.set(acquire.before)
            now = perf_counter()
            if not acquire.waits:
                leave(acquire.exchange, "db", now)
                return
            self._waited(acquire, now)
            if isinstance(error, TimeoutError):
                acquire.account.timeouts.add()
        except Exception as ours:
            contain(COMPONENT, ours)

    def _waited(self, acquire: Acquire, now: float) -> None:
        acquire.waits = False
        acquire.account.waiting.pop(id(acquire), None)
        acquire.account.wait.observe(now - acquire.began)
        leave(acquire.exchange, "pool_wait", now)

    def _taking(self) -> Acquire | None:
        try:
            acquire = ACQUIRING.get()
            if acquire is None or not acquire.waits:
                return None
            now = perf_counter()
            self._waited(acquire, now)
            enter(acquire.exchange, "db", now)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return acquire

    def _taken(self, acquire: Acquire | None, holder: Any) -> None:
        if acquire is None or not self._hooks.on or "use" not in self._seen:
            return
        try:
            key = id(holder)
            checkout = Checkout(acquire, perf_counter())
            checkout.holder = ref(holder, lambda _: self._out.pop(key, None))
            self._out[key] = checkout
        except Exception as error:
            contain(COMPONENT, error)

    def _released(self, holder: Any) -> None:
        try:
            if (checkout := self._out.pop(id(holder), None)) is not None:
                checkout.account.use.observe(perf_counter() - checkout.since)
        except Exception as error:
            contain(COMPONENT, error)

    def _opened(self, pool: Any, began: float) -> None:
        if not self._hooks.on:
            return
        try:
            took = perf_counter() - began
            account = self._known(pool)
            if account.name:
                account.create.observe(took)
            else:
                account.opened.append(took)
        except Exception as error:
            contain(COMPONENT, error)

    def _known(self, pool: Any) -> Account:
        account = self._accounts.get(id(pool)) or self._account(pool)
        if account.anchor is None:
            account.loosen(self._forget(id(pool)))
        return account

    def _forget(self, key: int) -> Callable[[Any], object]:
        return lambda _: self._accounts.pop(key, None)

    def _account(self, pool: Any) -> Account:
        with self._lock:
            key = id(pool)
            if (account := self._accounts.get(key)) is None:
                account = self._accounts[key] = Account(pool, self.kit.meters)
            return account

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted), self._seen)


def _described(pool: Any) -> str:
    """``asyncpg:host/database``, never with credentials."""
    # No public name tells where a pool connects to.
    options = getattr(pool, "_connect_kwargs", {})
    dsn = next(iter(getattr(pool, "_connect_args", ())), None)
    host, port, database = (options.get(key) for key in ("host", "port", "database"))
    try:
        url = urlsplit(dsn if isinstance(dsn, str) else "")
        host, port = host or url.hostname, port or url.port
    except ValueError:
        # Several hosts.
        return "asyncpg"
    if not isinstance(host, str):
        return "asyncpg"
    database = database or url.path.lstrip("/")
    return f"asyncpg:{host}:{port}/{database}" if port else f"asyncpg:{host}/{database}"
