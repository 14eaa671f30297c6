"""Connection pools and statements of SQLAlchemy, 2.0 and newer, sync and async.

Everything is kept by connection record, not by counting up and down: a connection that leaks, is
detached, invalidated or reconnected in vain moves a plain counter for ever, but not these.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import perf_counter
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import Engine, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AssertionPool, NullPool, Pool, QueuePool, SingletonThreadPool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._health import Check
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._engines import question
from ._executions import Executions
from ._findings import HELD, LONG, WAITED, note
from ._held import FRAMES, Unseen, ages, tell_held
from ._hooks import Hooks, parameters
from ._server import Asker, Server
from ._sites import Site, call_site, written

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SQLAlchemy", "probe"]

COMPONENT = "probes.sqlalchemy"

RECORD = _ConnectionFairy._connection_record
"""Private, and needed to know what is out: with a release that does not have it, this adapter is not
attached, which is better than a wrong number."""

INNER = 2
"""Frames of ours when a connection is wanted: the hook around ``Pool.connect`` and `call_site`."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return SQLAlchemy(kit)


class Account:
    """One pool, through all its replacements: ``engine.dispose()`` makes a new pool object."""

    def __init__(self, meters: Meters) -> None:
        self.name = ""
        self.given = self.own = self.variable = self.sessions = self.described = ""
        self.engine: Callable[[], Engine | None] = lambda: None
        self.pool: Callable[[], Pool | None] = lambda: None
        self.waiting: set[Checkout] = set()
        # Who gave back a connection while others waited: route and line.
        self.returned: tuple[str, Site | None] | None = None
        self.server = Server()
        self.unseen = Unseen()
        self._meters = meters

    @property
    def wanted(self) -> str:
        return self.given or self.own or self.variable or self.sessions or self.described

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


class Checkout:
    """One call of ``Pool.connect``: it waits, perhaps opens a connection, and has it until that is back.

    Its fields are set where it is made: without slots some need not be, and a call of ``__init__`` takes
    as long as all of them.

    Attributes:
        account: Of the pool.
        exchange: Which request wants the connection; None outside of one.
        since: When it was called, as ``perf_counter`` says; then, when the connection was handed out.
        site: The app's line that wanted it.
        opened: When it began to open a connection; None if it did not, 0.0 if nobody knows when.
        proxy: Weak, to what the app holds; once that is gone, nobody can give the connection back.
        told: Whether there was a line about it.
    """

    account: Account
    exchange: Exchange | None
    since: float
    site: Site | None
    opened: float | None
    proxy: ReferenceType[Any] | None = None
    told = False

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route

    @property
    def leaked(self) -> bool:
        """Whether the app has forgotten the connection without giving it back."""
        return self.proxy is not None and self.proxy() is None


