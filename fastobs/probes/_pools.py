"""What the adapters of database drivers have in common: accounts of connection pools."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any
from weakref import ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._health import Check
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Counter, Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._held import FRAMES, Unseen, ages, tell_held
from ._hooks import Hooks
from ._server import Asker, Question, Server
from ._sites import Site, call_site

__all__ = [
    "ACQUIRING",
    "Account",
    "Lease",
    "Pools",
]


INNER = 2
"""Frames above the hook around a pool's method: ours, up to `call_site`."""


class Account:
    """One pool, and where it is counted.

    Attributes:
        pool: The pool, or None when it is gone.
        own: What the pool calls itself.
        described: Driver, host and database; never with credentials.
        blocks: Whether it has people wait for a connection, and does not refuse at once.
        direct: Whether every connection of it is opened where that is seen, so that nobody has to be told.
        waiting: Who waits for a connection now.
        server: What is known of the server behind it.
        unseen: What is out that was not seen to be taken, where the pool tells of it.
    """

    wait: Histogram | None = None
    create: Histogram | None = None
    use: Histogram | None = None
    timeouts: Counter | None = None

    def __init__(
        self, pool: Callable[[], Any], meters: Meters, *, described: str, own: str = ""
    ) -> None:
        self.pool = pool
        self.name = self.given = self.variable = ""
        self.own = own
        self.described = described
        self.blocks = True
        self.direct = False
        self.waiting: set[Lease] = set()
        self.server = Server()
        self.unseen = Unseen()
        # Connections are opened before the pool is in the variable that names it.
        self._opened: deque[float] = deque(maxlen=1000)
        self._meters = meters

    @property
    def wanted(self) -> str:
        return self.given or self.own or self.variable or self.described

    def name_it(self, name: str, known: Collection[catalogue.Metric]) -> None:
        """From now on everything that can be known is counted under this name."""
        meters = self._meters
        self.name = name
        if catalogue.POOL_WAIT in known:
            self.wait = meters.histogram(catalogue.POOL_WAIT, name)
        if catalogue.POOL_CREATE in known:
            self.create = meters.histogram(catalogue.POOL_CREATE, name)
            while self._opened:
                self.create.observe(self._opened.popleft())
        if catalogue.POOL_USE in known:
            self.use = meters.histogram(catalogue.POOL_USE, name)
        if catalogue.POOL_TIMEOUTS in known:
            self.timeouts = meters.counter(catalogue.POOL_TIMEOUTS, name)
        if catalogue.POOL_LEAKED in known:
            # Alerts read it, so it exists before the first leak.
            meters.counter(catalogue.POOL_LEAKED, name, "")

    def waited(self, took: float) -> None:
        """Somebody waited for a connection, so many seconds."""
        if self.wait is not None:
            self.wait.observe(took)

    def opened(self, took: float) -> None:
        """A connection was opened, in so many seconds."""
        if not self.name:
            self._opened.append(took)
        elif self.create is not None:
            self.create.observe(took)


class Lease:
    """One connection for one caller, who waits for it, perhaps opens it, and has it.

    Attributes:
        since: When they began to wait for it, and once they have it, when they got it; as
            ``perf_counter`` says.
        waits: False as soon as they open a connection: that is not waiting.
        part: The part of the request's time that goes on for it; empty if none does.
        ended: Whether the call for it is over; a task that it started may outlive it.
        waited: Seconds that were waited in this context, for this one and for those before.
        before: The call within which this one is made.
        reached: Whether the pool came as far as to have a connection connected.
        site: The app's line that wanted it.
        told: Whether there was a line about it.
        next: What the pool is about to hand out, where its call returns something else.
    """

    __slots__ = (
        "account",
        "before",
        "ended",
        "exchange",
        "next",
        "part",
        "reached",
        "since",
        "site",
        "told",
        "waited",
        "waits",
    )

    def __init__(
        self, account: Account, exchange: Exchange | None, before: Lease | None, since: float
    ) -> None:
        self.account = account
        self.exchange = exchange
        self.since = since
        self.waits = True
        self.part = ""
        self.ended = self.reached = self.told = False
        self.site: Site | None = None
        self.next: Any = None
        if before is None:
            self.waited, self.before = 0.0, None
        else:
            self.waited = before.waited
            self.before = None if before.ended else before

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


ACQUIRING: ContextVar[Lease | None] = ContextVar("fastobs_lease", default=None)
"""The latest call for a connection; as long as it has not ended, a connection that is opened is opened
for it. A driver may open it in a task of its own, which has a copy of the caller's context."""


