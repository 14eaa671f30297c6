"""Connection pools and commands of pymongo's clients, sync and async, through its monitoring events.

A client takes listeners when it is made, and never again. So those that are made while an app is
instrumented get one; others need the line ``MongoClient(event_listeners=[Listener()])``.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial, wraps
from time import perf_counter
from typing import Any
from weakref import WeakSet, ref

from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.pool import Pool as AsyncPool
from pymongo.monitoring import (
    CommandListener,
    ConnectionCheckOutFailedReason,
    ConnectionPoolListener,
)
from pymongo.synchronous.pool import Pool

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._health import Check
from fastobs._parts import enter, leave
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._held import ages
from ._hooks import Hooks
from ._operations import Operations

__all__ = ["Listener", "PyMongo", "probe"]

COMPONENT = "probes.pymongo"

CLIENTS = (MongoClient, AsyncMongoClient)

COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}")

DEAF = (
    "pymongo takes listeners only when a client is made: make it after instrument(), or with "
    "MongoClient(event_listeners=[Listener()]), Listener from fastobs.probes.pymongo."
)


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return PyMongo(kit)


class Acquire:
    """A check-out that has begun: it waits, and then perhaps opens a connection."""

    __slots__ = ("began", "ended", "exchange", "listener", "opens", "waits")

    def __init__(self, listener: Listener, exchange: Exchange | None, began: float) -> None:
        self.listener = listener
        self.exchange = exchange
        self.began = began
        self.waits = True
        self.ended = self.opens = False


class Checkout:
    """A connection that is out."""

    __slots__ = ("exchange", "since")

    def __init__(self, exchange: Exchange | None, since: float) -> None:
        self.exchange = exchange
        self.since = since

    @property
    def route(self) -> str:
        return "" if self.exchange is None else self.exchange.route


class Operation:
    """A command that is under way."""

    __slots__ = ("ended", "exchange")

    def __init__(self, exchange: Exchange | None) -> None:
        self.exchange = exchange
        self.ended = False


ACQUIRING: ContextVar[Acquire | None] = ContextVar("fastobs_mongo_acquire", default=None)
OPERATING: ContextVar[Operation | None] = ContextVar("fastobs_mongo_operation", default=None)

LISTENERS: WeakSet[Listener] = WeakSet()
"""Those that were made; each lives as long as its client."""


def _contained(told: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    # pymongo prints what a listener raises.
    @wraps(told)
    def listen(listener: Any, event: Any) -> None:
        try:
            told(listener, event)
        except Exception as error:
            contain(COMPONENT, error)

    return listen


class Listener(CommandListener, ConnectionPoolListener):
    """Hears what one client does. Whom it tells comes when an app is instrumented."""

    def __init__(self) -> None:
        self.probe: PyMongo | None = None
        self.client: Callable[[], Any] = lambda: None
        self.name = self.given = self.variable = self.address = ""
        self.pools: set[Any] = set()
        self.open: set[Any] = set()
        self.out: dict[Any, Checkout] = {}
        self.waiting: dict[int, Acquire] = {}
        # Connections may be opened before the client is in the variable that names it.
        self._opened: deque[float] = deque(maxlen=1000)
        LISTENERS.add(self)

    @property
    def wanted(self) -> str:
        return self.given or self.variable or f"mongodb:{self.address}"

    def name_it(self, name: str, meters: Meters) -> None:
        """From now on everything is counted under this name."""
        self.wait = meters.histogram(catalogue.POOL_WAIT, name)
        self.create = meters.histogram(catalogue.POOL_CREATE, name)
        self.use = meters.histogram(catalogue.POOL_USE, name)
        self.timeouts = meters.counter(catalogue.POOL_TIMEOUTS, name)
        while self._opened:
            self.create.observe(self._opened.popleft())
        self.name = name

    @property
    def counts(self) -> bool:
        """Whether somebody wants to know."""
        return self.probe is not None and self.probe.on and bool(self.name)

    @_contained
    def pool_created(self, event: Any) -> None:
        self.pools.add(event.address)
        self.address = self.address or ":".join(str(part) for part in event.address if part)

    def pool_ready(self, event: Any) -> None: ...

    def pool_cleared(self, event: Any) -> None: ...

    @_contained
    def pool_closed(self, event: Any) -> None:
        self.pools.discard(event.address)

    @_contained
    def connection_created(self, event: Any) -> None:  # noqa: ARG002 - an interface
        acquire = self._acquiring()
        if acquire is not None and acquire.waits:
            now = perf_counter()
            self._waited(acquire, now)
            acquire.opens = True
            enter(acquire.exchange, "db", now)

    @_contained
    def connection_ready(self, event: Any) -> None:
        self.open.add((event.address, event.connection_id))
        self._settled()
        if self.counts:
            self.create.observe(event.duration)
        elif not self.name:
            self._opened.append(event.duration)

    @_contained
    def connection_closed(self, event: Any) -> None:
        key = event.address, event.connection_id
        self.open.discard(key)
        self.out.pop(key, None)
        self._settled()

    @_contained
    def connection_check_out_started(self, event: Any) -> None:  # noqa: ARG002
        # Also before an app is instrumented: what is taken then is used afterwards.
        if self.probe is not None and not self.name:
            self.probe.name(self)
        now = perf_counter()
        acquire = Acquire(self, CURRENT.get() if self.counts else None, now)
        enter(acquire.exchange, "pool_wait", now)
        ACQUIRING.set(acquire)
        self.waiting[id(acquire)] = acquire

    @_contained
    def connection_checked_out(self, event: Any) -> None:
        acquire = self._acquiring()
        exchange = CURRENT.get() if acquire is None else acquire.exchange
        self.end(acquire)
        self.out[event.address, event.connection_id] = Checkout(exchange, perf_counter())

    @_contained
    def connection_check_out_failed(self, event: Any) -> None:
        self.end(self._acquiring())
        if self.counts and event.reason == ConnectionCheckOutFailedReason.TIMEOUT:
            self.timeouts.add()

    @_contained
    def connection_checked_in(self, event: Any) -> None:
        checkout = self.out.pop((event.address, event.connection_id), None)
        if checkout is not None and self.counts:
            self.use.observe(perf_counter() - checkout.since)
        # A command that was cancelled has no end of its own.
        self._ended()

    @_contained
    def started(self, event: Any) -> None:  # noqa: ARG002
        if self.counts and (exchange := CURRENT.get()) is not None:
            OPERATING.set(Operation(exchange))
            enter(exchange, "db", perf_counter())

    @_contained
    def succeeded(self, event: Any) -> None:
        self._ended()
        if self.probe is not None and self.counts:
            self.probe.commands.row(event.command_name).observe(event.duration_micros / 1e6)

    @_contained
    def failed(self, event: Any) -> None:
        self._ended()
        if self.probe is not None and self.counts:
            # What did not come from the server is told with its class.
            kind = event.failure.get("errtype", "OperationFailure")
            row = self.probe.commands.row(event.command_name, f"pymongo.errors.{kind}")
            row.observe(event.duration_micros / 1e6)

    def end(self, acquire: Acquire | None) -> None:
        """The check-out is over, whatever became of it."""
        if acquire is None or acquire.ended:
            return
        acquire.ended = True
        if acquire.waits:
            self._waited(acquire, perf_counter())
        if acquire.opens:
            acquire.opens = False
            leave(acquire.exchange, "db", perf_counter())

    def _acquiring(self) -> Acquire | None:
        acquire = ACQUIRING.get()
        return acquire if acquire is not None and acquire.listener is self else None

    def _waited(self, acquire: Acquire, now: float) -> None:
        acquire.waits = False
        self.waiting.pop(id(acquire), None)
        leave(acquire.exchange, "pool_wait", now)
        if self.counts:
            self.wait.observe(now - acquire.began)

    def _settled(self) -> None:
        acquire = self._acquiring()
        if acquire is not None and acquire.opens:
            acquire.opens = False
            leave(acquire.exchange, "db", perf_counter())

    def _ended(self) -> None:
        operation = OPERATING.get()
        if operation is not None and not operation.ended:
            operation.ended = True
            leave(operation.exchange, "db", perf_counter())


class PyMongo(Probe):
    """The pools family, for pymongo."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.commands = Operations(kit.meters, "mongodb", COMMAND)
        self._hooks = Hooks()
        self._sees_cancelled = False
        self._deaf: dict[int, tuple[ref[Any], str]] = {}
        self._lock = threading.RLock()

    @property
    def kinds(self) -> tuple[type, ...]:
        return CLIENTS

    @property
    def on(self) -> bool:
        return self._hooks.on

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        for client in CLIENTS:
            self._hooks.wrap(client, "__init__", self._around_init)
        # No event tells that who waited was cancelled, and neither does a public name.
        self._sees_cancelled = all("_get_conn" in vars(pool) for pool in (Pool, AsyncPool))
        if self._sees_cancelled:
            self._hooks.wrap(Pool, "_get_conn", self._around_get)
            self._hooks.wrap(AsyncPool, "_get_conn", self._around_async_get)

    def detach(self) -> None:
        self._hooks.undo()

    def begin_anew(self) -> None:
        self._lock = threading.RLock()
        for listener in list(LISTENERS):
            # Of what was idle, its pool tells that it is closed.
            listener.open.difference_update(listener.out)
            listener.out.clear()
            listener.waiting.clear()

    def unknown(self) -> str:
        if self._sees_cancelled:
            return ""
        return "this release hides who is cancelled while waiting, so pending is unknown. Update fastobs."

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, CLIENTS):
            return False
        listener = self._listener(obj, name or "")
        if listener is not None and name and name != listener.given:
            listener.given = name
            if listener.name:
                self.name(listener)
        return True

    def found(self, obj: Any, name: str) -> None:
        if (listener := self._listener(obj, name)) is not None:
            listener.variable = listener.variable or name

    def read(self) -> Iterator[Reading]:
        for listener in self._listeners():
            if not listener.name:
                self.name(listener)
            yield from _readings(listener, pending=self._sees_cancelled)

    def checks(self) -> Iterator[Check]:
        for listener in self._listeners():
            if not listener.name:
                self.name(listener)
            ask = _question(listener.client())
            yield Check(listener.name, ask, busy=partial(_saturated, listener))

    def status(self) -> Iterator[tuple[str, str]]:
        for listener in self._listeners():
            client = listener.client()
            most = _most(client)
            size = "no limit" if most is None else f"at most {most} connections to a server"
            yield listener.name or listener.wanted, f"MongoDB {type(client).__name__}, {size}"

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        for client, name in list(self._deaf.values()):
            if client() is not None:
                yield name or f"a {type(client()).__name__}", DEAF

    def name(self, listener: Listener) -> None:
        """Give a client the best name that there is."""
        if not listener.name:
            self.kit.look()
        with self._lock:
            name = self.kit.names.claim(listener, listener.wanted)
            listener.name_it(name, self.kit.meters)

    def _listeners(self) -> list[Listener]:
        return [
            listener for listener in list(LISTENERS) if listener.probe is self and listener.pools
        ]

    def _listener(self, client: Any, name: str) -> Listener | None:
        """The one that this client was made with."""
        for listener in client.options.event_listeners:
            if isinstance(listener, Listener):
                listener.client, listener.probe = ref(client), self
                return listener
        key = id(client)
        known = self._deaf.get(key)
        gone = ref(client, lambda _: self._deaf.pop(key, None))
        self._deaf[key] = gone, name or ("" if known is None else known[1])
        return None

    # What follows runs within the app's calls: it must not raise.

    def _around_init(self, original: Callable[..., Any]) -> Callable[..., None]:
        def init(client: Any, *args: Any, **options: Any) -> None:
            if not self._hooks.on:
                original(client, *args, **options)
                return
            original(client, *args, **self._with_listener(options))
            try:
                self._listener(client, "")
            except Exception as error:
                contain(COMPONENT, error)

        return init

    def _with_listener(self, options: dict[str, Any]) -> dict[str, Any]:
        try:
            given = options.get("event_listeners") or ()
            # What is neither is the app's error, and pymongo says so.
            if isinstance(given, (list, tuple)):
                if not any(isinstance(listener, Listener) for listener in given):
                    listener = Listener()
                    listener.probe = self
                    given = (*given, listener)
                return {**options, "event_listeners": given}
        except Exception as error:
            contain(COMPONENT, error)
        return options

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _get_conn(*args: Any, **options: Any) -> Any:
            try:
                return original(*args, **options)
            except BaseException:
                self._gave_up()
                raise

        return _get_conn

    def _around_async_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def _get_conn(*args: Any, **options: Any) -> Any:
            try:
                return await original(*args, **options)
            except BaseException:
                self._gave_up()
                raise

        return _get_conn

    def _gave_up(self) -> None:
        try:
            if (acquire := ACQUIRING.get()) is not None:
                acquire.listener.end(acquire)
        except Exception as error:
            contain(COMPONENT, error)


