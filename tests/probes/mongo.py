"""A server that speaks as much of MongoDB's protocol as a client needs to find something."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bson

from tests.parts import PATIENCE

__all__ = ["Server", "server"]

HEADER = struct.Struct("<iiii")
MESSAGE = 2013
QUERY = 2004
REPLY = 1

HELLO = {
    "ismaster": True,
    "isWritablePrimary": True,
    "helloOk": True,
    "maxBsonObjectSize": 16 * 1024 * 1024,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 25,
    "logicalSessionTimeoutMinutes": 30,
    "ok": 1.0,
}


class Server(socketserver.ThreadingTCPServer):
    """Answers ``hello``, ``ping`` and ``find``; ``wait`` when `go` is set; nothing else."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Talk)
        self.go = threading.Event()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.server_address[1]}/?directConnection=true"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        match next(iter(asked)).lower():
            case "hello" | "ismaster":
                return HELLO
            case "ping" | "endsessions":
                return {"ok": 1.0}
            case "wait":
                self.go.wait(PATIENCE)
                return {"ok": 1.0}
            case "find":
                return {
                    "cursor": {"id": 0, "ns": "shop.items", "firstBatch": [{"a": 1}]},
                    "ok": 1.0,
                }
        return {"ok": 0.0, "errmsg": "no such command", "code": 59, "codeName": "CommandNotFound"}


class Talk(socketserver.BaseRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        while header := self._read(HEADER.size):
            length, number, _, kind = HEADER.unpack(header)
            body = self._read(length - HEADER.size)
            if kind == MESSAGE:
                asked: dict[str, Any] = bson.decode(
                    body[5 : 5 + struct.unpack_from("<i", body, 5)[0]]
                )
                answer = struct.pack("<IB", 0, 0) + bson.encode(self.server.answer(asked))
                kind = MESSAGE
            else:
                start = body.index(b"\0", 4) + 9
                asked = bson.decode(body[start : start + struct.unpack_from("<i", body, start)[0]])
                answer = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self.server.answer(asked))
                kind = REPLY
            length = HEADER.size + len(answer)
            self.request.sendall(HEADER.pack(length, 0, number, kind) + answer)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.request.recv(size - len(data))
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return data


@contextmanager
def server() -> Iterator[Server]:
    """One that runs."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.go.set()
            running.shutdown()
            thread.join()