class SQLAlchemy(Probe):
    """The pools family, for SQLAlchemy."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._executions = Executions(kit.meters, self._hooks)
        # By identity of a pool that has been asked, for every checkout; by what outlives it, for good.
        self._by_pool: dict[int, tuple[ReferenceType[Pool], Account]] = {}
        self._accounts: WeakKeyDictionary[Any, Account] = WeakKeyDictionary()
        # By SQLAlchemy's record of the connection, of which there is one as long as it is out.
        self._out: dict[Any, Checkout] = {}
        self._lock = threading.RLock()
        self._held_after: float | None = None
        self._asker: Asker | None = None
        self._acquires: CodeType | None = None

    @property
    def kinds(self) -> tuple[type, ...]:
        asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
        own = (Engine, Pool, asynchronous.AsyncEngine) if asynchronous else (Engine, Pool)
        return (*own, *_factories())

    def attach(self, settings: Settings) -> None:
        assert settings.pools is not None
        # Who waited when the hooks came out got a connection after that, and gave it back unseen.
        self._out.clear()
        self._held_after = settings.pools.held_after
        every = settings.pools.server_limits
        self._asker = None if every is None else Asker(every)
        for owner in (Pool, SingletonThreadPool):
            usual = parameters(owner, "connect") == ("self",)
            around = self._around_connect if usual else self._around_connect_with
            self._hooks.wrap(owner, "connect", around)
        for target, name, listener in (
            (Engine, "do_connect", self._opening),
            (Pool, "connect", self._opened),
            (Pool, "detach", self._detach),
        ):
            self._listen(target, name, listener)
        # The event takes 0.3 us, whatever its listener does.
        if parameters(_ConnectionRecord, "checkin") == ("self", "_fairy_was_created"):
            self._hooks.wrap(_ConnectionRecord, "checkin", self._around_checkin)
        else:
            told = self._around_checkin(lambda _record, _created: None)
            self._listen(Pool, "checkin", lambda _connection, record: told(record))
        self._executions.attach()
        self._take_stock()

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def begin_anew(self) -> None:
        self._lock = threading.RLock()
        # Whose thread it was cannot give it back here, and the place in the pool is taken: until it is
        # disposed of. What the pool says, cannot be asked: a thread may have had the lock of its queue.
        out = [checkout.account for checkout in self._out.values()]
        self._out.clear()
        for account in list(self._accounts.values()):
            account.waiting.clear()
            account.unseen = Unseen(account.unseen.out + out.count(account))

    def _take_stock(self) -> None:
        """Whatever is out now was not seen to be taken."""
        for account in list(self._accounts.values()):
            account.unseen = Unseen(_taken(account.current()))

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
        if (subject := _subject(obj)) is None:
            # Sessions that have no engine yet.
            return
        account = self._account(subject)
        if isinstance(obj, _factories()):
            account.sessions = account.sessions or name
        else:
            account.variable = account.variable or name

    def read(self) -> Iterator[Reading]:
        checkouts = list(self._out.values())
        if self._held_after is not None:
            tell_held(self.kit.tell, checkouts, after=self._held_after)
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

    def unknown(self) -> str:
        if not self._executions.missing:
            return ""
        without = ", ".join(self._executions.missing)
        return f"this release has no {without}; what goes through it is not timed. Update fastobs."

    def _listen(self, target: Any, name: str, listener: Any, **options: Any) -> None:
        event.listen(target, name, listener, **options)
        self._hooks.undone_by(lambda: event.remove(target, name, listener))

    def _ask_servers(self) -> None:
        if self._asker is not None:
            accounts = list(self._accounts.values())
            engines = [(account.server, account.engine()) for account in accounts]
            self._asker.ask((server, question(engine)) for server, engine in engines if engine)

    # What follows runs within the app's calls: it must not raise.

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, accounts, out = self._hooks, self._by_pool, self._out

        # In one piece: two methods instead take 0.15 us.
        def connect(pool: Pool) -> Any:
            # `_acquiring` finds it by its name.
            checkout: Checkout | None = None
            try:
                if hooks.on:
                    known = accounts.get(id(pool))
                    account = self._first(pool) if known is None else known[1]
                    checkout = Checkout()
                    checkout.account = account
                    checkout.site = None if self._held_after is None else call_site(FRAMES, INNER)
                    checkout.exchange = exchange = CURRENT.get()
                    checkout.opened = None
                    checkout.since = now = perf_counter()
                    if exchange is not None:
                        enter(exchange, "pool_wait", now)
                    # Last: nothing can fail from here on and leave it waiting for ever.
                    account.waiting.add(checkout)
            except Exception as error:
                checkout = None
                contain(COMPONENT, error)
            try:
                connection = original(pool)
            except BaseException as error:
                if checkout is not None:
                    self._failed(checkout, error)
                raise
            if checkout is None:
                return connection
            try:
                account.waiting.discard(checkout)
                opened, now = checkout.opened, perf_counter()
                waited, checkout.since = now - checkout.since, now
                if exchange is not None:
                    leave(exchange, "db" if opened else "pool_wait", now)
                # The event "checkout" tells the record, too. But who has a listener for it goes a longer
                # way in SQLAlchemy, which takes as long as all that is done here.
                record = connection._connection_record
                # No public name; to make another one takes longer. Without it no leaks are seen.
                checkout.proxy = proxy = getattr(record, "fairy_ref", None)
                before = out.get(record)
                if before is not None and proxy is not None and before.proxy is proxy:
                    # A SingletonThreadPool hands out again what the thread has: nobody waited for that.
                    return connection
                out[record] = checkout
                account.server.reached = True
                if opened is None:
                    account.wait.observe(waited)
                    if waited >= LONG and exchange is not None:
                        self._tell_waited(checkout, waited, timed_out=False)
            except Exception as error:
                contain(COMPONENT, error)
            return connection

        self._acquires = connect.__code__
        return connect

    def _around_connect_with(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The same, whatever a pool is asked with."""

        def connect(pool: Pool, *args: Any, **options: Any) -> Any:
            return self._around_connect(lambda pool: original(pool, *args, **options))(pool)

        return connect

    def _first(self, pool: Pool) -> Account:
        """The account of a pool that has not been asked before; called by the hook around that."""
        account = self._account(_asking(pool))
        if not account.name:
            # It may be in a variable that nobody has looked at yet.
            self.kit.look()
            self._name(account)
        key = id(pool)
        self._by_pool[key] = (ref(pool, lambda _: self._by_pool.pop(key, None)), account)
        return account

    def _failed(self, checkout: Checkout, error: BaseException) -> None:
        try:
            account, exchange, opened = checkout.account, checkout.exchange, checkout.opened
            account.waiting.discard(checkout)
            now = perf_counter()
            leave(exchange, "db" if opened else "pool_wait", now)
            if opened:
                return
            if isinstance(error, PoolTimeout):
                account.timeouts.add()
            if opened is None:
                waited = now - checkout.since
                account.wait.observe(waited)
                if waited >= LONG and exchange is not None:
                    self._tell_waited(checkout, waited, timed_out=True)
        except Exception as ours:
            contain(COMPONENT, ours)

    def _acquiring(self) -> Checkout | None:
        """The call of ``Pool.connect`` within which an event is told; None outside of one."""
        # On the stack, since it is only asked when a connection is opened: a ContextVar for it takes
        # 0.5 us of each checkout.
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not self._acquires:
            frame = frame.f_back
        return None if frame is None else frame.f_locals.get("checkout")

    def _opening(self, _dialect: Any, _record: Any, _args: Any, _kwargs: Any) -> None:
        try:
            checkout = self._acquiring()
            if checkout is None:
                return
            now = perf_counter()
            if not checkout.opened:
                checkout.account.waiting.discard(checkout)
                checkout.account.wait.observe(now - checkout.since)
                leave(checkout.exchange, "pool_wait", now)
                enter(checkout.exchange, "db", now)
            checkout.opened = now
        except Exception as error:
            contain(COMPONENT, error)

    def _opened(self, _connection: Any, _record: Any) -> None:
        try:
            checkout = self._acquiring()
            if checkout is None:
                return
            if checkout.opened:
                checkout.account.create.observe(perf_counter() - checkout.opened)
            else:
                # The app's own ``creator`` opened it, and nothing told us when it began: the time
                # cannot be divided into waiting and opening, so it is neither.
                checkout.opened = 0.0
        except Exception as error:
            contain(COMPONENT, error)

    def _around_checkin(self, original: Callable[..., None]) -> Callable[..., None]:
        out = self._out

        def checkin(record: Any, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002
            # Of a connection that was forgotten this is told by whatever made the collector run. The event
            # "reset" would tell of it, too, but SQLAlchemy makes an object for it each time.
            try:
                checkout = out.pop(record, None)
                if checkout is not None:
                    proxy = checkout.proxy
                    if proxy is not None and proxy() is None:
                        self._leaked(checkout)
                    else:
                        account, held = checkout.account, perf_counter() - checkout.since
                        account.use.observe(held)
                        if account.waiting:
                            account.returned = checkout.route, checkout.site
                        if held >= LONG:
                            _tell_held_idle(checkout, held)
            except Exception as error:
                contain(COMPONENT, error)
            original(record, _fairy_was_created)

        return checkin

    def _tell_waited(self, checkout: Checkout, waited: float, *, timed_out: bool) -> None:
        """Whom the request waited for: who gave a connection back last, or has one the longest."""
        account, exchange = checkout.account, checkout.exchange
        assert exchange is not None
        holder = account.returned
        if timed_out or holder is None:
            out = [each for each in list(self._out.values()) if each.account is account]
            oldest = min(out, key=lambda each: each.since, default=None)
            holder = ("", None) if oldest is None else (oldest.route, oldest.site)
        route, site = holder
        note(exchange, WAITED, account.name, waited, route=route, at=written(site))

    def _detach(self, _connection: Any, record: Any) -> None:
        # The connection goes on living without the pool; it will not be given back. An async one that
        # was forgotten is thrown away like this.
        try:
            checkout = self._out.pop(record, None)
            if checkout is not None and checkout.leaked:
                self._leaked(checkout)
        except Exception as error:
            contain(COMPONENT, error)

    def _leaked(self, checkout: Checkout) -> None:
        self.kit.meters.counter(catalogue.POOL_LEAKED, checkout.account.name, checkout.route).add()

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
                account.unseen = Unseen(_taken(pool))
            if isinstance(subject, Engine):
                # Not the short-lived one that Engine.execution_options() makes.
                account.engine = ref(getattr(subject, "_proxied", subject))
                account.described = _described(subject)
            account.pool = ref(pool)
            return account

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted))


