"""What the adapters of database drivers have in common: accounts of connection pools."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Protocol
from weakref import ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Counter, Histogram

from . import Kit, Probe
from ._hooks import Hooks

__all__ = [
    "ACQUIRING",
    "Account",
    "Acquire",
    "Checkout",
    "Pools",
    "ages",
]


class Account:
    """One pool, and where it is counted.

    Attributes:
        pool: The pool, or None when it is gone.
        own: What the pool calls itself.
        described: Driver, host and database; never with credentials.
        waiting: Who waits for a connection now.
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
        self.waiting: dict[int, Acquire] = {}
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


class Acquire:
    """One call for a connection: it waits for one, and perhaps opens it.

    Attributes:
        began: When, as ``perf_counter`` says.
        waits: False as soon as it opens a connection: that is not waiting.
        ended: Whether the call is over; a task that it started may outlive it.
    """

    __slots__ = ("account", "before", "began", "ended", "exchange", "waits")

    def __init__(self, account: Account, exchange: Exchange | None, began: float) -> None:
        self.account = account
        self.exchange = exchange
        self.began = began
        self.before = ACQUIRING.get()
        self.waits = True
        self.ended = False


class Checkout:
    """A connection that is out, since when and for whom.

    Attributes:
        connection: What the pool handed out. While it lives, its id is nobody else's.
    """

    __slots__ = ("account", "connection", "exchange", "since")

    connection: ref[Any]

    def __init__(self, acquire: Acquire, since: float) -> None:
        self.account = acquire.account
        self.exchange = acquire.exchange
        self.since = since

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_acquire", default=None)
"""The call that a connection is opened for. A driver may open it in a task of its own, which has a
copy of the caller's context."""


class Pools(Probe, ABC):
    """The pools family, for one library: a subclass hooks it, and tells from its hooks what happens.

    A pool's life is the same everywhere: `_begin`; `_connects` if the caller opens a connection
    itself; `_got` or `_failed`; `_out` for as long as it is out.
    """

    component = "probes.pools"
    """Where an error of ours is counted."""
    timeout: type[BaseException] = TimeoutError
    """What the pool raises for who has waited too long."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._known: set[catalogue.Metric] = set()
        self._accounts: dict[int, Account] = {}
        self._out: dict[int, Checkout] = {}
        self._lock = threading.RLock()

    def detach(self) -> None:
        self._hooks.undo()
        self._out.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
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
        out = list(self._out.values())
        for account in list(self._accounts.values()):
            pool = account.pool()
            mine = [checkout for checkout in out if checkout.account is account]
            if pool is not None and self._shown(pool, mine):
                if not account.name:
                    self._name(account)
                yield from self._readings(account, pool, mine)
                yield from ages(account.name, mine)

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
    def _shown(self, pool: Any, out: list[Checkout]) -> bool:
        """Whether there is anything to tell of it: not of one that is closed."""

    @abstractmethod
    def _readings(self, account: Account, pool: Any, out: list[Checkout]) -> Iterator[Reading]:
        """Its sizes now."""

    def _leaked(self, checkout: Checkout) -> None:
        """A connection is gone that was not given back; called wherever the collector runs."""

    # What follows runs within the app's calls: it must not raise.

    def _around_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def acquire(pool: Any, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = original(pool, *args, **options)
            except BaseException as error:
                self._failed(acquire, error)
                raise
            self._got(acquire, connection)
            return connection

        return acquire

    def _around_async_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def acquire(pool: Any, *args: Any, **options: Any) -> Any:
            acquire = self._begin(pool)
            try:
                connection = await original(pool, *args, **options)
            except BaseException as error:
                self._failed(acquire, error)
                raise
            self._got(acquire, connection)
            return connection

        return acquire

    def _begin(self, pool: Any) -> Acquire | None:
        """Somebody wants a connection."""
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
            contain(self.component, error)
            return None
        return acquire

    def _got(self, acquire: Acquire | None, connection: Any) -> None:  # noqa: ARG002
        """They have it."""
        self._over(acquire, None)

    def _failed(self, acquire: Acquire | None, error: BaseException) -> None:
        """They do not get one."""
        self._over(acquire, error)

    def _over(self, acquire: Acquire | None, error: BaseException | None) -> None:
        if acquire is None:
            return
        try:
            now = self._end(acquire)
            account = acquire.account
            if acquire.waits:
                if account.timeouts is not None and isinstance(error, self.timeout):
                    account.timeouts.add()
                account.waited(now - acquire.began)
        except Exception as ours:
            contain(self.component, ours)

    def _end(self, acquire: Acquire) -> float:
        acquire.ended = True
        acquire.account.waiting.pop(id(acquire), None)
        ACQUIRING.set(acquire.before)
        now = perf_counter()
        leave(acquire.exchange, "pool_wait" if acquire.waits else "db", now)
        return now

    def _connects(self, acquire: Acquire) -> None:
        """From now on the caller opens a connection: it has waited. May raise."""
        acquire.waits = False
        account, exchange, now = acquire.account, acquire.exchange, perf_counter()
        account.waiting.pop(id(acquire), None)
        account.waited(now - acquire.began)
        leave(exchange, "pool_wait", now)
        enter(exchange, "db", now)

    def _hand_out(self, acquire: Acquire, connection: Any, now: float) -> None:
        """The connection is out. May raise."""
        key = id(connection)
        checkout = Checkout(acquire, now)
        checkout.connection = ref(connection, lambda _: self._gone(key))
        self._out[key] = checkout

    def _gone(self, key: int) -> None:
        if (checkout := self._out.pop(key, None)) is not None:
            self._leaked(checkout)

    def _take_back(self, connection: Any) -> None:
        """The connection is not out any more, if it was. May raise."""
        checkout = self._out.pop(id(connection), None)
        if checkout is not None and checkout.account.use is not None:
            checkout.account.use.observe(perf_counter() - checkout.since)

    def _account(self, pool: Any) -> Account:
        with self._lock:
            key = id(pool)
            if (account := self._accounts.get(key)) is None:
                account = self._accounts[key] = self._open_account(pool)
            return account

    def _close_account(self, key: int) -> Callable[[Any], object]:
        """For a weak reference to the pool with this id."""
        return lambda _: self._accounts.pop(key, None)

    def _name(self, account: Account) -> None:
        with self._lock:
            account.name_it(self.kit.names.claim(account, account.wanted), self._known)


class Held(Protocol):
    """A connection that is out."""

    @property
    def since(self) -> float: ...
    @property
    def route(self) -> str: ...


def ages(name: str, out: Iterable[Held]) -> Iterator[Reading]:
    """Of each route the connection that has been out for the longest time."""
    now = perf_counter()
    oldest: dict[str, float] = {}
    for checkout in out:
        route = checkout.route
        oldest[route] = max(now - checkout.since, oldest.get(route, 0.0))
    for route, age in oldest.items():
        yield Reading(catalogue.POOL_OLDEST, (name, route), age)
