"""Where a request's time goes: every moment belongs to one part, the one that began last."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from typing import Protocol

from ._exchange import NO_PARTS, Exchange

__all__ = [
    "BLOCKING",
    "CPU",
    "LOOP_WAIT",
    "OFF",
    "THREAD",
    "UNACCOUNTED",
    "Grip",
    "Held",
    "Intervals",
    "Off",
    "Parts",
    "account",
    "enter",
    "hold",
    "leave",
    "so_far",
]

UNACCOUNTED = "unaccounted"
"""What of the duration belongs to no part."""
LOOP_WAIT = "loop_wait"
"""Others held the event loop, so that nothing of the request could go on there."""
BLOCKING = "blocking"
"""The request itself held the event loop, in none of its other parts, and computed nothing."""
CPU = "cpu"
"""The request computed, in none of its other parts."""
THREAD = "thread"
"""A function of the request's ran in a worker thread."""

TOLD = 100
"""Holds of one request that are told one by one, and intervals; a stream may see more."""


class Grip(Protocol):
    """A step that holds an event loop for too long."""

    began: float
    """When it was seen first, in seconds as ``perf_counter`` says."""

    def ended(self) -> float | None:
        """When, in the same seconds; None while it goes on. Asked from any thread."""

    def computed(self) -> float:
        """Seconds of processor time that it took so far. Asked from any thread."""


class Held:
    """The event loop of a request is held.

    Args:
        part: `LOOP_WAIT` or `BLOCKING`.
        grip: Tells how long.
        at: When it began, in nanoseconds since 1970.
        event: What a span calls it.
        attributes: What a span says of it.

    Attributes:
        since: When this request's share of it begins, in seconds.
        seconds: How long it was for this request; 0.0 until it is over.
    """

    __slots__ = ("at", "attributes", "event", "grip", "part", "seconds", "since")

    def __init__(
        self, part: str, grip: Grip, *, at: int, event: str, attributes: Mapping[str, str | int]
    ) -> None:
        self.part = part
        self.grip = grip
        self.at = at
        self.event = event
        self.attributes = attributes
        self.since = grip.began
        self.seconds = 0.0


class Intervals:
    """When the parts of a request were, one by one; of a request that is recorded.

    Attributes:
        found: Name, beginning and end in seconds, in the order of the ends.
        left_out: How many more there were.
    """

    __slots__ = ("_begun", "found", "left_out")

    def __init__(self) -> None:
        self.found: list[tuple[str, float, float]] = []
        self.left_out = 0
        self._begun: list[tuple[str, float]] = []

    def begin(self, part: str, now: float) -> None:
        # The whole endpoint, of which the request itself tells.
        if part != THREAD:
            self._begun.append((part, now))

    def end(self, part: str, now: float) -> None:
        begun = self._begun
        for at in range(len(begun) - 1, -1, -1):
            if begun[at][0] == part:
                _, since = begun.pop(at)
                if len(self.found) < TOLD:
                    self.found.append((part, since, now))
                else:
                    self.left_out += 1
                return

    def close(self, now: float) -> None:
        """Whatever goes on still is not the request's any more."""
        while self._begun:
            self.end(self._begun[-1][0], now)


