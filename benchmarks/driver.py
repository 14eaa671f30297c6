"""Speaks ASGI to an application as uvicorn does, but from the same process."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope

__all__ = ["Answer", "ask", "drive", "running", "scope_for"]

HEADERS = [
    (b"host", b"shop.example:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"application/json, text/plain, */*"),
    (b"accept-language", b"en-GB,en;q=0.7"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"referer", b"https://shop.example/items"),
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-proto", b"https"),
    (b"cookie", b"session=5f2b8e0e6f3d4a0b9c1d2e3f4a5b6c7d"),
    (b"connection", b"keep-alive"),
]
NO_BODY = {"type": "http.request", "body": b"", "more_body": False}


@dataclass(slots=True)
class Answer:
    """What a server would have sent; its methods are what the application is given."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    asked: bool = False

    @property
    def text(self) -> str:
        packed = self.headers.get(b"content-encoding") == b"gzip"
        return (gzip.decompress(self.body) if packed else self.body).decode()

    async def receive(self) -> Message:
        if self.asked:
            # The client stays connected until the application is done with it.
            await asyncio.Event().wait()
        self.asked = True
        return NO_BODY

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.body += message.get("body", b"")


def scope_for(path: str, method: str = "GET") -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": HEADERS.copy(),
        "client": ("203.0.113.9", 54321),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def ask(app: ASGIApp, path: str, method: str = "GET") -> Answer:
    """One request, and what became of it."""
    answer = Answer()
    await app(scope_for(path, method), answer.receive, answer.send)
    return answer


async def drive(app: ASGIApp, path: str, requests: int) -> None:
    """So many requests, one after the other, as if a server had nothing else to do."""
    for _ in range(requests):
        answer = Answer()
        await app(scope_for(path), answer.receive, answer.send)
        if answer.status != 200:
            msg = f"{path} was answered with {answer.status}."
            raise RuntimeError(msg)


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """The application between its start-up and its shutdown."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    life = asyncio.ensure_future(app(scope, inbox.get, outbox.put))

    async def turn(phase: str) -> None:
        await inbox.put({"type": f"lifespan.{phase}"})
        told = asyncio.ensure_future(outbox.get())
        await asyncio.wait({told, life}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done() or told.result()["type"] != f"lifespan.{phase}.complete":
            msg = f"The application's {phase} failed: {told if told.done() else life!r}"
            raise RuntimeError(msg)

    await turn("startup")
    yield
    await turn("shutdown")
    await life
