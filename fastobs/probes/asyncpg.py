"""Connection pools of asyncpg.

A pool hands out holders of connections. One is taken from a queue, connected if it must be, and
released; these three moments have no public names. Sizes have: what is used is what is connected and
not idle, so it cannot drift.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit
from weakref import ref

from asyncpg.connection import Connection, connect  # type: ignore[import-untyped]
from asyncpg.pool import (  # type: ignore[import-untyped]
    Pool,
    PoolConnectionHolder,
)
from asyncpg.prepared_stmt import PreparedStatement  # type: ignore[import-untyped]

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._health import WITHIN
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._pools import ACQUIRING, Account, Lease, Pools
from ._questions import ask_awaited, most_awaited
from ._server import Question
from ._statements import Statements, argument

__all__ = ["AsyncPG", "probe"]

COMPONENT = "probes.asyncpg"

TRACEABLE = PoolConnectionHolder.__weakrefoffset__ > 0
"""Whether it can be told when a pool is gone, without keeping it; before asyncpg 0.32 it cannot."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return AsyncPG(kit)


class Anchor:
    """A reference to a pool, which takes no weak ones.

    Until it has holders, which do, the pool is kept alive.
    """

    _holder: ref[Any]

    def __init__(self, pool: Any, gone: Callable[[Any], object]) -> None:
        self._kept = pool
        self._gone = gone

    def __call__(self) -> Any:
        if self._kept is None:
            holder = self._holder()
            return None if holder is None else holder._pool
        pool = self._kept
        if holders := getattr(pool, "_holders", None):
            self._holder = ref(holders[0], self._gone)
            self._kept = None
        return pool