def _question(client: Any) -> Callable[[], object]:
    """Asks whether its server answers."""
    if isinstance(client, MongoClient):
        return partial(client.admin.command, "ping")

    async def ask() -> None:
        await client.admin.command("ping")

    return ask


def _saturated(listener: Listener) -> bool:
    """Whether a connection could only be had by waiting among the requests."""
    most = _most(listener.client())
    return most is not None and len(listener.out) >= most * max(1, len(listener.pools))


def _readings(listener: Listener, *, pending: bool) -> Iterator[Reading]:
    name = listener.name
    out = list(listener.out.values())
    yield Reading(catalogue.POOL_COUNT, (name, "used"), len(out))
    yield Reading(catalogue.POOL_COUNT, (name, "idle"), max(0, len(listener.open) - len(out)))
    if pending:
        yield Reading(catalogue.POOL_PENDING, (name,), len(listener.waiting))
    if (most := _most(listener.client())) is not None:
        yield Reading(catalogue.POOL_MAX, (name,), most * len(listener.pools))
    yield from ages(name, out)


def _most(client: Any) -> int | None:
    """The most connections to one server; None if there is no limit, or the client is gone."""
    if client is None:
        return None
    most = client.options.pool_options.max_pool_size
    return most if isinstance(most, int) and most > 0 else None
