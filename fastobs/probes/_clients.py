"""What the adapters of HTTP clients have in common: who is called what, and who was turned away."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import Parts, enter, leave
from fastobs.cells import Reading
from fastobs.cells.meters import Histogram
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["Client", "Clients"]

LOOKS = 20
"""How many nameless clients may have the variables searched: some apps make one per request."""


class Client:
    """What is kept of one client.

    Attributes:
        name: Its label. Those that nobody named share their library's: there may be one per request.
        queue: How long its requests wait for a connection; None until its name is known, or known anew.
        use: How long they have one; None until the first gave it back.
    """

    def __init__(self) -> None:
        self.given = self.variable = self.name = ""
        self.queue: Histogram | None = None
        self.use: Histogram | None = None

    def rename(self) -> None:
        """What is told from now on goes by another name."""
        self.queue = self.use = None


class Clients(Probe, ABC):
    """The pools family, for one library of HTTP clients."""

    component: str

    def __init__(self, kit: Kit, library: str) -> None:
        super().__init__(kit)
        self.library = library
        self._hooks = Hooks()
        self._clients: WeakKeyDictionary[Any, Client] = WeakKeyDictionary()
        # The same by id, while they are there: to look a weak key up takes ten times as long.
        self._used_before: dict[int, tuple[Client, ref[Any]]] = {}
        self._lock = threading.RLock()
        self._looks = 0
        self._limits = False

    def attach(self, settings: Settings) -> None:
        self._limits = settings.limits is not None

    def detach(self) -> None:
        self._hooks.undo()

    def begin_anew(self) -> None:
        # What is open is told by the pools, which do not know of the fork either.
        self._lock = threading.RLock()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
            return False
        client = self._known(obj)
        if name is not None and name != client.given:
            client.given = name
            client.rename()
        return True

    def found(self, obj: Any, name: str) -> None:
        client = self._known(obj)
        if not client.variable:
            client.variable = name
            if not client.given:
                client.rename()

    def read(self) -> Iterator[Reading]:
        counts: dict[str, tuple[int, int]] = {}
        for obj, client in self._all():
            if (connections := self._connections(obj)) is not None:
                name = self._name(client)
                active, idle = counts.get(name, (0, 0))
                counts[name] = (active + connections[0], idle + connections[1])
        for name, (active, idle) in counts.items():
            yield Reading(catalogue.CLIENT_OPEN, ("active", name), active)
            yield Reading(catalogue.CLIENT_OPEN, ("idle", name), idle)
        yield from self._sizes(counts)

    def _sizes(self, names: Collection[str]) -> Iterator[Reading]:
        """How many connections there may be, and how many requests wait for one, as far as is known."""
        sizes: dict[tuple[catalogue.Metric, str], int] = {}
        for obj, client in self._all():
            if client.name in names:
                for metric, size in self._room(obj):
                    key = metric, client.name
                    sizes[key] = sizes.get(key, 0) + size
        for (metric, name), size in sizes.items():
            yield Reading(metric, (name,), size)

    def status(self) -> Iterator[tuple[str, str]]:
        for obj, client in self._all():
            if self._connections(obj) is not None:
                yield self._name(client), f"{self.library} {type(obj).__name__}"

    def _all(self) -> list[tuple[Any, Client]]:
        with self._lock:
            return list(self._clients.items())

    @abstractmethod
    def _connections(self, obj: Any) -> tuple[int, int] | None:
        """A client's active and idle connections; None if it has no pool that we know."""

    @abstractmethod
    def _room(self, obj: Any) -> Iterator[tuple[catalogue.Metric, int]]:
        """The most connections of a client, and its requests that wait for one."""

    def _used(self, obj: Any) -> Client:
        """A client is about to send a request."""
        key = id(obj)
        used = self._used_before.get(key)
        if used is not None:
            return used[0]
        if obj not in self._clients and self._looks < LOOKS:
            # It may be in a variable that nobody has looked at yet.
            self._looks += 1
            self.kit.look()
        gone = ref(obj, lambda _: self._used_before.pop(key, None))
        client = self._known(obj)
        self._used_before[key] = client, gone
        return client

    def _known(self, obj: Any) -> Client:
        with self._lock:
            client = self._clients.get(obj)
            if client is None:
                client = self._clients[obj] = Client()
            return client

    def _name(self, client: Client) -> str:
        self._queue(client)
        return client.name

    def _queue(self, client: Client) -> Histogram:
        """What is counted under a client's name."""
        if client.queue is None:
            names, wanted = self.kit.names, client.given or client.variable
            client.name = names.claim(client if wanted else self, wanted or self.library)
            client.queue = self.kit.meters.histogram(catalogue.CLIENT_QUEUE, client.name)
            # It exists before the first.
            self.kit.meters.counter(catalogue.CLIENT_TIMEOUTS, client.name)
        return client.queue

    def _late(self, client: Client | None) -> None:
        """One of its requests gave up waiting."""
        try:
            if client is not None:
                name = self._name(client)
                self.kit.meters.counter(catalogue.CLIENT_TIMEOUTS, name).add()
        except Exception as error:
            contain(self.component, error)

    def _created(self, client: Client | None, began: float) -> None:
        """A connection was opened for it."""
        try:
            if client is not None:
                name, took = self._name(client), perf_counter() - began
                self.kit.meters.histogram(catalogue.CLIENT_CREATE, name).observe(took)
        except Exception as error:
            contain(self.component, error)

    def _gave_back(self, client: Client, since: float) -> None:
        """One of its requests had a connection since then."""
        try:
            took = perf_counter() - since
            if client.use is None:
                name = self._name(client)
                client.use = self.kit.meters.histogram(catalogue.CLIENT_USE, name)
            client.use.observe(took)
        except Exception as error:
            contain(self.component, error)

    def _enter(self, exchange: Exchange, *, calls: int = 0) -> None:
        """The exchange waits for another service."""
        try:
            enter(exchange, "http", perf_counter())
            if type(parts := exchange.parts) is Parts:
                parts.calls += calls
        except Exception as error:
            contain(self.component, error)

    def _leave(self, exchange: Exchange) -> None:
        try:
            leave(exchange, "http", perf_counter())
        except Exception as error:
            contain(self.component, error)

    def _turned_down(self) -> None:
        """Another service answered 429."""
        if self._limits:
            exchange = CURRENT.get()
            if exchange is None or exchange.closed or exchange.route:
                self._turned_away(exchange)
            else:
                # A middleware has asked, before routing: only the end knows the route.
                exchange.leaving.append(lambda: self._turned_away(exchange))

    def _turned_away(self, exchange: Exchange | None) -> None:
        route = "" if exchange is None else exchange.route
        self.kit.meters.counter(catalogue.LIMIT_REJECTED, route, "upstream").add()
