"""Drives an ASGI app without a server, and reads what was counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.cells.render import render


@dataclass
class Answer:
    """What the app sent, and what escaped from it."""

    messages: list[Message] = field(default_factory=list)
    raised: BaseException | None = None

    @property
    def status(self) -> int | None:
        starts = [m["status"] for m in self.messages if m["type"] == "http.response.start"]
        return starts[0] if starts else None

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)

    @property
    def headers(self) -> dict[str, str]:
        for message in self.messages:
            if message["type"] == "http.response.start":
                return {k.decode().lower(): v.decode() for k, v in message["headers"]}
        return {}


def scope(
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Scope:
    """What uvicorn hands to an app."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("192.0.2.7", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
        **more,
    }


async def call(
    app: ASGIApp,
    path: str = "/",
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    body: Iterable[bytes] = (b"",),
    on_send: Callable[[Message], None] = lambda message: None,
    **more: Any,
) -> Answer:
    """One request, as a server would make it; what escapes from the app is kept, not raised."""
    answer = Answer()
    chunks = list(body)
    received = [
        {"type": "http.request", "body": chunk, "more_body": more_body}
        for chunk, more_body in zip(chunks, [True] * (len(chunks) - 1) + [False], strict=True)
    ]

    async def receive() -> Message:
        if received:
            return received.pop(0)
        return await asyncio.Future()

    async def send(message: Message) -> None:
        on_send(message)
        answer.messages.append(message)

    try:
        await app(scope(path, method, headers, **more), receive, send)
    except BaseException as error:
        answer.raised = error
    return answer


def text_of(meters: Meters, *, openmetrics: bool = False) -> str:
    """What a scrape would show of them."""
    return "".join(render(meters, openmetrics=openmetrics))


def values(meters: Meters, metric: Metric) -> dict[tuple[str, ...], float]:
    """What a metric counted, by label values: a histogram's count, else the value; zeros left out."""
    return {
        row.values: amount
        for row in meters.rows(metric)
        if (amount := row.count if isinstance(row, Histogram) else row.cells[row.at])
    }


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
