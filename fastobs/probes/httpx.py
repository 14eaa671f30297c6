"""Connections and requests of httpx, and of httpx2, which has the same classes.

What waits and what holds connections is the pool of httpcore below; it is hooked where it is called,
so that clients made before, wrapped transports and proxies are all seen, and a transport that
opens no connections (ASGI, mock) shows none.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar, Token
from importlib import import_module
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import Parts, enter, leave
from fastobs.config import Settings

from . import Kit, Probe
from ._clients import Client, Clients

__all__ = ["HTTPX", "probe"]

COMPONENT = "probes.httpx"
CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}
WITHIN = ("HTTP11Connection", "HTTP2Connection")
"""Classes of connections, sync and async, that lie within those of a pool."""

SENDING: ContextVar[Any] = ContextVar("fastobs_httpx_sending", default=None)
"""The client whose request is on its way: the pool that it comes to is that client's."""

Sending = tuple[Exchange | None, Token[Any]]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return HTTPX(kit, kit.library)


class HTTPX(Clients):
    """The pools family, for httpx and httpx2."""

    def __init__(self, kit: Kit, library: str) -> None:
        super().__init__(kit, library)
        self._module = import_module(library)
        # httpx2 can be imported under the name of httpx; then it is one library, not two.
        self._alias = self._module.__name__ != library
        self._pools: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()
        # By the id of a pool while it is there: to look a weak key up takes ten times as long.
        self._owners: dict[int, tuple[Client, ref[Any]]] = {}
        self._deep = False

    @property
    def kinds(self) -> tuple[type, ...]:
        return () if self._alias else (self._module.Client, self._module.AsyncClient)

    def attach(self, settings: Settings) -> None:
        super().attach(settings)
        if self._alias:
            return
        module, hooks = self._module, self._hooks
        hooks.wrap(module.Client, "send", self._around_send)
        hooks.wrap(module.AsyncClient, "send", self._around_send_awaited)
        hooks.wrap(module.Response, "iter_raw", self._around_body)
        hooks.wrap(module.Response, "aiter_raw", self._around_body_awaited)
        self._attach_core()

    def detach(self) -> None:
        super().detach()
        self._deep = False

    def _attach_core(self) -> None:
        # httpx imports it with the first client; clients that exist already have done so.
        core = sys.modules.get(CORES[self.library])
        if core is None:
            return
        self._deep = True
        self._hooks.wrap(core.ConnectionPool, "handle_request", self._around_pool)
        self._hooks.wrap(
            core.AsyncConnectionPool, "handle_async_request", self._around_pool_awaited
        )
        for base, name in (
            (core.ConnectionInterface, "handle_request"),
            (core.AsyncConnectionInterface, "handle_async_request"),
        ):
            for kind in base.__subclasses__():
                # The others are only called by the connections of a pool, which know them as theirs.
                if name in vars(kind) and not kind.__name__.endswith(WITHIN):
                    self._hooks.wrap(kind, name, self._around_connection)

    def _connections(self, obj: Any) -> tuple[int, int] | None:
        with self._lock:
            pools = list(self._pools.get(obj, ()))
        if not pools:
            return None
        # Both lists are copies; what is closed stays in them until the pool is used again.
        held = [one for pool in pools for one in pool.connections if not one.is_closed()]
        idle = sum(one.is_idle() for one in held)
        return len(held) - idle, idle

    def _room(self, obj: Any) -> Iterator[tuple[catalogue.Metric, int]]:
        with self._lock:
            pools = list(self._pools.get(obj, ()))
        for pool in pools:
            # No public names.
            most = getattr(pool, "_max_connections", sys.maxsize)
            if most < sys.maxsize:
                yield catalogue.CLIENT_MAX, most
            requests = getattr(pool, "_requests", None)
            if requests is not None:
                yield catalogue.CLIENT_PENDING, sum(one.is_queued() for one in list(requests))

    # What follows runs within the app's calls: it must not raise.

    def _around_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(client: Any, *args: Any, **options: Any) -> Any:
            sending = self._begin(client)
            try:
                return original(client, *args, **options)
            finally:
                self._end(sending)

        return send

    def _around_send_awaited(
        self, original: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def send(client: Any, *args: Any, **options: Any) -> Any:
            sending = self._begin(client)
            try:
                return await original(client, *args, **options)
            finally:
                self._end(sending)

        return send

    def _begin(self, obj: Any) -> Sending | None:
        if not self._hooks.on:
            return None
        try:
            if not self._deep:
                self._attach_core()
            self._used(obj)
            exchange = CURRENT.get()
            if exchange is not None:
                enter(exchange, "http", perf_counter())
            if exchange is not None and isinstance(parts := exchange.parts, Parts):
                parts.calls += 1
            token = SENDING.set(obj)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return exchange, token

    def _end(self, sending: Sending | None) -> None:
        if sending is None:
            return
        try:
            exchange, token = sending
            SENDING.reset(token)
            if exchange is not None:
                leave(exchange, "http", perf_counter())
        except Exception as error:
            contain(COMPONENT, error)

    def _around_body(self, original: Callable[..., Iterator[bytes]]) -> Callable[..., Any]:
        def iter_raw(response: Any, *args: Any, **options: Any) -> Iterator[bytes]:
            chunks = original(response, *args, **options)
            exchange = self._reader()
            return chunks if exchange is None else _timed(chunks, exchange)

        return iter_raw

    def _around_body_awaited(
        self, original: Callable[..., AsyncIterator[bytes]]
    ) -> Callable[..., Any]:
        def aiter_raw(response: Any, *args: Any, **options: Any) -> AsyncIterator[bytes]:
            chunks = original(response, *args, **options)
            exchange = self._reader()
            return chunks if exchange is None else _timed_awaited(chunks, exchange)

        return aiter_raw

    def _reader(self) -> Exchange | None:
        """Whose time it is that a body takes; None if it is counted already, or nobody's."""
        return CURRENT.get() if self._hooks.on and SENDING.get() is None else None

    def _around_pool(self, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def handle_request(pool: Any, request: Any) -> Any:
            self._queued(pool, request)
            try:
                response = original(pool, request)
            finally:
                self._assigned(request)
            self._received(response)
            return response

        return handle_request

    def _around_pool_awaited(
        self, original: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def handle_async_request(pool: Any, request: Any) -> Any:
            self._queued(pool, request)
            try:
                response = await original(pool, request)
            finally:
                # It is still waiting only if it got no connection: the pool's timeout, cancelled.
                self._assigned(request)
            self._received(response)
            return response

        return handle_async_request

    def _around_connection(self, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        # Of an async connection this passes on what the app's side awaits.
        def handle(connection: Any, request: Any) -> Any:
            self._assigned(request)
            return original(connection, request)

        return handle

    def _queued(self, pool: Any, request: Any) -> None:
        try:
            obj = SENDING.get()
            if not self._hooks.on or obj is None:
                return
            known = self._owners.get(id(pool))
            client = self._owned(pool, obj) if known is None else known[0]
            request._fastobs_queued = (client, perf_counter())
        except Exception as error:
            contain(COMPONENT, error)

    def _owned(self, pool: Any, obj: Any) -> Client:
        """The client that a pool belongs to, which is seen for the first time."""
        with self._lock:
            key = id(pool)
            gone = ref(pool, lambda _: self._owners.pop(key, None))
            self._owners[key] = known = (self._known(obj), gone)
            self._pools.setdefault(obj, WeakSet()).add(pool)
            return known[0]

    def _assigned(self, request: Any) -> None:
        try:
            queued = vars(request).pop("_fastobs_queued", None)
            if queued is not None:
                client, since = queued
                self._named(client).queue.observe(perf_counter() - since)
        except Exception as error:
            contain(COMPONENT, error)

    def _received(self, response: Any) -> None:
        try:
            if self._hooks.on:
                self._answered(response.status)
        except Exception as error:
            contain(COMPONENT, error)


def _timed(chunks: Any, exchange: Exchange) -> Iterator[bytes]:
    """The same chunks; the exchange waits for each."""
    try:
        while True:
            _turn(enter, exchange)
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            finally:
                _turn(leave, exchange)
            yield chunk
    finally:
        chunks.close()


async def _timed_awaited(chunks: Any, exchange: Exchange) -> AsyncIterator[bytes]:
    try:
        while True:
            _turn(enter, exchange)
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            finally:
                _turn(leave, exchange)
            yield chunk
    finally:
        await chunks.aclose()


def _turn(way: Callable[[Exchange, str, float], None], exchange: Exchange) -> None:
    try:
        way(exchange, "http", perf_counter())
    except Exception as error:
        contain(COMPONENT, error)
