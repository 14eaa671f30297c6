"""Connections and requests of aiohttp's client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from aiohttp import BaseConnector, ClientResponse, ClientSession, TraceConfig

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs.config import Settings

from . import Kit, Probe
from ._clients import Client, Clients

__all__ = ["AIOHTTP", "probe"]

COMPONENT = "probes.aiohttp"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return AIOHTTP(kit, "aiohttp")


class AIOHTTP(Clients):
    """The pools family, for aiohttp."""

    component = COMPONENT
    kinds = (ClientSession,)

    def __init__(self, kit: Kit, library: str) -> None:
        super().__init__(kit, library)
        self._traced: WeakSet[ClientSession] = WeakSet()
        self._trace = self._config()

    def attach(self, settings: Settings) -> None:
        super().attach(settings)
        # A session's trace configs can be added to, but only here is every session seen. The public
        # methods all come to _request, which has had that name since aiohttp 1.0.
        self._hooks.wrap(ClientSession, "_request", self._around_request)
        self._hooks.wrap(ClientResponse, "read", self._around_read)
        self._hooks.wrap(BaseConnector, "connect", self._around_connect)

    def detach(self) -> None:
        super().detach()
        for session in list(self._traced):
            if self._trace in session.trace_configs:
                session.trace_configs.remove(self._trace)
        self._traced.clear()

    def _connections(self, obj: ClientSession) -> tuple[int, int] | None:
        connector = obj.connector
        # No public names: connections that requests hold, and by address the kept ones.
        acquired = getattr(connector, "_acquired", None)
        kept = getattr(connector, "_conns", None)
        if acquired is None or kept is None:
            return None
        return len(acquired), sum(map(len, list(kept.values())))

    def _room(self, obj: ClientSession) -> Iterator[tuple[catalogue.Metric, int]]:
        connector = obj.connector
        # 0 is no limit.
        if connector is not None and connector.limit:
            yield catalogue.CLIENT_MAX, connector.limit
        # No public name: by address, who waits.
        waiters = getattr(connector, "_waiters", None)
        if waiters is not None:
            yield catalogue.CLIENT_PENDING, sum(map(len, list(waiters.values())))

    def _config(self) -> TraceConfig:
        config = TraceConfig()
        config.on_connection_queued_start.append(self._queued)
        config.on_connection_queued_end.append(self._next)
        config.on_connection_create_start.append(self._opening)
        config.on_connection_create_end.append(self._opened)
        config.on_connection_reuseconn.append(self._got)
        config.on_request_exception.append(self._gave_up)
        config.freeze()
        return config

    # What follows runs within the app's calls: it must not raise.

    def _around_request(
        self, original: Callable[..., Awaitable[ClientResponse]]
    ) -> Callable[..., Awaitable[ClientResponse]]:
        async def _request(session: ClientSession, *args: Any, **options: Any) -> ClientResponse:
            exchange = self._begin(session)
            try:
                response = await original(session, *args, **options)
            finally:
                if exchange is not None:
                    self._leave(exchange)
            self._received(response)
            return response

        return _request

    def _around_read(
        self, original: Callable[[ClientResponse], Awaitable[bytes]]
    ) -> Callable[[ClientResponse], Awaitable[bytes]]:
        async def read(response: ClientResponse) -> bytes:
            exchange = CURRENT.get() if self._hooks.on else None
            if exchange is None:
                return await original(response)
            self._enter(exchange)
            try:
                return await original(response)
            finally:
                self._leave(exchange)

        return read

    def _around_connect(
        self, original: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def connect(
            connector: BaseConnector, req: Any, traces: Any, *args: Any, **options: Any
        ) -> Any:
            connection = await original(connector, req, traces, *args, **options)
            self._has(connection, traces)
            return connection

        return connect

    def _has(self, connection: Any, traces: Any) -> None:
        """A request has a connection, until that calls back; one that is lost never does."""
        try:
            for trace in traces if self._hooks.on else ():
                # No public names: whose traces these are.
                if trace._trace_config is self._trace:
                    client = self._known(trace._session)
                    connection.add_callback(partial(self._given_back, client, perf_counter()))
        except Exception as error:
            contain(COMPONENT, error)

    def _given_back(self, client: Client, since: float) -> None:
        if self._hooks.on:
            self._gave_back(client, since)

    def _begin(self, session: ClientSession) -> Exchange | None:
        if not self._hooks.on:
            return None
        try:
            self._used(session)
            # They are few, and a look at the weak set takes ten times as long.
            if self._trace not in session.trace_configs:
                self._traced.add(session)
                session.trace_configs.append(self._trace)
        except Exception as error:
            contain(COMPONENT, error)
        exchange = CURRENT.get()
        if exchange is not None:
            self._enter(exchange, calls=1)
        return exchange

    def _received(self, response: ClientResponse) -> None:
        try:
            if response.status == 429 and self._hooks.on:
                self._turned_down()
        except Exception as error:
            contain(COMPONENT, error)

    async def _queued(self, _: ClientSession, wait: SimpleNamespace, _params: Any) -> None:
        # Woken up in vain it queues again, and has waited since the first time.
        wait.since = getattr(wait, "since", None) or perf_counter()

    async def _next(self, _: ClientSession, wait: SimpleNamespace, _params: Any) -> None:
        wait.until = perf_counter()

    async def _got(self, session: ClientSession, wait: SimpleNamespace, _params: Any) -> None:
        """There is a connection, or a place for one."""
        self._waited(session, wait, getattr(wait, "until", 0.0))

    async def _opening(self, session: ClientSession, wait: SimpleNamespace, params: Any) -> None:
        await self._got(session, wait, params)
        wait.opens = perf_counter()

    async def _opened(self, session: ClientSession, wait: SimpleNamespace, _params: Any) -> None:
        if self._hooks.on:
            self._created(self._known(session), wait.opens)

    async def _gave_up(self, session: ClientSession, wait: SimpleNamespace, params: Any) -> None:
        if getattr(wait, "since", None):
            self._waited(session, wait, perf_counter())
            if isinstance(params.exception, TimeoutError) and self._hooks.on:
                self._late(self._known(session))

    def _waited(self, session: ClientSession, wait: SimpleNamespace, until: float) -> None:
        try:
            since = getattr(wait, "since", None) or until
            wait.since = None
            if self._hooks.on:
                self._queue(self._used(session)).observe(until - since)
        except Exception as error:
            contain(COMPONENT, error)
