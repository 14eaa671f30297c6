"""One log line for a request that was slow: what it was, how long, and how to find it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

import structlog

from fastobs import catalogue
from fastobs._exchange import Exchange, Finish
from fastobs._outbox import Outbox
from fastobs.cells import Meters
from fastobs.config import Slow

__all__ = ["Budget", "Line", "lines", "slow_requests"]

Line = tuple[str, dict[str, Any]]
"""Level and fields of one event."""


def slow_requests(
    settings: Slow,
    meters: Meters,
    put: Callable[[Line], None],
    clock: Callable[[], float] = monotonic,
) -> Finish:
    """Log a request that took longer than its threshold, once its last byte is sent.

    Args:
        settings: Thresholds and the rate limit.
        meters: Counts every slow request, logged or not.
        put: Takes the finished line; must not block.
        clock: Seconds; for the rate limit.
    """
    budget = Budget(settings.per_minute, clock)

    def finish(exchange: Exchange) -> None:
        threshold = settings.routes.get(exchange.route, settings.after)
        if exchange.duration < threshold:
            return
        meters.counter(catalogue.HTTP_SLOW, exchange.route).add()
        if (suppressed := budget.take()) is not None:
            put(_line(exchange, threshold, suppressed))

    return finish


class Budget:
    """So many per minute; what exceeds it is counted and told with the next one that passes."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._most = float(per_minute)
        self._left = self._most
        self._asked = clock()
        self._suppressed = 0

    def take(self) -> int | None:
        """How many were suppressed since the last one; None if this one is too."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._asked) * self._most / 60)
        self._asked = now
        if self._left < 1:
            self._suppressed += 1
            return None
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


def _line(exchange: Exchange, threshold: float, suppressed: int) -> Line:
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
        "pid": os.getpid(),
    }
    if exchange.profile_id is not None:
        fields["profile_id"] = exchange.profile_id
    fields["suppressed"] = suppressed
    return level, fields


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

    return Outbox(write, name="fastobs-log", limit=limit, dropped=dropped.add)


def _logger(stream: TextIO | None) -> Any:
    if structlog.is_configured():
        return structlog.get_logger("fastobs")
    out = stream or sys.stderr
    render = (
        structlog.dev.ConsoleRenderer(sort_keys=False)
        if out.isatty()
        else structlog.processors.JSONRenderer()
    )
    # Given here, processors and class are out of reach of structlog.configure().
    return structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[_event_first, render],
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def _event_first(_: Any, __: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    # structlog puts the event behind the fields; whoever reads the line looks for it first.
    return {"event": fields.pop("event"), **fields}
