"""What becomes of a block: two series, a line in the log, and the time of all whom it held up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, time_ns

from fastobs import catalogue
from fastobs._budget import Budget
from fastobs._exchange import Exchange
from fastobs._parts import BLOCKING, LOOP_WAIT, Grip, Held, hold
from fastobs.cells import Meters

from .holder import Place

__all__ = ["EVENT", "Block", "Blocks"]

EVENT = "event_loop_blocked"

PLACES = 1000
"""Places whose lines are counted; more are made from data, and the oldest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One step held the event loop for longer than allowed."""

    exchange: Exchange | None
    """Whose step; None if no request led to it."""
    place: Place
    """Where it was seen for the longest time."""
    duration: float
    """Seconds, at least: it may have begun up to a tick earlier, never later."""
    others: tuple[Exchange, ...]
    """The requests beside it that were in flight on that loop."""
    grip: Grip
    """Tells when it is over, sooner than `Blocks.ended` is told."""


class Blocks:
    """Tells of blocks.

    Args:
        meters: Counts every block, logged or not.
        tell: Takes a log line; must not block.
        after: Seconds; the threshold, for the line.
        per_minute: Lines about one place.
        clock: Seconds; for the rate limit.
    """

    def __init__(
        self,
        meters: Meters,
        tell: Callable[[tuple[str, dict[str, object]]], None],
        *,
        after: float,
        per_minute: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._meters = meters
        self._tell = tell
        self._after = after
        self._per_minute = per_minute
        self._clock = clock
        self._budgets: dict[tuple[str, int], Budget] = {}

    def goes_on(self, block: Block) -> None:
        """A block has passed the threshold, and those whom it holds up cannot end before it does."""
        culprit, place = block.exchange, block.place
        at = time_ns() - int(block.duration * 1e9)
        said: dict[str, str | int] = {
            "code.function.name": place.function,
            "code.file.path": place.file,
            "code.line.number": place.line,
        }
        if culprit is not None and (route := culprit.route):
            said["http.route"] = route
        for exchange in block.others:
            hold(exchange, Held(LOOP_WAIT, block.grip, at=at, event=EVENT, attributes=said))
        if culprit is not None:
            hold(culprit, Held(BLOCKING, block.grip, at=at, event=EVENT, attributes=said))

    def ended(self, block: Block) -> None:
        """A block is over."""
        route = "" if block.exchange is None else block.exchange.route
        self._meters.counter(catalogue.LOOP_BLOCKS, route).add()
        self._meters.counter(catalogue.LOOP_BLOCKED, route).add(block.duration)
        suppressed = self._budget(block.place).take()
        if suppressed is not None:
            self._tell(("warning", self._line(block, route, suppressed)))

    def _budget(self, place: Place) -> Budget:
        key = (place.file, place.line)
        if key not in self._budgets:
            if len(self._budgets) >= PLACES:
                del self._budgets[next(iter(self._budgets))]
            self._budgets[key] = Budget(self._per_minute, self._clock)
        return self._budgets[key]

    def _line(self, block: Block, route: str, suppressed: int) -> dict[str, object]:
        exchange = block.exchange
        return {
            "event": EVENT,
            "level": "warning",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "duration": round(block.duration, 6),
            "threshold": self._after,
            "method": "" if exchange is None else exchange.method,
            "route": route,
            **block.place._asdict(),
            "delayed": len(block.others),
            "trace_id": "" if exchange is None else exchange.trace_id,
            "span_id": "" if exchange is None else exchange.span_id,
            "trace_sampled": exchange is not None and exchange.sampled,
            "request_id": "" if exchange is None else exchange.request_id,
            "pid": os.getpid(),
            "suppressed": suppressed,
        }
