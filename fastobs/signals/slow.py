"""One log line for a request that was slow: what it was, how long, and how to find it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from time import monotonic, time
from traceback import walk_tb
from typing import Any, TextIO

import structlog

from fastobs import catalogue
from fastobs._budget import Budget
from fastobs._exchange import SLOWEST, Exchange, Finish
from fastobs._files import distance, relative
from fastobs._outbox import Outbox
from fastobs._parts import BLOCKING, Held, Off, Parts, account
from fastobs._queue import queued
from fastobs._repeats import sent
from fastobs._service import Identity
from fastobs.cells import Meters
from fastobs.config import Slow

__all__ = ["Line", "lines", "slow_requests"]

NOBODY = Identity("", "", "")

TOLD = 3
"""Blocks of the event loop that a line names; `parts` has the time of all."""

FOR_PEOPLE = (
    "event",
    "level",
    "timestamp",
    "duration",
    "ttfb",
    "route",
    "pool",
    "cache",
    "status",
    "error_type",
    "raised_at",
    "parts",
    "slowest_query",
    "findings",
    "function",
    "file",
    "line",
    "at",
    "delayed",
    "profile_id",
)
"""The fields of our lines that a terminal shows first."""

Line = tuple[str, dict[str, Any]]
"""Level and fields of one event."""


def slow_requests(
    settings: Slow,
    meters: Meters,
    put: Callable[[Line], None],
    *,
    who: Identity = NOBODY,
    worker: Callable[[], str] = str,
    clock: Callable[[], float] = monotonic,
    wall: Callable[[], float] = time,
) -> Finish:
    """Log a request that took longer than its threshold, once its last byte is sent.

    Args:
        settings: Thresholds and the rate limit.
        meters: Counts every slow request, logged or not.
        put: Takes the finished line; must not block.
        who: Our name and version.
        worker: Answers with the number of this worker.
        clock: Seconds; for the rate limit.
        wall: Seconds since 1970; for what a proxy says.
    """
    budget = Budget(settings.per_minute, clock)

    def finish(exchange: Exchange) -> None:
        threshold = settings.threshold(exchange.route)
        if exchange.duration < threshold:
            return
        meters.counter(catalogue.HTTP_SLOW, exchange.route).add()
        if (suppressed := budget.take()) is not None:
            line = _line(exchange, threshold, suppressed, who, worker)
            if settings.trust_request_start:
                queue = queued(exchange, wall() - exchange.duration)
                if queue is not None:
                    line[1]["queue"] = round(queue, 6)
            put(line)

    return finish


def _line(
    exchange: Exchange, threshold: float, suppressed: int, who: Identity, worker: Callable[[], str]
) -> Line:
    status = exchange.status
    level = "error" if status is not None and status >= 500 else "warning"
    fields: dict[str, Any] = {
        "event": "slow_request",
        "level": level,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "duration": round(exchange.duration, 6),
        "threshold": threshold,
        "method": exchange.method,
        "route": exchange.route,
        "path": exchange.path,
        "status": status,
        "error_type": exchange.error_type,
        "trace_id": exchange.trace_id,
        "span_id": exchange.span_id,
        "trace_sampled": exchange.sampled,
        "request_id": exchange.request_id,
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
        "inflight": int(exchange.inflight),
        "service": who.name,
        "version": who.version,
        "worker": worker(),
        "pid": os.getpid(),
    }
    if exchange.answered:
        fields["ttfb"] = round(exchange.answered - exchange.started, 6)
    if parts := account(exchange):
        fields["parts"] = _largest_first(parts)
    if queries := sent(exchange):
        fields["queries"] = queries
    if calls := _calls(exchange.parts):
        fields["calls"] = calls
    if exchange.notes is not None and SLOWEST in exchange.notes:
        fields["slowest_query"] = exchange.notes[SLOWEST]
    if exchange.exception is not None:
        fields["raised_at"] = _raised_at(exchange.exception)
    if exchange.profile_id is not None:
        fields["profile_id"] = exchange.profile_id
    if findings := _findings(exchange):
        fields["findings"] = findings
    fields["suppressed"] = suppressed
    return level, fields


def _calls(parts: Mapping[str, float]) -> int:
    """How many calls of other services there were, as far as they were counted."""
    # With the breakdown off, requests share what that is noted in.
    return parts.calls if isinstance(parts, Parts) and not isinstance(parts, Off) else 0


def _findings(exchange: Exchange) -> list[dict[str, Any]]:
    """What is known to be wrong with it: blocks of the event loop, and what others noted."""
    parts = exchange.parts
    found = [_block(held) for held in parts.held[:TOLD]] if isinstance(parts, Parts) else []
    found += (exchange.notes or {}).get("findings", [])
    return found


def _block(held: Held) -> dict[str, Any]:
    said = held.attributes
    return {
        "kind": "blocks_event_loop" if held.part == BLOCKING else "event_loop_blocked",
        "seconds": round(held.seconds, 6),
        "route": said.get("http.route", ""),
        "function": said.get("code.function.name", ""),
        "at": f"{said.get('code.file.path', '')}:{said.get('code.line.number', '')}",
    }


def _raised_at(exception: BaseException) -> str:
    """The innermost line of the app's own code that an exception came through."""
    lines = [
        f"{relative(frame.f_code.co_filename)}:{line}"
        for frame, line in walk_tb(exception.__traceback__)
        if not distance(frame.f_code.co_filename)
    ]
    return lines[-1] if lines else ""


def _largest_first(parts: Mapping[str, float]) -> dict[str, float]:
    by_size = sorted(parts.items(), key=lambda part: -part[1])
    return {part: round(seconds, 6) for part, seconds in by_size}


def lines(meters: Meters, *, limit: int = 1000, stream: TextIO | None = None) -> Outbox[Line]:
    """Where log lines go: rendered and written on a thread, through structlog.

    If the app has configured structlog, its chain renders them; else a private chain writes to
    stderr, for people when that is a terminal and as one JSON object per line otherwise.
    """
    dropped = meters.counter(catalogue.SELF_DROPPED, "logs", "queue_full")
    logger: list[Any] = []

    def write(line: Line) -> None:
        if not logger:
            # At the first line, so that an app may configure structlog after instrument().
            logger.append(_logger(stream))
        level, fields = line
        getattr(logger[0], level)(**fields)

    return Outbox(write, name="fastobs-log", limit=limit, dropped=dropped.add, signal="logs")


def _logger(stream: TextIO | None) -> Any:
    if structlog.is_configured():
        return structlog.get_logger("fastobs")
    out = stream or sys.stderr
    chain: list[Any] = (
        [_for_people, structlog.dev.ConsoleRenderer(sort_keys=False)]
        if out.isatty()
        else [_event_first, structlog.processors.JSONRenderer()]
    )
    # Given here, processors and class are out of reach of structlog.configure().
    return structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=chain,
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def _for_people(_: Any, __: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    # A terminal folds the line: what says where to look comes before what identifies the request,
    # and what is empty is left out.
    first = {name: fields.pop(name) for name in FOR_PEOPLE if name in fields}
    told = {**first, **fields}
    return {name: said for name, said in told.items() if said not in ("", None, 0)}


def _event_first(_: Any, __: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    # structlog puts the event behind the fields; whoever reads the line looks for it first.
    return {"event": fields.pop("event"), **fields}