class Pools(Probe, ABC):
    """The pools family, for one library: a subclass hooks it, and tells from its hooks what happens.

    It goes the same way everywhere: `_begin`; `_connects` if the caller opens a connection itself;
    `_got`, or `_over` with an error; `_hand_out` and, when it is given back, `_take_back`.
    """

    component = "probes.pools"
    """Where an error of ours is counted."""
    timeout: type[BaseException] = TimeoutError
    """What the pool raises for who has waited too long."""
    knows_free = False
    """Whether it can tell without a wait that a pool has a connection: `_may_wait`."""
    held_after: float | None = None
    """Seconds after which a connection that is out has a line in the log; None for no such lines."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._known: set[catalogue.Metric] = set()
        self._accounts: dict[int, Account] = {}
        # By the id of what was handed out, which is nobody else's as long as the other dict has it.
        self._out: dict[int, Lease] = {}
        self._alive: dict[int, ref[Any]] = {}
        self._lock = threading.RLock()
        self._asker: Asker | None = None

    def attach(self, settings: Settings) -> None:
        assert settings.pools is not None
        self.held_after = settings.pools.held_after
        every = settings.pools.server_limits
        self._asker = None if every is None else Asker(every)

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()
        self._alive.clear()

    def begin_anew(self) -> None:
        self._lock = threading.RLock()
        self._out.clear()
        self._alive.clear()
        for account in list(self._accounts.values()):
            account.waiting.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
            return False
        self._give(self._account(obj), name)
        return True

    def found(self, obj: Any, name: str) -> None:
        account = self._account(obj)
        account.variable = account.variable or name

    def read(self) -> Iterator[Reading]:
        out = self._leases()
        if self.held_after is not None:
            tell_held(self.kit.tell, out, after=self.held_after)
        self._ask_servers()
        for account in list(self._accounts.values()):
            pool = account.pool()
            mine = [lease for lease in out if lease.account is account]
            if pool is not None and self._shown(pool, mine):
                if not account.name:
                    self._name(account)
                yield from self._readings(account, pool, mine)
                yield from ages(account.name, mine)
                if (most := account.server.most) is not None:
                    yield Reading(catalogue.DB_SERVER_MAX, (account.name,), most)

    def checks(self) -> Iterator[Check]:
        for account in list(self._accounts.values()):
            pool = account.pool()
            if pool is not None and self._shown(pool, []):
                if not account.name:
                    self._name(account)
                yield Check(account.name, self._ask(pool), busy=partial(self._saturated, pool))

    def status(self) -> Iterator[tuple[str, str]]:
        for account in list(self._accounts.values()):
            if (pool := account.pool()) is not None:
                yield account.name or account.wanted, self._what(pool)

    @abstractmethod
    def _open_account(self, pool: Any) -> Account:
        """The account of a pool that is seen for the first time."""

    @abstractmethod
    def _what(self, pool: Any) -> str:
        """What it is, for people."""

    @abstractmethod
    def _shown(self, pool: Any, out: list[Lease]) -> bool:
        """Whether there is anything to tell of it: not of one that is closed."""

    @abstractmethod
    def _readings(self, account: Account, pool: Any, out: list[Lease]) -> Iterator[Reading]:
        """Its sizes now."""

    @abstractmethod
    def _ask(self, pool: Any) -> Callable[[], object]:
        """Asks whether its server answers, on one of its connections; sync or async as the pool is."""

    @abstractmethod
    def _saturated(self, pool: Any) -> bool:
        """Whether a connection could only be had by waiting among the requests."""

    def _limit(self, pool: Any) -> Question | None:  # noqa: ARG002
        """Asks its server for the most connections; None if it is not to be asked."""
        return None

    def _leases(self) -> list[Lease]:
        """Of all connections that are out."""
        return list(self._out.values())

    def _ask_servers(self) -> None:
        if self._asker is not None:
            accounts = [(account, account.pool()) for account in list(self._accounts.values())]
            self._asker.ask(
                (account.server, self._limit(pool))
                for account, pool in accounts
                if pool is not None
            )

    def _leaked(self, lease: Lease) -> None:
        """A connection is gone that was not given back; called wherever the collector runs."""

    # What follows runs within the app's calls: it must not raise.

    def _around_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, begin, got = self._hooks, self._begin, self._got

        def acquire(pool: Any, *args: Any, **options: Any) -> Any:
            lease = begin(pool) if hooks.on else None
            try:
                # To hand on what is not there takes 0.1 us.
                connection = original(pool, *args, **options) if args or options else original(pool)
            except BaseException as error:
                if lease is not None:
                    self._over(lease, error)
                raise
            if lease is not None:
                got(lease, connection)
            return connection

        return acquire

    def _around_async_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, begin, got = self._hooks, self._begin, self._got

        async def acquire(pool: Any, *args: Any, **options: Any) -> Any:
            lease = begin(pool) if hooks.on else None
            try:
                connection = await original(pool, *args, **options)
            except BaseException as error:
                if lease is not None:
                    self._over(lease, error)
                raise
            if lease is not None:
                got(lease, connection)
            return connection

        return acquire

    def _begin(self, pool: Any) -> Lease | None:
        """Somebody wants a connection."""
        try:
            account = self._accounts.get(id(pool))
            if account is None or not account.name:
                account = self._introduced(pool)
            exchange, now = CURRENT.get(), perf_counter()
            lease = Lease(account, exchange, ACQUIRING.get(), now)
            if self.held_after is not None:
                lease.site = call_site(FRAMES, INNER)
            if (
                exchange is not None
                and account.blocks
                and (not self.knows_free or self._may_wait(pool))
            ):
                enter(exchange, "pool_wait", now)
                lease.part = "pool_wait"
            ACQUIRING.set(lease)
            # Last: nothing can fail from here on and leave it waiting for ever.
            account.waiting.add(lease)
        except Exception as error:
            contain(self.component, error)
            return None
        return lease

    def _may_wait(self, pool: Any) -> bool:  # noqa: ARG002
        """Whether there may be a wait that is a part of the request's time; asked if `knows_free`."""
        return True

    def _got(self, lease: Lease, connection: Any) -> None:  # noqa: ARG002
        """They have it."""
        self._over(lease, None)

    def _over(self, lease: Lease, error: BaseException | None) -> None:
        """They have it, or an error instead."""
        try:
            account, waits = lease.account, lease.waits
            # First: nothing that fails after it leaves it waiting for ever.
            account.waiting.discard(lease)
            now = perf_counter()
            waited = now - lease.since
            self._end(lease, now)
            if waits:
                late = isinstance(error, self.timeout) and account.blocks
                if late and account.timeouts is not None:
                    account.timeouts.add()
                account.waited(waited)
        except Exception as ours:
            contain(self.component, ours)

    def _end(self, lease: Lease, now: float) -> None:
        """The call is over. May raise."""
        lease.ended = True
        if lease.waits:
            lease.waited += now - lease.since
        if (before := lease.before) is not None:
            before.waited = lease.waited
            ACQUIRING.set(before)
        if lease.part:
            leave(lease.exchange, lease.part, now)

    def _waited(self, lease: Lease) -> float:
        """The caller waits no more, and it is now. May raise."""
        now = perf_counter()
        account, waited = lease.account, now - lease.since
        lease.waits = False
        account.waiting.discard(lease)
        lease.since = now
        lease.waited += waited
        if lease.part:
            lease.part = ""
            leave(lease.exchange, "pool_wait", now)
        account.waited(waited)
        return now

    def _connects(self, lease: Lease) -> None:
        """From now on the caller opens a connection: it has waited. May raise."""
        now = self._waited(lease)
        if lease.exchange is not None:
            enter(lease.exchange, "db", now)
            lease.part = "db"

    def _hand_out(self, lease: Lease, connection: Any, now: float) -> None:
        """The connection is out. May raise."""
        key = id(connection)
        lease.since = now
        lease.account.server.reached = True
        if key not in self._alive:
            self._seen(key, connection)
        self._out[key] = lease

    def _seen(self, key: int, connection: Any) -> None:
        """The connection is handed out for the first time."""
        self._alive[key] = ref(connection, lambda _: self._gone(key))

    def _gone(self, key: int) -> None:
        self._alive.pop(key, None)
        if (lease := self._out.pop(key, None)) is not None:
            self._leaked(lease)

    def _take_back(self, connection: Any, pool: Any = None) -> None:
        """The connection is not out any more, if it was. May raise.

        Args:
            connection: What was handed out.
            pool: Who gets it, if that may be another one, which refuses it.
        """
        key = id(connection)
        lease = self._out.get(key)
        if lease is None or (pool is not None and lease.account.pool() is not pool):
            return
        del self._out[key]
        if (use := lease.account.use) is not None:
            use.observe(perf_counter() - lease.since)

    def _introduced(self, pool: Any) -> Account:
        """The account of this pool, with a name."""
        account = self._account(pool)
        if not account.name:
            # It may be in a variable that nobody has looked at yet.
            self.kit.look()
            self._name(account)
        return account

    def _account(self, pool: Any) -> Account:
        with self._lock:
            key = id(pool)
            if (account := self._accounts.get(key)) is None:
                account = self._accounts[key] = self._open_account(pool)
            return account

    def _give(self, account: Account, name: str | None) -> None:
        """This is its name, whatever else it could be called; None changes nothing."""
        if name is not None and name != account.given:
            account.given = name
            if account.name:
                self._name(account)

    def _close_account(self, key: int) -> Callable[[Any], object]:
        """For a weak reference to the pool with this id."""
        return lambda _: self._accounts.pop(key, None)

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted), self._known)
