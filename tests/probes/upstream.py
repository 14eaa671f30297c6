"""Another service, over real sockets, that answers when the test says so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fastapi import FastAPI

from fastobs import _exchange
from fastobs._exchange import Exchange
from fastobs._parts import Parts
from fastobs._routes import Routes
from tests.driving import scope
from tests.parts import PATIENCE

__all__ = ["Upstream", "calls", "going_on", "request", "upstream"]


class Upstream(ThreadingHTTPServer):
    """Answers ``/429`` with that status, ``/hold`` once it is released, and all else at once.

    What it says is short, but for ``/large``.
    """

    daemon_threads = True
    url: str

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.holding = 0
        self.release = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Who does not read all of an answer resets its connection.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.server.holding += 1
            self.server.release.wait(PATIENCE)
        body = b"hello" * (200_000 if self.path == "/large" else 1)
        # Whom it is asked for as a proxy comes before the path.
        self.send_response(429 if self.path.endswith("/429") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Serves until the block ends."""
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


@contextmanager
def request(route: str = "") -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    exchange._route = route
    token = _exchange.CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        exchange.closed = True
        for leave in exchange.leaving:
            leave()
        _exchange.CURRENT.reset(token)


def going_on(exchange: Exchange) -> list[str]:
    """The parts that have begun and not ended."""
    parts = exchange.parts
    return list(parts._open) if isinstance(parts, Parts) else []


def calls(exchange: Exchange) -> int:
    """How many there were so far."""
    parts = exchange.parts
    assert isinstance(parts, Parts)
    return parts.calls