class AsyncPG(Pools):
    """The pools family, for asyncpg."""

    component = COMPONENT
    knows_free = True

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._statements = AsyncPGStatements(kit, self._hooks, COMPONENT)

    @property
    def kinds(self) -> tuple[type, ...]:
        return (Pool,) if TRACEABLE else ()

    def attach(self, settings: Settings) -> None:
        super().attach(settings)
        self._statements.missing.clear()
        self._statements.attach()
        if not TRACEABLE:
            return
        wrap, known = self._hooks.wrap, self._known
        # None of these names is public: what is missing is unknown, and status() says so.
        known.clear()
        if "_get_new_connection" in vars(Pool):
            known.add(catalogue.POOL_CREATE)
            wrap(Pool, "_get_new_connection", self._around_connect)
        if "_acquire" in vars(Pool) and "acquire" in vars(PoolConnectionHolder):
            known |= {catalogue.POOL_WAIT, catalogue.POOL_TIMEOUTS}
            wrap(Pool, "_acquire", self._around_async_acquire)
            wrap(PoolConnectionHolder, "acquire", self._around_taking)
            if "_release" in vars(PoolConnectionHolder):
                known.add(catalogue.POOL_USE)
                wrap(PoolConnectionHolder, "_release", self._around_release)

    def watch(self, obj: Any, name: str | None) -> bool:
        # One that cannot be watched is no error of the app's: status() has a line about it.
        return super().watch(obj, name) or isinstance(obj, Pool)

    def unknown(self) -> str:
        if not TRACEABLE:
            return "its pools can be watched since asyncpg 0.32; statements are timed."
        times = {
            "wait": catalogue.POOL_WAIT,
            "create": catalogue.POOL_CREATE,
            "use": catalogue.POOL_USE,
        }
        missing = sorted(word for word, metric in times.items() if metric not in self._known)
        if hidden := ", ".join([*missing, *self._statements.missing]):
            return f"this release hides some of its times: {hidden}. Update fastobs."
        return ""

    def _open_account(self, pool: Any) -> Account:
        there = Anchor(pool, self._close_account(id(pool)))
        return Account(there, self.kit.meters, described=_described(pool))

    def _what(self, pool: Any) -> str:
        return f"asyncpg Pool, at most {pool.get_max_size()} connections"

    def _shown(self, pool: Any, out: list[Lease]) -> bool:  # noqa: ARG002
        if pool.is_closing() and not pool.get_size():
            # It cannot be opened again.
            self._accounts.pop(id(pool), None)
            return False
        return True

    def _readings(self, account: Account, pool: Any, out: list[Lease]) -> Iterator[Reading]:  # noqa: ARG002
        name = account.name
        idle = pool.get_idle_size()
        # Asked from another thread, the pool may have changed in between.
        yield Reading(catalogue.POOL_COUNT, (name, "used"), max(0, pool.get_size() - idle))
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
        yield Reading(catalogue.POOL_MAX, (name,), pool.get_max_size())
        if catalogue.POOL_WAIT in self._known:
            yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))

    def _ask(self, pool: Any) -> Callable[[], object]:
        async def ask() -> None:
            # No public name tells whether somebody has opened it, and on which loop.
            here = asyncio.get_running_loop()
            if getattr(pool, "_initialized", True) and getattr(pool, "_loop", here) is here:
                await ask_awaited(pool.acquire, timeout=WITHIN)

        return ask

    def _saturated(self, pool: Any) -> bool:
        return bool(pool.get_size() >= pool.get_max_size() and not pool.get_idle_size())

    def _limit(self, pool: Any) -> Question | None:
        # No public names. What the app itself has written to connect belongs to its loop.
        options = getattr(pool, "_connect_kwargs", None)
        own = getattr(pool, "_connect", connect) is not connect
        if options is None or own or callable(options.get("password")):
            return None
        args = getattr(pool, "_connect_args", ())

        async def asked() -> int:
            return await most_awaited(connect, *args, **options)

        return lambda: asyncio.run(asked())

    # What follows runs within the app's calls: it must not raise.

    def _around_taking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def connecting(holder: Any) -> Any:
            lease = self._taking()
            connection = await original(holder)
            self._taken(lease, holder)
            return connection

        # It returns a coroutine: where there is nothing to wait for, that of the library.
        def acquire(holder: Any) -> Any:
            lease = ACQUIRING.get()
            if lease is None or lease.ended or not lease.waits or not hooks.on:
                return original(holder)
            try:
                ready = _is_ready(holder)
            except Exception as error:
                contain(COMPONENT, error)
                ready = False
            if not ready:
                return connecting(holder)
            lease.next = holder
            return original(holder)

        return acquire

    def _around_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def release(holder: Any) -> Any:
            # Before: within the call, the holder may already be somebody else's.
            try:
                self._take_back(holder)
            except Exception as error:
                contain(COMPONENT, error)
            return original(holder)

        return release

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def connect(pool: Any) -> Any:
            began = perf_counter()
            connection = await original(pool)
            self._opened(pool, began)
            return connection

        return connect

    def _may_wait(self, pool: Any) -> bool:
        try:
            # No public name: who is free. What takes no time needs no part.
            return not pool._queue.qsize()
        except AttributeError:
            return True

    def _got(self, lease: Lease, connection: Any) -> None:  # noqa: ARG002
        try:
            account, holder, waits = lease.account, lease.next, lease.waits
            lease.next = None
            account.waiting.discard(lease)
            now = perf_counter()
            waited = now - lease.since
            self._end(lease, now)
            if waits:
                account.waited(waited)
            if holder is not None and self._hooks.on and catalogue.POOL_USE in self._known:
                self._hand_out(lease, holder, now)
        except Exception as error:
            contain(COMPONENT, error)

    def _taking(self) -> Lease | None:
        try:
            lease = ACQUIRING.get()
            if lease is None or lease.ended or not lease.waits:
                return None
            self._connects(lease)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return lease

    def _taken(self, lease: Lease | None, holder: Any) -> None:
        if lease is None or not self._hooks.on or catalogue.POOL_USE not in self._known:
            return
        try:
            self._hand_out(lease, holder, perf_counter())
        except Exception as error:
            contain(COMPONENT, error)

    def _opened(self, pool: Any, began: float) -> None:
        if not self._hooks.on:
            return
        try:
            account = self._account(pool)
            account.opened(perf_counter() - began)
            # Now it has holders, and is not kept alive any more.
            account.pool()
        except Exception as error:
            contain(COMPONENT, error)


def _is_ready(holder: Any) -> bool:
    """Whether it gives its connection at once: open, of today, and with nothing to be set up."""
    try:
        # No public names.
        connection = holder._con
        return (
            connection is not None
            and not connection.is_closed()
            and holder._generation == holder._pool._generation
            and holder._setup is None
        )
    except AttributeError:
        return False


class AsyncPGStatements(Statements):
    """Statements of asyncpg, on connections of a pool and on others.

    A cursor is not timed: its rows come with many calls, between which the app does something else.
    """

    # Resetting a connection, listening, quoting.
    housekeeping = frozenset({"asyncpg.connection", "asyncpg.utils"})

    def attach(self) -> None:
        """Hook every public method that sends a statement and returns when it is done."""
        for name in ("execute", "fetch", "fetchval", "fetchrow", "fetchmany"):
            self.wrap(Connection, name, argument("query"), awaited=True)
        self.wrap(Connection, "executemany", argument("command"), awaited=True)
        for name in (
            "copy_from_table",
            "copy_from_query",
            "copy_to_table",
            "copy_records_to_table",
        ):
            self.wrap(Connection, name, lambda *_: "COPY", awaited=True)
        for name in ("fetch", "fetchval", "fetchrow", "fetchmany", "executemany"):
            self.wrap(PreparedStatement, name, lambda told, *_: told.get_query(), awaited=True)


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