class Parts(dict[str, float]):
    """Seconds by part, and which parts are going on.

    Parts may lie within each other (a query in a section), beside each other (two queries at once)
    or across each other. A moment is counted once and for the part that began last, so that the
    parts of a request never add up to more than its duration.

    That the loop is held is such a part, which the watchdog writes. `LOOP_WAIT` lies above what the
    request waits for on the loop, since no answer can be taken there, and below what its threads do,
    which go on. `BLOCKING` lies below everything: what it does meanwhile may have a better name. Of
    what is left to it, that which was computed is `CPU`.

    The loop, the request's threads and the watchdog write to it at the same time. What happens nearly
    always does without the lock: see `enter`.

    Attributes:
        calls: How many calls of other services there were. Who makes one counts it: a function would cost
            more than the count.
        held: When the loop was held, the oldest first.
        intervals: When each part was, if somebody will tell of it.
    """

    __slots__ = (
        "_blocking",
        "_holding",
        "_lock",
        "_locked",
        "_open",
        "_settled",
        "_since",
        "calls",
        "held",
        "intervals",
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.held: tuple[Held, ...] = ()
        self.intervals: Intervals | None = None
        self._holding: Held | None = None
        # What was blocking before that hold.
        self._blocking = 0.0
        self._open: list[str] = []
        self._since = 0.0
        self._settled = False
        # Reentrant: the garbage collector may run here and give back a connection, which has a part.
        self._lock = RLock()
        # How many reasons there are to take it: each who has it, a hold that goes on, the end. An error
        # in between leaves one too many, which is slower and no less right.
        self._locked = 0

    def record(self) -> None:
        """Also remember when each part was."""
        self.intervals = Intervals()
        # So that nobody writes without asking.
        self._locked += 1

    def enter(self, part: str, now: float) -> None:
        """The part begins."""
        with self._lock:
            self._locked += 1
            if not self._settled:
                self._turn(now)
                self._open.append(part)
                if self.intervals is not None:
                    self.intervals.begin(part, now)
            self._locked -= 1

    def leave(self, part: str, now: float) -> None:
        """The part ends; if it goes on several times, one of them does."""
        with self._lock:
            self._locked += 1
            self._turn(now)
            self._drop(part)
            if self.intervals is not None:
                self.intervals.end(part, now)
            self._locked -= 1

    def hold(self, held: Held, started: float) -> None:
        """The loop is held, since a while; the end of that is found when somebody asks.

        Args:
            held: How.
            started: When the request began, in seconds.
        """
        with self._lock:
            self._locked += 1
            held.since = max(held.since, started)
            # Nothing has turned since then but the request's threads: whatever they did is theirs.
            self._turn(held.since)
            if not self._settled and self._holding is None:
                going_on = self._open
                below = going_on.index(THREAD) if THREAD in going_on else len(going_on)
                going_on.insert(0 if held.part == BLOCKING else below, held.part)
                self._holding = held
                self._blocking = self.get(BLOCKING, 0.0)
                self._locked += 1
                if len(self.held) < TOLD:
                    self.held = (*self.held, held)
            self._locked -= 1

    def settle(self, now: float) -> None:
        """The request ends: what goes on in a task that outlives it is not its time any more."""
        with self._lock:
            self._locked += 1
            self._turn(now)
            if self._holding is not None and not self._settled:
                self._release(self._holding, now)
            self._open.clear()
            self._settled = True
            if self.intervals is not None:
                self.intervals.close(now)

    def so_far(self, now: float) -> dict[str, float]:
        """Seconds by part, of what goes on up to now."""
        with self._lock:
            self._locked += 1
            self._turn(now)
            parts = dict(self)
            self._locked -= 1
            return parts

    def _turn(self, now: float) -> None:
        held = self._holding
        if held is not None and (ended := held.grip.ended()) is not None and self._holding is held:
            self._release(held, min(ended, now))
        since = self._since
        # Whoever read the clock first may come second, from another thread.
        if now > since:
            self._since = now
            if self._open:
                self._spend(self._open[-1], now - since)

    def _spend(self, part: str, seconds: float) -> None:
        self[part] = self.get(part, 0.0) + seconds

    def _release(self, held: Held, end: float) -> None:
        """The loop is not held any more; what comes after that belongs to what went on meanwhile."""
        self._holding = None
        self._locked -= 1
        self._turn(end)
        self._drop(held.part)
        held.seconds = max(end - held.since, 0.0)
        if held.part == BLOCKING:
            self._compute(held)

    def _compute(self, held: Held) -> None:
        """Of what is blocking by this hold, the computed is not."""
        mine = self.get(BLOCKING, 0.0) - self._blocking
        computed = min(held.grip.computed(), mine)
        if computed > 0:
            self[BLOCKING] -= computed
            self._spend(CPU, computed)

    def _drop(self, part: str) -> None:
        going_on = self._open
        for at in range(len(going_on) - 1, -1, -1):
            # It may shrink meanwhile, by the garbage collector.
            if at < len(going_on) and going_on[at] == part:
                del going_on[at]
                return


class Off(Parts):
    """Of a request whose breakdown is off: who held its loop is known, and nothing else."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        # So that nobody writes to it without asking.
        self._locked = 1

    def enter(self, part: str, now: float) -> None: ...

    def leave(self, part: str, now: float) -> None: ...


OFF = Off()
"""What a request has from its beginning whose breakdown is off; it gets its own if its loop is held."""


def enter(exchange: Exchange | None, part: str, now: float) -> None:
    """The part begins for this exchange; nothing happens outside one, and in a closed one.

    Args:
        exchange: Whose time it is.
        part: One of `catalogue.PART`, or a section's name.
        now: Seconds, as ``perf_counter`` says.
    """
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is not Parts:
        parts = _first(exchange)
    # Made before: the garbage collector may run here.
    further = (part,)
    if parts._locked:
        parts.enter(part, now)
        return
    # From that look to the end nothing is called, nothing is made that is collected and nothing jumps
    # back: CPython switches threads nowhere in it, so nobody comes in between.
    since = parts._since
    going_on = parts._open
    # Whoever read the clock first may come second, from another thread.
    if now > since:
        parts._since = now
        if going_on:
            above = going_on[-1]
            parts[above] = (parts[above] if above in parts else 0.0) + now - since  # noqa: SIM401 - a call
    going_on += further


def leave(exchange: Exchange | None, part: str, now: float) -> None:
    """The part ends."""
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is not Parts:
        if isinstance(parts, Parts):
            parts.leave(part, now)
        return
    going_on = parts._open
    if parts._locked or not going_on or going_on[-1] != part:
        parts.leave(part, now)
        return
    # As in `enter`.
    since = parts._since
    if now > since:
        parts._since = now
        parts[part] = (parts[part] if part in parts else 0.0) + now - since  # noqa: SIM401 - a call
    del going_on[-1]


def hold(exchange: Exchange, held: Held) -> None:
    """The event loop of this exchange is held; nothing happens in a closed one.

    For another thread, while the loop stands still: no exchange of that loop can end meanwhile, and
    none pays for it that is not held.
    """
    if exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is not Parts:
        parts = _first(exchange)
        if parts is OFF:
            exchange.parts = parts = Off()
            exchange.noted = True
    parts.hold(held, exchange.started)


def account(exchange: Exchange) -> Mapping[str, float]:
    """Where the time of a closed exchange went: seconds by part, which add up to its duration.

    Nothing if it is not to be told.
    """
    parts = exchange.parts
    if type(parts) is Parts and not parts._locked and not parts._open:
        # Nothing goes on and nobody holds anything: as in `enter`.
        parts._locked = 1
        parts._settled = True
    elif isinstance(parts, Parts) and parts is not OFF:
        parts.settle(exchange.started + exchange.duration)
    return NO_PARTS if isinstance(parts, Off) else _completed(parts, exchange.duration)


def so_far(exchange: Exchange, now: float) -> Mapping[str, float]:
    """Where the time of an exchange that goes on went: seconds by part, which add up to its age.

    Args:
        exchange: An open one.
        now: Seconds, as ``perf_counter`` says.
    """
    parts = exchange.parts
    if isinstance(parts, Off):
        return NO_PARTS
    if isinstance(parts, Parts):
        parts = parts.so_far(now)
    return _completed(parts, now - exchange.started)


def _completed(parts: Mapping[str, float], whole: float) -> Mapping[str, float]:
    rest = whole - sum(parts.values())
    if rest <= 0:
        # Below zero it is the error of the sum; or the last byte went out while a thread wrote.
        return parts
    return {**parts, UNACCOUNTED: parts.get(UNACCOUNTED, 0.0) + rest}


def _first(exchange: Exchange) -> Parts:
    there = exchange.parts
    if isinstance(there, Parts):
        # Of another kind, which was there from the beginning.
        return there
    # Made with the first part: many requests have none. Two threads may both have a request's first;
    # between these two lines nothing is called, so no thread comes in between.
    made = Parts()
    if exchange.sampled:
        made.record()
    if exchange.parts is NO_PARTS:
        exchange.parts = made
    exchange.noted = True
    parts = exchange.parts
    assert isinstance(parts, Parts)
    return parts
