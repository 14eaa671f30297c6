"""Connections and requests of httpx, and of httpx2, which has the same classes.

What waits and what holds connections is the pool of httpcore below; it is hooked where it is called,
so that clients made before, wrapped transports and proxies are all seen, and a transport that
opens no connections (ASGI, mock) shows none.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar, Token
from functools import partial
from importlib import import_module
from inspect import Parameter, iscoroutinefunction, signature, unwrap
from time import perf_counter
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import Parts, enter, leave
from fastobs.config import Settings

from . import Kit, Probe, ReleaseError
from ._clients import Client, Clients
from ._hooks import parameters

__all__ = ["HTTPX", "probe"]

COMPONENT = "probes.httpx"
CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}
SENT_WITH = {"stream", "auth", "follow_redirects"}
"""The keywords of `Client.send`. To pass them on by name takes a tenth of the time that any others take."""

ANSWER = ("self", "stream", "pool_request", "pool")
"""What an answer of a pool is made of; it has private attributes of the same names."""

SENDING: ContextVar[Any] = ContextVar("fastobs_httpx_sending", default=None)
"""The client whose request is on its way through a transport that is not the library's own: it may
call the pool from another thread or task, where no caller tells whose it is."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return HTTPX(kit, kit.library)


class HTTPX(Clients):
    """The pools family, for httpx and httpx2."""

    component = COMPONENT

    def __init__(self, kit: Kit, library: str) -> None:
        super().__init__(kit, library)
        self._module = import_module(library)
        # httpx2 can be imported under the name of httpx; then it is one library, not two.
        self._alias = self._module.__name__ != library
        self._pools: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()
        # By the id of a pool while it is there: to look a weak key up takes ten times as long.
        self._owners: dict[int, tuple[Client, ref[Any]]] = {}
        self._senders: set[CodeType] = set()
        # Transports that call their pool themselves, once pools are seen.
        self._direct: set[type] = set()
        self._deep = self._bodies = False
        self._hidden = ""
        # Of its times, those that this release hides.
        self._missing: list[str] = []
        self._timeout: type[Exception] = TimeoutError
        self._askers: set[CodeType] = set()

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
        self._attach_core()

    def detach(self) -> None:
        # Who comes with the first request, or the first stream, is not in the middle of it.
        with self._lock:
            super().detach()
            self._direct.clear()
            self._deep = self._bodies = False
            self._hidden = ""
            self._missing = []

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        if self._hidden:
            yield self.library, self._hidden

    def unknown(self) -> str:
        if self._missing:
            return (
                f"this release hides some of its times: {', '.join(self._missing)}. Update fastobs."
            )
        return ""

    def _attach_core(self) -> None:
        # httpx imports it with the first client; clients that exist already have done so.
        core, wrap = sys.modules.get(CORES[self.library]), self._hooks.wrap
        with self._lock:
            if core is None or self._deep or not self._hooks.on:
                return
            self._deep = True
            pool, pool_awaited = core.ConnectionPool, core.AsyncConnectionPool
            queues = _queue_of(pool.handle_request), _queue_of(pool_awaited.handle_async_request)
            bodies = (
                (_kind_beside(pool.handle_request, "__iter__", "close"), "close"),
                (_kind_beside(pool_awaited.handle_async_request, "__aiter__", "aclose"), "aclose"),
            )
            self._timeout = core.PoolTimeout
            wrap(pool, "handle_request", self._around_pool)
            wrap(pool_awaited, "handle_async_request", self._around_pool_awaited)
            # What has no public name is missed if it is not there: those times are not told then.
            opening = (
                (core.HTTPConnection, self._around_opening),
                (core.AsyncHTTPConnection, self._around_opening_awaited),
            )
            missing = set()
            for kind, around in opening:
                if "_connect" in vars(kind):
                    wrap(kind, "_connect", around)
                else:
                    missing.add("create")
            for body, way in bodies:
                if body is not None and parameters(body, "__init__") == ANSWER:
                    wrap(body, way, self._around_closing)
                else:
                    missing.add("use")
            self._missing = sorted(missing)
            for queue in queues:
                wrap(queue, "wait_for_connection", self._around_wait)
            self._direct |= {self._module.HTTPTransport, self._module.AsyncHTTPTransport}

    def _attach_bodies(self) -> None:
        # With the first body that is read when `send` is over: who has none pays nothing for them.
        with self._lock:
            if not self._bodies and self._hooks.on:
                self._bodies = True
                self._hooks.wrap(self._module.Response, "iter_raw", self._around_body)
                self._hooks.wrap(self._module.Response, "aiter_raw", self._around_body_awaited)

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
                yield (
                    catalogue.CLIENT_PENDING,
                    sum(one.connection is None for one in list(requests)),
                )

    # What follows runs within the app's calls: it must not raise. Much of it is there twice, for sync
    # and async: a function for both would be called, and take longer than what it does.

    def _around_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, direct, unset = self._hooks, self._direct, self._unset(original)

        def send(
            client: Any,
            request: Any,
            *,
            stream: bool = False,
            auth: Any = unset,
            follow_redirects: Any = unset,
            **more: Any,
        ) -> Any:
            exchange = CURRENT.get() if hooks.on else None
            token = None
            try:
                if client._mounts or type(client._transport) not in direct:
                    token = self._announce(client)
            except AttributeError:
                token = self._announce(client)
            call = partial(original, **more) if more else original
            if exchange is not None:
                try:
                    enter(exchange, "http", perf_counter())
                    if type(parts := exchange.parts) is Parts:
                        parts.calls += 1
                except Exception as error:
                    contain(COMPONENT, error)
            try:
                response = call(
                    client, request, stream=stream, auth=auth, follow_redirects=follow_redirects
                )
            finally:
                if exchange is not None:
                    try:
                        leave(exchange, "http", perf_counter())
                    except Exception as error:
                        contain(COMPONENT, error)
                if token is not None:
                    self._sent(token)
            if stream:
                self._opened(response)
            return response

        self._senders.add(send.__code__)
        return send

    def _around_send_awaited(
        self, original: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        hooks, direct, unset = self._hooks, self._direct, self._unset(original)

        async def send(
            client: Any,
            request: Any,
            *,
            stream: bool = False,
            auth: Any = unset,
            follow_redirects: Any = unset,
            **more: Any,
        ) -> Any:
            exchange = CURRENT.get() if hooks.on else None
            token = None
            try:
                if client._mounts or type(client._transport) not in direct:
                    token = self._announce(client)
            except AttributeError:
                token = self._announce(client)
            call = partial(original, **more) if more else original
            if exchange is not None:
                try:
                    enter(exchange, "http", perf_counter())
                    if type(parts := exchange.parts) is Parts:
                        parts.calls += 1
                except Exception as error:
                    contain(COMPONENT, error)
            try:
                response = await call(
                    client, request, stream=stream, auth=auth, follow_redirects=follow_redirects
                )
            finally:
                if exchange is not None:
                    try:
                        leave(exchange, "http", perf_counter())
                    except Exception as error:
                        contain(COMPONENT, error)
                if token is not None:
                    self._sent(token)
            if stream:
                self._opened(response)
            return response

        self._senders.add(send.__code__)
        return send

    def _unset(self, send: Callable[..., Any]) -> Any:
        """The default of its keywords, which are those that we know."""
        parameters = signature(send).parameters
        any_other = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
        if not any_other and (unknown := SENT_WITH - parameters.keys()):
            msg = f"its send() does not take {', '.join(sorted(unknown))}"
            raise ReleaseError(msg)
        return self._module.USE_CLIENT_DEFAULT

    def _announce(self, client: Any) -> Token[Any] | None:
        """Say whose request it is that goes through a transport of whatever kind."""
        try:
            if not self._hooks.on:
                return None
            if not self._deep:
                self._attach_core()
                if hidden := self.unknown():
                    self._hidden = hidden
                    contain(COMPONENT, ReleaseError(hidden))
            return SENDING.set(client)
        except Exception as error:
            self._hidden = f"its pools cannot be looked into: {error!r}"
            contain(COMPONENT, error)
            return None

    def _sent(self, token: Token[Any]) -> None:
        try:
            SENDING.reset(token)
        except Exception as error:
            contain(COMPONENT, error)

    def _opened(self, response: Any) -> None:
        """Its body is read when the client has sent and is done."""
        try:
            if not self._bodies:
                self._attach_bodies()
            response._fastobs_opened = True
        except Exception as error:
            contain(COMPONENT, error)

    def _around_body(self, original: Callable[..., Iterator[bytes]]) -> Callable[..., Any]:
        def iter_raw(response: Any, *args: Any, **options: Any) -> Iterator[bytes]:
            chunks = original(response, *args, **options)
            exchange = self._reader(response)
            return chunks if exchange is None else _timed(chunks, exchange)

        return iter_raw

    def _around_body_awaited(
        self, original: Callable[..., AsyncIterator[bytes]]
    ) -> Callable[..., Any]:
        def aiter_raw(response: Any, *args: Any, **options: Any) -> AsyncIterator[bytes]:
            chunks = original(response, *args, **options)
            exchange = self._reader(response)
            return chunks if exchange is None else _timed_awaited(chunks, exchange)

        return aiter_raw

    def _reader(self, response: Any) -> Exchange | None:
        """Whose time it is that a body takes; None if it is counted already, or nobody's."""
        opened = self._hooks.on and hasattr(response, "_fastobs_opened")
        return CURRENT.get() if opened else None

    def _around_pool(self, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        hooks, owners = self._hooks, self._owners

        def handle_request(pool: Any, request: Any) -> Any:
            client = None
            try:
                if hooks.on:
                    owner = owners.get(id(pool))
                    client = self._owned(pool) if owner is None else owner[0]
                    request._fastobs_waited = 0.0
            except Exception as error:
                contain(COMPONENT, error)
            try:
                response = original(pool, request)
            except BaseException as error:
                self._failed(client, request, error)
                raise
            finally:
                # It waited so long, and be it in vain: the pool's timeout, cancelled.
                if client is not None:
                    try:
                        row, waited = client.queue, request._fastobs_waited
                        if row is None or waited:
                            self._queue(client).observe(waited)
                        else:
                            # What most do, without a search for the bucket.
                            row.cells[row.at] += 1.0
                    except Exception as error:
                        contain(COMPONENT, error)
            try:
                if response.status == 429 and hooks.on:
                    self._turned_down()
            except Exception as error:
                contain(COMPONENT, error)
            return response

        self._askers.add(handle_request.__code__)
        return handle_request

    def _around_pool_awaited(
        self, original: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        hooks, owners = self._hooks, self._owners

        async def handle_async_request(pool: Any, request: Any) -> Any:
            client = None
            try:
                if hooks.on:
                    owner = owners.get(id(pool))
                    client = self._owned(pool) if owner is None else owner[0]
                    request._fastobs_waited = 0.0
            except Exception as error:
                contain(COMPONENT, error)
            try:
                response = await original(pool, request)
            except BaseException as error:
                self._failed(client, request, error)
                raise
            finally:
                if client is not None:
                    try:
                        row, waited = client.queue, request._fastobs_waited
                        if row is None or waited:
                            self._queue(client).observe(waited)
                        else:
                            # What most do, without a search for the bucket.
                            row.cells[row.at] += 1.0
                    except Exception as error:
                        contain(COMPONENT, error)
            try:
                if response.status == 429 and hooks.on:
                    self._turned_down()
            except Exception as error:
                contain(COMPONENT, error)
            return response

        self._askers.add(handle_async_request.__code__)
        return handle_async_request

    def _around_opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(connection: Any, *args: Any, **options: Any) -> Any:
            client, request = self._asker()
            began = perf_counter()
            stream = original(connection, *args, **options)
            self._open(client, request, began)
            return stream

        return connect

    def _around_opening_awaited(
        self, original: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Any]:
        async def connect(connection: Any, *args: Any, **options: Any) -> Any:
            client, request = self._asker()
            began = perf_counter()
            stream = await original(connection, *args, **options)
            self._open(client, request, began)
            return stream

        return connect

    def _asker(self) -> tuple[Client | None, Any]:
        """The client and the request for which a connection is opened, up the callers."""
        try:
            frame: FrameType | None = sys._getframe(2)
            while frame is not None and self._hooks.on:
                if frame.f_code in self._askers:
                    client, request = frame.f_locals["client"], frame.f_locals["request"]
                    # Until there is a connection, nobody has it.
                    request._fastobs_since = 0.0
                    return client, request
                frame = frame.f_back
        except Exception as error:
            contain(COMPONENT, error)
        return None, None

    def _open(self, client: Client | None, request: Any, began: float) -> None:
        """There is a connection for the request."""
        self._created(client, began)
        try:
            if request is not None:
                request._fastobs_since = perf_counter()
        except Exception as error:
            contain(COMPONENT, error)

    def _failed(self, client: Client | None, request: Any, error: BaseException) -> None:
        """A request ended in an error; that takes its connection from it, if it had one."""
        if isinstance(error, self._timeout):
            self._late(client)
        elif client is not None and (since := getattr(request, "_fastobs_since", 0.0)):
            self._gave_back(client, since)

    def _around_closing(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        hooks, owners = self._hooks, self._owners

        # Of an async pool this passes on what the response awaits.
        def close(stream: Any) -> Any:
            try:
                if hooks.on and not stream._closed:
                    client = owners[id(stream._pool)][0]
                    since = stream._pool_request.request._fastobs_since
                    if since and (use := client.use) is not None:
                        # `observe`, without the call.
                        took, bounds = perf_counter() - since, use.bounds
                        bucket = 0 if took <= bounds[0] else bisect_left(bounds, took)
                        cells, at = use.cells, use.at
                        cells[at + bucket] += 1.0
                        cells[at + use.last] += took
                    elif since:
                        self._gave_back(client, since)
            except (AttributeError, KeyError):
                # It was on its way before we came, or is nobody's.
                pass
            except Exception as error:
                contain(COMPONENT, error)
            return original(stream)

        return close

    def _owned(self, pool: Any) -> Client | None:
        """The client that a pool belongs to, which is seen for the first time; None if none uses it."""
        obj = self._sender(sys._getframe(1))
        if obj is None:
            return None
        client = self._used(obj)
        with self._lock:
            key = id(pool)
            gone = ref(pool, lambda _: self._owners.pop(key, None))
            self._owners[key] = client, gone
            self._pools.setdefault(obj, WeakSet()).add(pool)
            return client

    def _sender(self, frame: FrameType | None) -> Any:
        """The client that sends, up the callers; through a transport of the app's, who announced it."""
        while frame is not None:
            if frame.f_code in self._senders:
                return frame.f_locals["client"]
            frame = frame.f_back
        return SENDING.get()

    def _around_wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, wait = self._hooks, _wait_awaited if iscoroutinefunction(original) else _wait

        # Of an async pool this passes on what the pool awaits.
        def wait_for_connection(queued: Any, timeout: float | None = None) -> Any:
            waits = hooks.on
            try:
                if waits and queued.connection is not None:
                    queued.request._fastobs_since, waits = perf_counter(), False
            except AttributeError:
                # Then it is asked what that takes.
                pass
            return wait(original, queued, timeout) if waits else original(queued, timeout)

        return wait_for_connection


def _wait(original: Callable[..., Any], queued: Any, timeout: float | None) -> Any:
    since = perf_counter()
    try:
        return original(queued, timeout)
    finally:
        _waited(queued, since)


async def _wait_awaited(
    original: Callable[..., Awaitable[Any]],
    queued: Any,
    timeout: float | None,  # noqa: ASYNC109 - the pool's own
) -> Any:
    since = perf_counter()
    try:
        return await original(queued, timeout)
    finally:
        _waited(queued, since)


def _waited(queued: Any, since: float) -> None:
    try:
        now, request = perf_counter(), queued.request
        # It waits again if somebody else took the connection that it was told of.
        request._fastobs_waited += now - since
        request._fastobs_since = now if queued.connection is not None else 0.0
    except AttributeError:
        # It came to the pool before we did.
        pass
    except Exception as error:
        contain(COMPONENT, error)


def _queue_of(handle: Callable[..., Any]) -> Any:
    """What a request waits in for a connection; it has had two names."""
    kind = _kind_beside(handle, "wait_for_connection")
    if kind is None:
        msg = f"nothing in {handle.__module__} waits for a connection"
        raise ReleaseError(msg)
    return kind


def _kind_beside(handle: Callable[..., Any], *methods: str) -> Any:
    """The class of a pool's module that has these methods; None if there is none."""
    module = unwrap(handle).__module__
    for kind in vars(sys.modules[module]).values():
        if isinstance(kind, type) and kind.__module__ == module and vars(kind).keys() >= {*methods}:
            return kind
    return None


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