def _readings(account: Account, pool: Pool, out: list[Checkout]) -> Iterator[Reading]:
    name = account.name
    unseen = account.unseen.left(_taken(pool) - len(out))
    yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out) + unseen)
    yield Reading(catalogue.POOL_PENDING, (name,), len(account.waiting))
    if account.server.most is not None:
        yield Reading(catalogue.DB_SERVER_MAX, (name,), account.server.most)
    if (idle := _idle(pool)) is not None:
        yield Reading(catalogue.POOL_COUNT, (name, "idle"), idle)
    for metric, value in _sizes(pool).items():
        yield Reading(metric, (name,), value)
    yield from ages(name, out)


def _tell_held_idle(checkout: Checkout, held: float) -> None:
    """A request had a connection for long, and did other things most of that time."""
    exchange = checkout.exchange
    if exchange is None or exchange.closed:
        return
    # Its loop was held by others meanwhile: that it could not ask is not its doing.
    parts = exchange.parts
    idle = held - parts.get("db", 0.0) - parts.get("loop_wait", 0.0)
    if idle >= max(LONG, held / 2):
        note(
            exchange,
            HELD,
            checkout.account.name,
            held,
            idle=round(idle, 6),
            at=written(checkout.site),
        )


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


def _taken(pool: Pool | None) -> int:
    """How many connections are out, or just being opened; 0 where the pool does not tell, or is gone."""
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


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
    # A scoped_session has a factory; sessionmaker and async_sessionmaker keep their engine among their
    # keywords.
    obj = getattr(obj, "session_factory", obj)
    obj = getattr(obj, "kw", {}).get("bind", obj)
    obj = getattr(obj, "sync_engine", obj)
    return obj if isinstance(obj, Engine | Pool) else None


