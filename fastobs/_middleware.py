"""The way of a request: one clock, one exchange, closed once, and every signal is told the same."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._aside import Aside
from ._contain import contain, contained
from ._exchange import CURRENT, Exchange, Finish, Signal, qualified_name
from ._routes import Routes

__all__ = ["Clock", "Inmost", "Middleware"]

Clock = Callable[[], float]
"""Seconds, from any origin, never backwards."""


class Middleware:
    """Pure ASGI, outside everything else that the app does.

    Args:
        app: The application's whole middleware stack.
        signals: Who is told about the beginning of each exchange, and answers with what is told
            of its end; the last one told of the beginning is the first told of the end.
        finishers: Told of the end of each exchange, after those.
        requested: Signals that a request asks for by a header of this name; they begin last.
        heads: Told of the end first, and only of an exchange that failed, that something was noted
            of, or that took longer than `patience`.
        ends: Told of the end of such an exchange last.
        patience: Seconds.
        enter: Makes current what the exchange's own code shall find, once the signals are told.
        leave: Takes what `enter` answered, unless that was None.
        announces: Whether each response tells the trace id.
        routes: Knows the template of a request's route.
        pages: What we answer ourselves, by path; with a final ``/*`` also everything below it.
        excluded: Paths that are passed on unseen; with a final ``*``, everything that begins so.
        sockets: Told +1 and -1 as WebSocket connections come and go.
        started: Called whenever the app's start-up is complete; with the first request, if that
            comes before.
        ended: Called in a thread when the app's shut-down is complete, before the server hears of it.
        opened: Where exchanges are while the app is at work on them, the oldest first.
        late: Told of an exception that came after the last byte: of a background task, or of a stream
            whose end a middleware of the app has sent all the same.
        clock: Seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        signals: Sequence[Signal],
        finishers: Sequence[Finish] = (),
        requested: Mapping[bytes, Signal] | None = None,
        heads: Sequence[Finish] = (),
        ends: Sequence[Finish] = (),
        patience: float = inf,
        enter: Callable[[Exchange], Any] | None = None,
        leave: Callable[[Any], object] = id,
        announces: bool = False,
        routes: Routes,
        pages: Mapping[str, ASGIApp],
        excluded: Sequence[str],
        sockets: Callable[[int], None],
        started: Callable[[], None],
        ended: Callable[[], None] = lambda: None,
        opened: dict[Exchange, None] | None = None,
        late: Callable[[Exchange, Exception], None] = lambda exchange, error: None,  # noqa: ARG005
        clock: Clock = perf_counter,
    ) -> None:
        self.app = app
        self.signals = tuple(signals)
        self.requested = tuple((requested or {}).items())
        self.asking = frozenset(requested or {})
        self.finishers = tuple(finishers)
        self.heads = tuple(heads)
        self.ends = tuple(ends)
        self.patience = patience
        self.enter = enter
        self.leave = leave
        self.announces = announces
        self.routes = routes
        self.opened = {} if opened is None else opened
        self.late = late
        self.clock = clock
        self._pages = {path.removesuffix("/*"): page for path, page in pages.items()}
        self._trees = tuple(path[:-1] for path in pages if path.endswith("/*"))
        self._excluded = frozenset(path for path in excluded if not path.endswith("*"))
        self._excluded_prefixes = tuple(path[:-1] for path in excluded if path.endswith("*"))
        # One look decides for nearly every request that nothing below concerns it.
        self._special = (*self._pages, *self._excluded_prefixes)
        self._sockets = sockets
        self._started = started
        self._ended = ended
        self._waiting = True
        _all.add(self)

    def begin_anew(self) -> None:
        """In a forked child: what was started is the parent's."""
        self._waiting = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        asked_for: str = scope["path"]
        path = asked_for
        if root := scope.get("root_path"):
            path = path.removeprefix(root)
        if path.startswith(self._special) and (other := self._elsewhere(path)) is not None:
            await other(scope, receive, send)
            return
        if path in self._excluded or "fastobs" in scope:
            # "fastobs" in scope: an instrumented app mounted in one is seen by the outer one.
            await self.app(scope, receive, send)
            return
        if self._waiting:
            self._start()
        passage = Passage(scope, self.routes, self.clock())
        passage.inward, passage.outward, passage.middleware = receive, send, self
        passage.trailers, passage.finishers = False, self.finishers
        scope["fastobs"] = passage
        token = CURRENT.set(passage)
        entered = None
        self.opened[passage] = None
        try:
            signals = self.signals
            if not passage.request_headers.keys().isdisjoint(self.asking):
                asked = passage.request_headers
                signals += tuple(each for header, each in self.requested if header in asked)
            for signal in signals:
                try:
                    if (finish := signal(passage)) is not None:
                        passage.finishers = (finish,) + passage.finishers  # noqa: RUF005 - faster
                except Exception as error:
                    contain(_name(signal), error)
            if self.enter is not None:
                try:
                    entered = self.enter(passage)
                except Exception as error:
                    contain("request", error)
            await self.app(scope, passage.receive, passage.send)
        except BaseException as error:
            passage.failed(error)
            raise
        finally:
            if not passage.closed:
                passage.returned()
            del self.opened[passage]
            if entered is not None:
                self.leave(entered)
            CURRENT.reset(token)
            # The exchange knows its scope: left like this, every request would wait for the
            # garbage collector, which costs more than all the rest of this module.
            scope.pop("fastobs", None)
            passage.exception = None
            if passage.leaving:
                for leave in passage.leaving:
                    try:
                        leave()
                    except Exception as error:
                        contain("request", error)
                passage.leaving = []
            # Some hold an exchange for longer: a connection that is out, the context of a task that lives
            # on. What the app has forgotten, such as a session in the state of its request, would stay
            # with it, and with that session its connection.
            if passage._route is None:
                passage._route = passage.route
            passage.scope = passage._routed = {"path": asked_for}
            passage.inward, passage.outward = _nothing_comes, _nothing_goes

    def _elsewhere(self, path: str) -> ASGIApp | None:
        """Who answers a path that is one of our pages, or excluded by its beginning."""
        for own, page in self._pages.items():
            # What is below /metrics may be the app's.
            if path in (own, f"{own}/") or (
                f"{own}/" in self._trees and path.startswith(f"{own}/")
            ):
                return page
        return self.app if path.startswith(self._excluded_prefixes) else None

    def _start(self) -> None:
        self._waiting = False
        with contained("start"):
            self._started()

    async def _end(self) -> None:
        with contained("end"):
            # Whoever delivers waits for others: not on the loop, where other apps may be served.
            await Aside(1).run(self._ended)

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
            elif message["type"].startswith("lifespan.shutdown."):
                # The last moment that every server gives: uvicorn and granian end the process by
                # the signal that they were sent, and what is registered with atexit never runs.
                await self._end()
            await send(message)

        await self.app(scope, receive, tell)


class Passage(Exchange):
    """An exchange on its way through the middleware: what passes by is counted, nothing is changed.

    ``send`` and ``receive`` are what the app gets instead of the server's. The exchange is closed by
    whatever comes first: the last byte, an exception, or the app's return. Written for few calls and
    few objects: those are what a request pays for, not the statements.
    """

    __slots__ = ("finishers", "inward", "middleware", "outward", "trailers")
    # Written by the middleware: a constructor of its own would be one more call for each request.
    inward: Receive
    outward: Send
    middleware: Middleware
    trailers: bool
    finishers: tuple[Finish, ...]

    async def receive(self) -> Message:
        message = await self.inward()
        if not self.closed:
            if message["type"] == "http.request":
                self.request_bytes += len(message.get("body", b""))
            elif message["type"] == "http.disconnect":
                self.disconnected = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        # Not async: a start message needs nothing after it, and saves a coroutine.
        if message["type"] != "http.response.start":
            return self._forward(message)
        try:
            self.answered = self.middleware.clock()
            status = self.status = message["status"]
            self.trailers = message.get("trailers", False)
            # A new list: an app may answer twice with the same one.
            if self.middleware.announces:
                announced = (b"x-trace-id", b"%032x" % self.trace_number)
                message["headers"] = [*message.get("headers", ()), *self.headers, announced]
            elif self.headers:
                message["headers"] = [*message.get("headers", ()), *self.headers]
            if status >= 400:
                self._note(status, message)
        except Exception as error:
            contain("request", error)
        return self.outward(message)

    async def _forward(self, message: Message) -> None:
        last = False
        try:
            if message["type"] == "http.response.body":
                self.response_bytes += len(message.get("body", b""))
                last = not message.get("more_body", False) and not self.trailers
            else:
                last = self._is_last(message)
        except Exception as error:
            contain("request", error)
        try:
            await self.outward(message)
        except OSError:
            # ASGI 2.4: the server raises OSError when the client has gone.
            self.disconnected = True
            raise
        if last:
            self._close()

    def failed(self, error: BaseException) -> None:
        if self.closed:
            # Of one that was answered with a 5xx, the response told already.
            if self.exception is None and not self.disconnected and isinstance(error, Exception):
                with contained("request"):
                    self.middleware.late(self, error)
            return
        if isinstance(error, asyncio.CancelledError):
            self.disconnected = True
            self.error_type = "cancelled"
        elif not self.disconnected:
            self.exception = error
            if self.status is None:
                # The server answers for us: "Internal Server Error".
                self.status = 500
        self._close()

    def returned(self) -> None:
        if not self.disconnected:
            self.error_type = "incomplete_response"
            self.noted = True
            if self.status is None:
                self.status = 500
        self._close()

    def _note(self, status: int, message: Message) -> None:
        if status == 429:
            self.noted = True
            names = (name.lower() for name, _ in message.get("headers", ()))
            self.notes = {**(self.notes or {}), "retry_after": b"retry-after" in names}
        if status < 500:
            return
        # Whoever turns an exception into a response (Starlette's ServerErrorMiddleware, an
        # exception handler) sends it from within its except block, so this is the exception.
        exception = sys.exception()
        if not isinstance(exception, HTTPException):
            self.exception = exception

    def _is_last(self, message: Message) -> bool:
        """Of the messages that are rare."""
        if message["type"] == "http.response.pathsend":
            self.response_bytes += Path(message["path"]).stat().st_size
            return not self.trailers
        return message["type"] == "http.response.trailers" and not message.get("more_trailers")

    def _close(self) -> None:
        if self.closed:
            return
        middleware = self.middleware
        self.duration = middleware.clock() - self.started
        self.closed = True
        if self.method == "HEAD":
            # The app may have handed over a body; the server has sent none.
            self.response_bytes = 0
        status = self.status
        if status is None or status >= 500 or self.disconnected or self.exception:
            self.noted = True
            if not self.error_type:
                self.error_type = _error_type(self)
        finishers = self.finishers
        if self.noted or self.duration >= middleware.patience:
            finishers = middleware.heads + finishers + middleware.ends
        for finish in finishers:
            try:
                finish(self)
            except Exception as error:
                contain(_name(finish), error)


async def _nothing_comes() -> Message:
    """In the place of the server's, for whoever asks when the app has returned."""
    return {"type": "http.disconnect"}


async def _nothing_goes(message: Message) -> None:
    """Likewise; as ASGI has it for a client that has gone."""
    msg = f"{message['type']} came after the app had returned."
    raise OSError(msg)


class Inmost:
    """Around the router: knows the scope that routing writes to.

    It is another one than ours if a middleware of the app has handed on a copy, as ASGI asks of
    those who change something in it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        passage: Passage | None = scope.get("fastobs")
        if passage is not None and passage.scope is not scope:
            passage.routed_in(scope)
        return self.app(scope, receive, send)


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


def _name(part: object) -> str:
    """The signal that a callable of ours belongs to: the last part of its module's name."""
    module: str = getattr(part, "__module__", None) or type(part).__module__
    return module.rpartition(".")[2]
