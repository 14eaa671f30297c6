"""Connection pools and statements of SQLAlchemy, 2.0 and newer, sync and async.

Everything is kept by connection record, not by counting up and down: a connection that leaks, is
detached, invalidated or reconnected in vain moves a plain counter for ever, but not these.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AssertionPool, NullPool, Pool, QueuePool, SingletonThreadPool

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange, qualified_name
from fastobs._health import Check
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks
from ._pools import ages
from ._repeats import sent
from ._server import Asker, Server
from ._sites import Site, call_site, written
from ._statements import OPERATIONS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SQLAlchemy", "probe"]

COMPONENT = "probes.sqlalchemy"

FRAMES = 40
"""So deep the caller of a checkout is looked for; it is 25 frames away in an ORM query."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return SQLAlchemy(kit)


class Account:
    """One pool, through all its replacements: ``engine.dispose()`` makes a new pool object."""

    def __init__(self, meters: Meters) -> None:
        self.name = ""
        self.given = self.own = self.variable = self.described = ""
        self.engine: Callable[[], Engine | None] = lambda: None
        self.pool: Callable[[], Pool | None] = lambda: None
        self.waiting: dict[int, Acquire] = {}
        self.server = Server()
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
        # Alerts read it, so it exists before the first leak.
        meters.counter(catalogue.POOL_LEAKED, name, "")

    def current(self) -> Pool | None:
        """The pool that connections come from now."""
        engine = self.engine()
        return self.pool() if engine is None else engine.pool


class Acquire:
    """One call of ``Pool.connect``: it waits, perhaps opens a connection, and checks one out."""

    __slots__ = ("account", "began", "exchange", "opened_at", "timed", "token", "took")

    token: Token[Acquire | None]

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began
        self.opened_at = 0.0
        self.timed = True
        self.took = False


class Checkout:
    """A connection that is out. The record is kept so that its id cannot pass to another one."""

    __slots__ = ("account", "exchange", "leaked", "record", "since", "site", "told")

    def __init__(self, acquire: Acquire, record: Any, since: float, site: Site | None) -> None:
        self.account = acquire.account
        self.exchange = acquire.exchange
        self.record = record
        self.since = since
        self.site = site
        self.leaked = self.told = False

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_sqlalchemy_acquire", default=None)
"""The call of ``Pool.connect`` that events belong to. SQLAlchemy's greenlets share the context of
the task that they run for."""


