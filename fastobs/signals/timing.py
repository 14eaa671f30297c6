"""Tells the client where the time of its request went: the header ``Server-Timing``.

What it can say is what is known when the response starts (https://www.w3.org/TR/server-timing/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import perf_counter

from starlette.types import Message

from fastobs._contain import contain
from fastobs._exchange import Exchange, Finish, Signal
from fastobs._middleware import Passage
from fastobs._parts import so_far
from fastobs.profiling.access import Access

__all__ = ["server_timing", "timed_for"]

HEADER = b"server-timing"
PROFILE = b"x-profile"
MOST = 20
"""Parts in one header: a proxy refuses a response whose headers are too long."""
NO_TOKEN = re.compile(r"[^A-Za-z0-9_.-]+", re.ASCII)


def server_timing(clock: Callable[[], float] = perf_counter) -> Signal:
    """Every response has the header.

    Args:
        clock: Seconds, as the probes see them.
    """

    def begin(exchange: Exchange) -> None:
        if isinstance(exchange, Passage):
            _announce(exchange, clock)

    return begin


def timed_for(access: Access, signal: Signal, clock: Callable[[], float] = perf_counter) -> Signal:
    """The signal that ``X-Profile`` asks for; for those who may ask, the response has the header too.

    Args:
        access: Decides who may.
        signal: What is asked for.
        clock: Seconds, as the probes see them.
    """

    def begin(exchange: Exchange) -> Finish | None:
        try:
            token = exchange.request_headers.get(PROFILE)
            if (
                token is not None
                and isinstance(exchange, Passage)
                and access.allowed(token, exchange) is not None
            ):
                _announce(exchange, clock)
        except Exception as error:
            contain("timing", error)
        return signal(exchange)

    return begin


def _announce(passage: Passage, clock: Callable[[], float]) -> None:
    outward = passage.outward

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            try:
                now = clock()
                header = (HEADER, _described(so_far(passage, now), now - passage.started))
                # A new list: an app may answer twice with the same one.
                message["headers"] = [*message.get("headers", ()), header]
            except Exception as error:
                contain("timing", error)
        await outward(message)

    passage.outward = send


def _described(parts: Mapping[str, float], whole: float) -> bytes:
    largest = sorted(parts.items(), key=lambda part: -part[1])[:MOST]
    entries = [(NO_TOKEN.sub("_", part), seconds) for part, seconds in largest]
    entries.append(("total", max(whole, sum(parts.values()))))
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in entries).encode()
