"""Connection pools of psycopg_pool, sync and async.

Its own statistics are whole milliseconds, may be reset by anyone, and count a caller that gave up as
waiting until the next connection is returned; what is told here comes from `getconn` and `putconn`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, ref

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._health import WITHIN
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._pools import ACQUIRING, Account, Lease, Pools
from ._questions import ask, ask_awaited, most
from ._server import Question

__all__ = ["PsycopgPool", "probe"]

COMPONENT = "probes.psycopg_pool"

KINDS = (ConnectionPool, AsyncConnectionPool)

NUMBERED = re.compile(r"pool-\d+")
"""What a pool is called that nobody gave a name."""

Pool = ConnectionPool[Any] | AsyncConnectionPool[Any]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return PsycopgPool(kit)


class PsycopgPool(Pools):
    """The pools family, for psycopg_pool.

    Only null pools open connections for the call of ``getconn`` that is under way; others have
    workers for it, whose connections anybody may get.
    """

    component = COMPONENT
    timeout = PoolTimeout
    knows_free = True

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        # Connections that nobody has had yet, and when they were opened.
        self._fresh: WeakKeyDictionary[Any, tuple[float, float]] = WeakKeyDictionary()
        self._leaks: deque[Lease] = deque()

    @property
    def kinds(self) -> tuple[type, ...]:
        return KINDS

    def attach(self, settings: Settings) -> None:
        super().attach(settings)
        wrap = self._hooks.wrap
        wrap(ConnectionPool, "getconn", self._around_acquire)
        wrap(ConnectionPool, "putconn", self._around_putconn)
        wrap(AsyncConnectionPool, "getconn", self._around_async_acquire)
        wrap(AsyncConnectionPool, "putconn", self._around_putconn)
        self._known = {catalogue.POOL_USE, catalogue.POOL_TIMEOUTS, catalogue.POOL_LEAKED}
        # No public name. Only who knows how long connections take to open knows what is waiting.
        if all("_connect" in vars(kind) for kind in KINDS):
            self._known |= {catalogue.POOL_WAIT, catalogue.POOL_CREATE}
            wrap(ConnectionPool, "_connect", self._around_connect)
            wrap(AsyncConnectionPool, "_connect", self._around_async_connect)

    def read(self) -> Iterator[Reading]:
        while self._leaks:
            leak = self._leaks.popleft()
            self.kit.meters.counter(catalogue.POOL_LEAKED, leak.account.name, leak.route).add()
        yield from super().read()

    def unknown(self) -> str:
        if catalogue.POOL_CREATE in self._known:
            return ""
        return "this release hides when it opens connections. Update fastobs."

    def _open_account(self, pool: Pool) -> Account:
        own = "" if NUMBERED.fullmatch(pool.name) else pool.name
        there = ref(pool, self._close_account(id(pool)))
        return Account(there, self.kit.meters, described=_described(pool), own=own)

    def _what(self, pool: Pool) -> str:
        size = f"at most {pool.max_size} connections" if pool.max_size else "no limit"
        return f"psycopg {type(pool).__name__}, {size}"

    def _shown(self, pool: Pool, out: list[Lease]) -> bool:
        # One that is closed stays for as long as its connections are out.
        return bool(out) or not pool.closed

    def _readings(self, account: Account, pool: Pool, out: list[Lease]) -> Iterator[Reading]:
        name = account.name
        yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), pool.get_stats()["pool_available"])
        yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
        # A null pool without a limit says 0.
        if pool.max_size:
            yield Reading(catalogue.POOL_MAX, (name,), pool.max_size)

    def _leaked(self, lease: Lease) -> None:
        # It is counted when metrics are shown.
        self._leaks.append(lease)

    def _ask(self, pool: Pool) -> Callable[[], object]:
        if isinstance(pool, ConnectionPool):
            return lambda: ask(pool.connection, WITHIN)

        async def asked() -> None:
            await ask_awaited(pool.connection, WITHIN)

        return asked

    def _saturated(self, pool: Pool) -> bool:
        stats = pool.get_stats()
        return 0 < pool.max_size <= stats["pool_size"] and not stats["pool_available"]

    def _limit(self, pool: Pool) -> Question | None:
        # Both may be functions, which are the pool's to call.
        conninfo, options = pool.conninfo, pool.kwargs or {}
        if not isinstance(conninfo, str) or not isinstance(options, dict):
            return None
        return lambda: most(psycopg.connect, conninfo, **{**options, "autocommit": True})

    # What follows runs within the app's calls: it must not raise.

    def _around_putconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Of the async one it returns the coroutine.
        def putconn(pool: Pool, conn: Any) -> Any:
            # Before: within the call, the connection may already be somebody else's.
            try:
                self._take_back(conn, pool)
            except Exception as error:
                contain(COMPONENT, error)
            return original(pool, conn)

        return putconn

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(pool: Pool, *args: Any, **options: Any) -> Any:
            lease, began = self._opening(pool), perf_counter()
            connection = original(pool, *args, **options)
            self._opened(pool, lease, connection, began)
            return connection

        return connect

    def _around_async_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def connect(pool: Pool, *args: Any, **options: Any) -> Any:
            lease, began = self._opening(pool), perf_counter()
            connection = await original(pool, *args, **options)
            self._opened(pool, lease, connection, began)
            return connection

        return connect

    def _may_wait(self, pool: Pool) -> bool:
        # No public names that are quick: who is free, and whether that is checked first. What takes no
        # time needs no part.
        return not getattr(pool, "_pool", None) or getattr(pool, "_check", None) is not None

    def _got(self, lease: Lease, connection: Any) -> None:
        try:
            lease.account.waiting.discard(lease)
            now = perf_counter()
            self._end(lease, now)
            opened = self._fresh.pop(connection, None) if self._fresh else None
            if lease.waits:
                waited = now - lease.since
                if opened is not None:
                    # A worker opened it meanwhile: that part of the time was not waiting.
                    began, ended = opened
                    waited -= max(0.0, min(ended, now) - max(began, lease.since))
                lease.account.waited(waited)
            if self._hooks.on:
                self._hand_out(lease, connection, now)
        except Exception as error:
            contain(COMPONENT, error)

    def _opening(self, pool: Pool) -> Lease | None:
        try:
            lease = ACQUIRING.get()
            if lease is None or lease.ended or lease.account.pool() is not pool:
                return None
            if lease.waits:
                self._connects(lease)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return lease

    def _opened(self, pool: Pool, lease: Lease | None, connection: Any, began: float) -> None:
        if not self._hooks.on:
            return
        try:
            now = perf_counter()
            account = self._accounts.get(id(pool)) or self._account(pool)
            account.opened(now - began)
            if lease is None:
                self._fresh[connection] = (began, now)
        except Exception as error:
            contain(COMPONENT, error)


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