class SQLAlchemy(Probe):
    """The pools family, for SQLAlchemy."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._statements = Statements(kit.meters)
        # By identity of the pool, for every checkout; by what outlives the pool, for good.
        self._by_pool: dict[int, tuple[ReferenceType[Pool], Account]] = {}
        self._accounts: WeakKeyDictionary[Any, Account] = WeakKeyDictionary()
        self._out: dict[int, Checkout] = {}
        self._lock = threading.RLock()
        self._held_after: float | None = None
        self._asker: Asker | None = None

    @property
    def kinds(self) -> tuple[type, ...]:
        asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
        return (Engine, Pool, asynchronous.AsyncEngine) if asynchronous else (Engine, Pool)

    def attach(self, settings: Settings) -> None:
        assert settings.pools is not None
        self._held_after = settings.pools.held_after
        every = settings.pools.server_limits
        self._asker = None if every is None else Asker(every)
        for owner in (Pool, SingletonThreadPool):
            self._hooks.wrap(owner, "connect", self._around_connect)
        self._hooks.wrap(Engine, "raw_connection", self._around_raw_connection)
        for target, name, listener in (
            (Engine, "do_connect", self._opening),
            (Pool, "connect", self._opened),
            (Pool, "checkout", self._checkout),
            (Pool, "checkin", self._checkin),
            (Pool, "detach", self._detach),
            (Pool, "reset", self._reset),
        ):
            self._listen(target, name, listener)
        statements = self._statements
        self._listen(Engine, "before_cursor_execute", statements.before, retval=True)
        self._listen(Engine, "after_cursor_execute", statements.after)
        self._listen(Engine, "handle_error", statements.failed)
        for name, operation in (("_commit_impl", "COMMIT"), ("_rollback_impl", "ROLLBACK")):
            # The events of both come before they are done, and none comes after; only these private
            # methods are around it. Without them, the two are not timed.
            if name in vars(Connection):
                self._hooks.wrap(Connection, name, partial(self._around_ending, operation))

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        subject = _subject(obj)
        if subject is None:
            return False
        account = self._account(subject)
        if name is not None and name != account.given:
            account.given = name
            if account.name:
                self._name(account)
        return True

    def found(self, obj: Any, name: str) -> None:
        subject = _subject(obj)
        assert subject is not None
        account = self._account(subject)
        account.variable = account.variable or name

    def read(self) -> Iterator[Reading]:
        checkouts = list(self._out.values())
        if self._held_after is not None:
            self._tell_held(checkouts, self._held_after)
        self._ask_servers()
        for account in list(self._accounts.values()):
            # While a connection is out, its record keeps the pool alive.
            if (pool := account.current()) is not None:
                if not account.name:
                    self._name(account)
                mine = [checkout for checkout in checkouts if checkout.account is account]
                yield from _readings(account, pool, mine)

    def checks(self) -> Iterator[Check]:
        for account in list(self._accounts.values()):
            engine = account.engine()
            # Other pools share one connection: asking on it would get into somebody's transaction.
            if engine is not None and isinstance(engine.pool, QueuePool | NullPool):
                if not account.name:
                    self._name(account)
                yield Check(account.name, _question(engine), busy=partial(_saturated, engine))

    def status(self) -> Iterator[tuple[str, str]]:
        for account in list(self._accounts.values()):
            if (pool := account.current()) is not None:
                most = _sizes(pool).get(catalogue.POOL_MAX)
                size = f"at most {most:g} connections" if most is not None else "no limit known"
                yield account.name or account.wanted, f"SQLAlchemy {type(pool).__name__}, {size}"

    def _listen(self, target: Any, name: str, listener: Any, **options: Any) -> None:
        event.listen(target, name, listener, **options)
        self._hooks.undone_by(lambda: event.remove(target, name, listener))

    def _tell_held(self, checkouts: list[Checkout], after: float) -> None:
        now = perf_counter()
        for checkout in checkouts:
            if now - checkout.since < after:
                continue
            # Metrics may be shown on two threads at once.
            with self._lock:
                first, checkout.told = not checkout.told, True
            if first:
                self.kit.tell(("warning", _held(checkout, now - checkout.since, after)))

    def _ask_servers(self) -> None:
        if self._asker is not None:
            accounts = list(self._accounts.values())
            engines = [(account.server, account.engine()) for account in accounts]
            self._asker.ask((server, engine) for server, engine in engines if engine is not None)

    # What follows runs within the app's calls: it must not raise.

    def _around_ending(
        self, operation: str, original: Callable[[Connection], None]
    ) -> Callable[[Connection], None]:
        def end(connection: Connection) -> None:
            ending = self._statements.begin_ending(connection) if self._hooks.on else None
            try:
                original(connection)
            except BaseException as error:
                self._statements.ended(ending, operation, type(error))
                raise
            self._statements.ended(ending, operation, None)

        return end

    def _around_connect(self, original: Callable[[Pool], Any]) -> Callable[[Pool], Any]:
        def connect(pool: Pool) -> Any:
            acquire = self._begin(pool)
            try:
                connection = original(pool)
            except BaseException as error:
                self._end(acquire, error)
                raise
            self._end(acquire, None)
            return connection

        return connect

    def _around_raw_connection(self, original: Callable[[Engine], Any]) -> Callable[[Engine], Any]:
        def raw_connection(engine: Engine) -> Any:
            try:
                if self._hooks.on and id(engine.pool) not in self._by_pool:
                    self._account(engine)
            except Exception as error:
                contain(COMPONENT, error)
            return original(engine)

        return raw_connection

    def _begin(self, pool: Pool) -> Acquire | None:
        if not self._hooks.on:
            return None
        try:
            known = self._by_pool.get(id(pool))
            account = self._account(pool) if known is None else known[1]
            if not account.name:
                # It may be in a variable that nobody has looked at yet.
                self.kit.look()
                self._name(account)
            now = perf_counter()
            acquire = Acquire(account, CURRENT.get(), now)
            enter(acquire.exchange, "pool_wait", now)
            acquire.token = ACQUIRING.set(acquire)
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
            acquire.account.waiting.pop(id(acquire), None)
            ACQUIRING.reset(acquire.token)
            now = perf_counter()
            if acquire.opened_at:
                leave(acquire.exchange, "db", now)
                return
            leave(acquire.exchange, "pool_wait", now)
            if isinstance(error, PoolTimeout):
                acquire.account.timeouts.add()
            # A SingletonThreadPool hands out what the thread already has: nobody waited for that.
            if acquire.timed and (acquire.took or error is not None):
                acquire.account.wait.observe(now - acquire.began)
        except Exception as ours:
            contain(COMPONENT, ours)

    def _opening(self, _dialect: Any, _record: Any, _args: Any, _kwargs: Any) -> None:
        try:
            acquire = ACQUIRING.get()
            if acquire is None:
                return
            now = perf_counter()
            if not acquire.opened_at:
                acquire.account.waiting.pop(id(acquire), None)
                acquire.account.wait.observe(now - acquire.began)
                leave(acquire.exchange, "pool_wait", now)
                enter(acquire.exchange, "db", now)
            acquire.opened_at = now
        except Exception as error:
            contain(COMPONENT, error)

    def _opened(self, _connection: Any, _record: Any) -> None:
        try:
            acquire = ACQUIRING.get()
            if acquire is None:
                return
            if acquire.opened_at:
                acquire.account.create.observe(perf_counter() - acquire.opened_at)
            else:
                # The app's own ``creator`` opened it, and nothing told us when it began: the time
                # cannot be divided into waiting and opening, so it is neither.
                acquire.timed = False
        except Exception as error:
            contain(COMPONENT, error)

    def _checkout(self, _connection: Any, record: Any, _proxy: Any) -> None:
        try:
            if (acquire := ACQUIRING.get()) is not None:
                acquire.took = True
                acquire.account.server.reached = True
                site = None if self._held_after is None else call_site(FRAMES)
                self._out[id(record)] = Checkout(acquire, record, perf_counter(), site)
        except Exception as error:
            contain(COMPONENT, error)

    def _checkin(self, _connection: Any, record: Any) -> None:
        try:
            checkout = self._out.pop(id(record), None)
            if checkout is not None and not checkout.leaked:
                checkout.account.use.observe(perf_counter() - checkout.since)
        except Exception as error:
            contain(COMPONENT, error)

    def _detach(self, _connection: Any, record: Any) -> None:
        # The connection goes on living without the pool; it will not be given back.
        self._out.pop(id(record), None)

    def _reset(self, _connection: Any, record: Any, _state: Any) -> None:
        try:
            # The pool still points at the proxy that it handed out, and the proxy is no more.
            proxy = getattr(record, "fairy_ref", None)
            if proxy is None or proxy() is not None:
                return
            checkout = self._out.get(id(record))
            if checkout is not None:
                checkout.leaked = True
                name, route = checkout.account.name, checkout.route
                self.kit.meters.counter(catalogue.POOL_LEAKED, name, route).add()
        except Exception as error:
            contain(COMPONENT, error)

    def _account(self, subject: Engine | Pool) -> Account:
        """The account of a pool or an engine's pool; made when it is seen first."""
        pool = subject.pool if isinstance(subject, Engine) else subject
        # What stays when dispose() replaces the pool: the engine's dialect.
        anchor = vars(pool).get("_dialect", pool)
        with self._lock:
            account = self._accounts.get(anchor)
            if account is None:
                account = self._accounts[anchor] = Account(self.kit.meters)
                account.own = pool.logging_name or subject.logging_name or ""
                account.described = type(pool).__name__
            if isinstance(subject, Engine):
                # Not the short-lived one that Engine.execution_options() makes.
                account.engine = ref(getattr(subject, "_proxied", subject))
                account.described = _described(subject)
            account.pool = ref(pool)
            key = id(pool)
            self._by_pool[key] = (ref(pool, lambda _: self._by_pool.pop(key, None)), account)
            return account

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted))