def _factories() -> tuple[type, ...]:
    """What makes sessions: all that an app has in a variable, often."""
    modules = sys.modules.get("sqlalchemy.orm"), sys.modules.get("sqlalchemy.ext.asyncio")
    names = ("sessionmaker", "scoped_session"), ("async_sessionmaker", "async_scoped_session")
    return tuple(
        getattr(module, name)
        for module, kinds in zip(modules, names, strict=True)
        if module is not None
        for name in kinds
    )


def _asking(pool: Pool) -> Engine | Pool:
    """The engine that asks this pool for a connection; the pool itself if none does."""
    # Below the hook lies `Engine.raw_connection`. It is looked for once for each pool; a hook around that
    # method would take its time for each connection. If somebody else has wrapped the pool's method, an
    # engine that is in no variable is only called after its pool.
    caller = sys._getframe(2).f_back
    engine: Any = None if caller is None else caller.f_locals.get("self")
    return engine if issubclass(type(engine), Engine) and engine.pool is pool else pool


def _described(engine: Engine) -> str:
    """``driver:host/database``, never with credentials."""
    url = engine.url
    host = f"{url.host or ''}:{url.port}" if url.port else url.host or ""
    # Of a file only its name: where it lies says nothing, and differs between machines.
    database = (url.database or "").rpartition("/")[2]
    return f"{url.drivername}:{host}/{database}" if host else f"{url.drivername}:{database}"
