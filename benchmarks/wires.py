"""Connections whose other end answers at once and takes no time of its own.

A round trip through the kernel takes longer, and by more from one to the next, than all that is
measured here. What a library does with a connection is the same with these.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx
from redis import Connection, ConnectionPool, Redis

__all__ = ["http_client", "redis_client"]


class _Socket:
    """What redis-py needs of a socket to a server on which every key has a value."""

    def __init__(self) -> None:
        self._reply = b""

    def sendall(self, command: bytes) -> None:
        self._reply = b"$5\r\nvalue\r\n" if b"\r\nGET\r\n" in command else b"+OK\r\n"

    def recv(self, _size: int) -> bytes:
        if not self._reply:
            raise BlockingIOError(errno.EWOULDBLOCK, "nothing to read")
        reply, self._reply = self._reply, b""
        return reply

    def settimeout(self, _seconds: float | None) -> None: ...

    def shutdown(self, _how: int) -> None: ...

    def close(self) -> None: ...


class _Connection(Connection):
    def _connect(self) -> Any:
        return _Socket()


def redis_client() -> Redis:
    """A client of redis-py."""
    return Redis(connection_pool=ConnectionPool(connection_class=_Connection, protocol=2))


class _Stream(httpcore.NetworkStream):
    """A server that says ``ok`` to every request."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...

    def get_extra_info(self, info: str) -> Any: ...


class _Network(httpcore.NetworkBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream()


def http_client() -> httpx.Client:
    """A client of httpx."""
    transport = httpx.HTTPTransport()
    # It has no argument for it.
    transport._pool = httpcore.ConnectionPool(network_backend=_Network())
    return httpx.Client(transport=transport)