class Statements:
    """How long statements take, by kind."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._rows: dict[tuple[str, str], Histogram] = {}

    def before(
        self, _: Any, _cursor: Any, statement: str, parameters: Any, context: Any, many: Any
    ) -> tuple[str, Any]:
        """A statement is handed to the driver."""
        try:
            if context is not None:
                exchange = CURRENT.get()
                if exchange is not None and not exchange.closed and not many:
                    sent(exchange, statement, context)
                context._fastobs_began = now = perf_counter()
                enter(exchange, "db", now)
        except Exception as error:
            contain(COMPONENT, error)
        return statement, parameters

    def after(
        self, _: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: Any
    ) -> None:
        """The driver has done it."""
        try:
            self._done(context, statement, "")
        except Exception as error:
            contain(COMPONENT, error)

    def failed(self, failure: Any) -> None:
        """The driver raised; also when the task was cancelled meanwhile."""
        try:
            error = failure.sqlalchemy_exception or failure.original_exception
            self._done(failure.execution_context, failure.statement, qualified_name(type(error)))
        except Exception as error:
            contain(COMPONENT, error)

    def begin_ending(self, connection: Connection) -> Ending | None:
        """A transaction is about to end; None if there is none to be ended any more."""
        try:
            if connection.closed or connection.invalidated:
                return None
            exchange, now = CURRENT.get(), perf_counter()
            enter(exchange, "db", now)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return connection.dialect.name, exchange, now

    def ended(
        self, ending: Ending | None, operation: str, failure: type[BaseException] | None
    ) -> None:
        """It has ended."""
        if ending is None:
            return
        try:
            system, exchange, began = ending
            now = perf_counter()
            leave(exchange, "db", now)
            row = None if failure else self._rows.get((system, operation))
            if row is None:
                row = self._row(system, operation, qualified_name(failure) if failure else "")
                if failure is None:
                    self._rows[system, operation] = row
            row.observe(now - began)
        except Exception as error:
            contain(COMPONENT, error)

    def _done(self, context: Any, statement: str | None, error: str) -> None:
        began = None if context is None else vars(context).pop("_fastobs_began", None)
        if began is None or statement is None:
            return
        now = perf_counter()
        leave(CURRENT.get(), "db", now)
        system = context.dialect.name
        if error:
            self._row(system, statement, error).observe(now - began)
            return
        key = (system, statement[:8])
        row = self._rows.get(key)
        if row is None:
            row = self._row(system, statement, "")
            # Only what does not begin with blanks or a comment says its kind this early.
            if key[1][:1].isalpha() and len(self._rows) < 1000:
                self._rows[key] = row
        row.observe(now - began)

    def _row(self, system: str, statement: str, error: str) -> Histogram:
        words = statement[:200].replace("(", " ").split(None, 1)
        operation = words[0].upper() if words else ""
        return self._meters.histogram(
            catalogue.DB_DURATION,
            SYSTEMS.get(system, system),
            operation if operation in OPERATIONS else "_OTHER",
            error,
        )


Ending = tuple[str, Exchange | None, float]
"""Dialect, the exchange that waits for it, and when it began."""


SYSTEMS = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
"""Dialects whose name is not the one of the semantic conventions
(https://opentelemetry.io/docs/specs/semconv/database/database-spans/)."""


def _readings(account: Account, pool: Pool, out: list[Checkout]) -> Iterator[Reading]:
    name = account.name
    yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
    yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
    if account.server.most is not None:
        yield Reading(catalogue.DB_SERVER_MAX, (name,), account.server.most)
    if (idle := _idle(pool)) is not None:
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
    for metric, value in _sizes(pool).items():
        yield Reading(metric, (name,), value)
    yield from ages(name, out)


def _held(checkout: Checkout, duration: float, threshold: float) -> dict[str, object]:
    """The fields of its line."""
    fields: dict[str, object] = {
        "event": "connection_held",
        "level": "warning",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "duration": round(duration, 6),
        "threshold": threshold,
        "pool": checkout.account.name,
        "route": checkout.route,
        "at": written(checkout.site),
    }
    if (exchange := checkout.exchange) is not None:
        fields["trace_id"] = exchange.trace_id
        fields["request_id"] = exchange.request_id
        # What is held after the end of its request was forgotten, or works in the background.
        fields["request_over"] = exchange.closed
    return {**fields, "pid": os.getpid()}


def _sizes(pool: Pool) -> dict[catalogue.Metric, int]:
    """What the pool may hold; what has no limit shows none."""
    if isinstance(pool, AssertionPool):
        return {catalogue.POOL_MAX: 1}
    sizes = {}
    if isinstance(pool, QueuePool) and (size := pool.size()) > 0:
        sizes[catalogue.POOL_IDLE_MAX] = size
        # No public name; -1 is no limit.
        if (overflow := getattr(pool, "_max_overflow", -1)) >= 0:
            sizes[catalogue.POOL_MAX] = size + overflow
    return sizes


def _idle(pool: Pool) -> int | None:
    """Open connections that nobody uses; None where the pool does not tell."""
    if not isinstance(pool, QueuePool):
        return None
    queue: Any = getattr(pool, "_pool", None)
    # The async queue keeps its records in an asyncio.Queue.
    queue = getattr(queue, "_queue", queue)
    records: Iterable[Any] | None = getattr(queue, "queue", getattr(queue, "_queue", None))
    if records is None:
        return pool.checkedin()
    # A record without a connection (it was detached or invalidated) is a place, not a connection.
    return sum(record.dbapi_connection is not None for record in list(records))


def _saturated(engine: Engine) -> bool:
    """Whether a connection could only be had by waiting among the requests."""
    pool = engine.pool
    # No public name; -1 is no limit.
    most = getattr(pool, "_max_overflow", -1)
    if not isinstance(pool, QueuePool) or most < 0:
        return False
    return pool.checkedin() <= 0 and pool.overflow() >= most


def _question(engine: Engine) -> Callable[[], object]:
    if not engine.dialect.is_async:
        return partial(_ask, engine)
    from sqlalchemy.ext.asyncio import AsyncEngine

    return partial(_ask_awaited, AsyncEngine(engine))


def _ask(engine: Engine) -> None:
    try:
        with engine.connect() as connection:
            connection.execute(select(1))
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        # It was an old connection; the pool has thrown away all of that age.
        with engine.connect() as connection:
            connection.execute(select(1))


async def _ask_awaited(engine: AsyncEngine) -> None:
    try:
        async with engine.connect() as connection:
            await connection.execute(select(1))
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        async with engine.connect() as connection:
            await connection.execute(select(1))


def _subject(obj: Any) -> Engine | Pool | None:
    """The engine or pool behind what an app has in its hands."""
    if not type(obj).__module__.startswith("sqlalchemy") and not isinstance(obj, Engine | Pool):
        return None
    # sessionmaker and async_sessionmaker keep their engine among their keywords.
    obj = getattr(obj, "kw", {}).get("bind", obj)
    obj = getattr(obj, "sync_engine", obj)
    return obj if isinstance(obj, Engine | Pool) else None


def _described(engine: Engine) -> str:
    """``driver:host/database``, never with credentials."""
    url = engine.url
    host = f"{url.host or ''}:{url.port}" if url.port else url.host or ""
    # Of a file only its name: where it lies says nothing, and differs between machines.
    database = (url.database or "").rpartition("/")[2]
    return f"{url.drivername}:{host}/{database}" if host else f"{url.drivername}:{database}"
