"""The way of a request: one clock, one exchange, closed once, and every signal is told the same."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._contain import contain, contained
from ._exchange import CURRENT, Exchange, Finish, Signal
from ._routes import Routes

__all__ = ["Clock", "Middleware"]

Clock = Callable[[], float]
"""Seconds, from any origin, never backwards."""


class Middleware:
    """Pure ASGI, outside everything else that the app does.

    Args:
        app: The application's whole middleware stack.
        signals: Who is told about each exchange; the last one told of the beginning is the first
            told of the end.
        routes: Knows the template of a request's route.
        pages: What we answer ourselves, by path; each also answers below its path.
        excluded: Paths that are passed on unseen; with a final ``*``, everything that begins so.
        sockets: Told +1 and -1 as WebSocket connections come and go.
        started: Called once, when the app's start-up is complete or its first request comes.
        clock: Seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        signals: Sequence[Signal],
        routes: Routes,
        pages: Mapping[str, ASGIApp],
        excluded: Sequence[str],
        sockets: Callable[[int], None],
        started: Callable[[], None],
        clock: Clock = perf_counter,
    ) -> None:
        self.app = app
        self._signals = tuple(signals)
        self._routes = routes
        self._pages = dict(pages)
        self._excluded = frozenset(path for path in excluded if not path.endswith("*"))
        self._excluded_prefixes = tuple(path[:-1] for path in excluded if path.endswith("*"))
        # One look decides for nearly every request that nothing below concerns it.
        self._special = (*self._pages, *self._excluded_prefixes)
        self._sockets = sockets
        self._at_start = started
        self._started: Callable[[], None] | None = started
        self._clock = clock
        _all.add(self)

    def begin_anew(self) -> None:
        """In a forked child: what was started is the parent's."""
        self._started = self._at_start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        path: str = scope["path"]
        if root := scope.get("root_path"):
            path = path.removeprefix(root)
        if path.startswith(self._special) and (page := self._page(path)) is not None:
            await page(scope, receive, send)
        elif path in self._excluded or "fastobs" in scope or self._starts_excluded(path):
            # "fastobs" in scope: an instrumented app mounted in one is seen by the outer one.
            await self.app(scope, receive, send)
        else:
            await self._observe(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started is not None:
            self._start()
        clock = self._clock
        exchange = Exchange(scope, self._routes, clock())
        scope["fastobs"] = exchange
        passage = Passage(exchange, receive, send, clock)
        token = CURRENT.set(exchange)
        try:
            passage.begin(self._signals)
            await self.app(scope, passage.receive, passage.send)
        except BaseException as error:
            passage.failed(error)
            raise
        finally:
            passage.returned()
            for leave in exchange.leaving:
                with contained("request"):
                    leave()
            CURRENT.reset(token)

    def _page(self, path: str) -> ASGIApp | None:
        for own, page in self._pages.items():
            if path == own or path.startswith(f"{own}/"):
                return page
        return None

    def _starts_excluded(self, path: str) -> bool:
        return bool(self._excluded_prefixes) and path.startswith(self._excluded_prefixes)

    def _start(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            with contained("start"):
                started()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contained("websockets"):
            self._sockets(1)
        try:
            await self.app(scope, receive, send)
        finally:
            with contained("websockets"):
                self._sockets(-1)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                # The app's own set-up is done, and no request waits yet.
                self._start()
            await send(message)

        await self.app(scope, receive, tell)


class Passage:
    """One exchange on its way through the middleware: what passes by is counted, nothing is changed.

    ``send`` and ``receive`` are what the app gets instead of the server's. The exchange is closed by
    whatever comes first: the last byte, an exception, or the app's return.
    """

    __slots__ = ("_clock", "_finishers", "_receive", "_send", "_trailers", "exchange")

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, clock: Clock) -> None:
        self.exchange = exchange
        self._receive = receive
        self._send = send
        self._clock = clock
        self._trailers = False
        self._finishers: list[Finish] = []

    def begin(self, signals: tuple[Signal, ...]) -> None:
        exchange = self.exchange
        finishers = self._finishers
        for signal in signals:
            try:
                finish = signal(exchange)
            except Exception as error:
                contain(_name(signal), error)
            else:
                if finish is not None:
                    finishers.append(finish)

    async def receive(self) -> Message:
        message = await self._receive()
        exchange = self.exchange
        if not exchange.closed:
            if message["type"] == "http.request":
                exchange.request_bytes += len(message.get("body", b""))
            elif message["type"] == "http.disconnect":
                exchange.disconnected = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        # Not async: a start message needs nothing after it, and saves a coroutine.
        if message["type"] != "http.response.start":
            return self._forward(message)
        try:
            self._start(message)
        except Exception as error:
            contain("request", error)
        return self._send(message)

    def _start(self, message: Message) -> None:
        exchange = self.exchange
        status = exchange.status = message["status"]
        self._trailers = message.get("trailers", False)
        if exchange.headers:
            # A new list: an app may answer twice with the same one.
            message["headers"] = [*message.get("headers", ()), *exchange.headers]
        if status >= 500:
            # Whoever turns an exception into a response (Starlette's ServerErrorMiddleware, an
            # exception handler) sends it from within its except block, so this is the exception.
            exception = sys.exception()
            if not isinstance(exception, HTTPException):
                exchange.exception = exception

    async def _forward(self, message: Message) -> None:
        last = False
        try:
            last = self._measure(message)
        except Exception as error:
            contain("request", error)
        try:
            await self._send(message)
        except OSError:
            # ASGI 2.4: the server raises OSError when the client has gone.
            self.exchange.disconnected = True
            raise
        if last:
            self._close()

    def _measure(self, message: Message) -> bool:
        """Count the bytes; is it the last message of the response?"""
        kind = message["type"]
        if kind == "http.response.body":
            self.exchange.response_bytes += len(message.get("body", b""))
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.pathsend":
            self.exchange.response_bytes += Path(message["path"]).stat().st_size
            return not self._trailers
        return kind == "http.response.trailers" and not message.get("more_trailers", False)

    def failed(self, error: BaseException) -> None:
        exchange = self.exchange
        if exchange.closed:
            return
        if isinstance(error, asyncio.CancelledError):
            exchange.disconnected = True
            exchange.error_type = "cancelled"
        elif not exchange.disconnected:
            exchange.exception = error
            if exchange.status is None:
                # The server answers for us: "Internal Server Error".
                exchange.status = 500
        self._close()

    def returned(self) -> None:
        exchange = self.exchange
        if exchange.closed:
            return
        if not exchange.disconnected:
            exchange.error_type = "incomplete_response"
            if exchange.status is None:
                exchange.status = 500
        self._close()

    def _close(self) -> None:
        exchange = self.exchange
        if exchange.closed:
            return
        exchange.duration = self._clock() - exchange.started
        exchange.closed = True
        if not exchange.error_type:
            exchange.error_type = _error_type(exchange)
        for finish in reversed(self._finishers):
            try:
                finish(exchange)
            except Exception as error:
                contain(_name(finish), error)


_all: weakref.WeakSet[Middleware] = weakref.WeakSet()


def _after_fork() -> None:
    for middleware in list(_all):
        middleware.begin_anew()


os.register_at_fork(after_in_child=_after_fork)


def _error_type(exchange: Exchange) -> str:
    if exchange.disconnected:
        return "client_disconnect"
    if exchange.exception is not None:
        return qualified_name(type(exchange.exception))
    status = exchange.status
    return str(status) if status is not None and status >= 500 else ""


def qualified_name(cls: type) -> str:
    """As OpenTelemetry names exceptions: with the module, unless it is a builtin."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def _name(part: object) -> str:
    """The signal that a callable of ours belongs to: the last part of its module's name."""
    module: str = getattr(part, "__module__", None) or type(part).__module__
    return module.rpartition(".")[2]
