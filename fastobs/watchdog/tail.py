"""Evidence of slow requests: sampled from outside while they last, kept only if they end slow."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from math import inf
from threading import Lock
from time import monotonic
from types import CodeType
from typing import NamedTuple

from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER

from fastobs._budget import Budget
from fastobs._exchange import KEEP, Exchange
from fastobs._files import distance, relative
from fastobs.cells import Meters
from fastobs.config import Profiles, Slow
from fastobs.profiling.desk import Desk, describe, title
from fastobs.profiling.stacks import Sample, Stacks, Tree
from fastobs.profiling.store import Keeper, Meta

from .chains import View
from .watch import Hold, Ward

__all__ = ["AFTER", "BEFORE", "UNSEEN", "Tail"]

BEFORE = "[before capture]"
"""The time until a request was looked at for the first time."""
AFTER = "[after capture]"
"""The time since it was looked at for the last time."""
UNSEEN = "[not seen]"
"""Time in which nobody looked, or of which nothing was found."""

INTERVAL = 0.02
"""Seconds between two samples, at least."""
DUTY = 0.02
"""Share of a processor that sampling may take."""
LATE = 0.1
"""Seconds that a sample may come later than planned, and still stand for the time before it."""
MOST = 16
"""Requests that are sampled at once. As many again, whose samples are full, are waited for."""
SAMPLES = 2000
"""Of one request."""
NODES = 2000
"""Different frames of one request."""
TRIGGER = "slow"
BLOCKED_BY = "blocked by "
"""What a frame begins with that stands for another request's."""
TELLING = 0.2
"""Share of its duration for which a request is seen at one line of the app's, if that is a finding."""
"""Of all profiles from here, also of requests that failed or were asked for before they were slow."""


class Tail:
    """Samples requests that take long already, and has them stored if they end slow or fail.

    Also if the app asked for it: see `Exchange.keep_profile`.

    One for each app. `look` is called on the watchdog's thread, `finish` on the event loop, and what
    is kept is written on a thread of its own. A request shares with it the entry in `opened`.

    Args:
        slow: What is slow, and when sampling begins.
        settings: Limits of profiles.
        meters: Count what became of each capture.
        opened: The exchanges in flight, the oldest first.
        store: Takes the profiles, in a thread.
        errand: See `View`.
        service: Our name, in the profile; asked when the first one is kept.
        clock: Seconds, the middleware's clock.
        cpu: Seconds of processor time of the thread that looks.

    Attributes:
        stopped: Whether it does nothing any more.
    """

    def __init__(
        self,
        slow: Slow,
        settings: Profiles,
        meters: Meters,
        *,
        opened: Mapping[Exchange, None],
        store: Keeper,
        errand: CodeType | None = None,
        service: Callable[[], str] = str,
        clock: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        assert slow.profile_from is not None
        self.stopped = False
        self._slow = slow
        self._share = slow.profile_from
        self._least = slow.least * self._share
        self._longest = settings.max_seconds
        self._opened = opened
        self._errand = errand
        self._service = service
        self._clock = clock
        self._cpu = cpu
        self._next = 0.0
        self._captures: dict[Exchange, Capture] = {}
        self._later: dict[Exchange, float] = {}
        self._budget = Budget(settings.per_minute, monotonic)
        self._desk = Desk(
            store,
            meters,
            trigger=TRIGGER,
            outcomes=("limited",),
            without="No slow request is kept until the next start.",
        )

    @property
    def refusal(self) -> str:
        """Why nothing is kept, as far as that is known; empty if it is."""
        return self._desk.closed

    def stop(self) -> None:
        """Look no more, and keep nothing of what was seen."""
        self.stopped = True
        self._captures.clear()
        self._later.clear()

    def look(self, wards: Sequence[Ward], now: float) -> float:
        """Sample the requests that are past their arm time, on the watchdog's thread.

        Args:
            wards: The event loops, each looked at just before.
            now: Seconds.

        Returns:
            Seconds until the next look; infinite if that has time.
        """
        if now < self._next:
            return self._next - now
        began = self._cpu()
        self._arm(now)
        sampled = {
            exchange: capture for exchange, capture in list(self._captures.items()) if capture.going
        }
        if not sampled:
            # With thousands of streams, to find that out takes time as well.
            self._next = now + (self._cpu() - began) / DUTY
            return inf
        # It is raised if too many tasks come and go while they are listed.
        with suppress(RuntimeError):
            self._sample(sampled, wards, now)
        pause = max(INTERVAL, (self._cpu() - began) / DUTY)
        self._next = now + pause
        for capture in sampled.values():
            capture.expected = self._next
        return pause

    def finish(self, exchange: Exchange) -> None:
        """Keep what was seen of a request that shall be kept, and tell its profile's id.

        Its line also names where it was mostly seen, however many profiles there are already.
        """
        capture = self._captures.pop(exchange, None)
        if capture is None:
            return
        capture.closed = True
        if exchange.profile_id is not None or self.stopped or self._desk.closed:
            return
        if not self._wanted(exchange):
            return
        if (seen := capture.busiest()) is not None and seen.seconds >= exchange.duration * TELLING:
            _note(exchange, seen)
        if self._budget.take() is None:
            self._desk.count["limited"].add()
            return
        exchange.profile_id = profile = secrets.token_hex(16)
        meta = describe(
            exchange,
            capture,
            profile=profile,
            started=time.time() - exchange.duration,
            trigger=TRIGGER,
            service=self._service(),
        )
        self._desk.take(meta, capture.stacks)

    def _wanted(self, exchange: Exchange) -> bool:
        """Whether it failed, was slow, or the app asked for its profile."""
        return (
            exchange.exception is not None
            or (exchange.status or 0) >= 500
            or exchange.duration >= self._threshold(exchange)
            or (exchange.notes is not None and KEEP in exchange.notes)
        )

    def _threshold(self, exchange: Exchange) -> float:
        return self._slow.routes.get(exchange.route, self._slow.after)

    def _arm(self, now: float) -> None:
        """Choose the requests to sample, the oldest first; forget those that are over."""
        for exchange in [each for each in list(self._captures) if each.closed]:
            # Slow ones are taken by `finish`, at the same time perhaps.
            self._captures.pop(exchange, None)
        for exchange in [each for each in list(self._later) if each.closed]:
            self._later.pop(exchange, None)
        going = sum(capture.going for capture in list(self._captures.values()))
        for exchange in list(self._opened):
            age = now - exchange.started
            if age < self._least or going >= MOST:
                return
            if exchange.closed or exchange in self._captures:
                continue
            # One that was there for longer was looked at already, or is a stream.
            if 0 <= age - self._due(exchange) <= self._longest:
                self._capture(exchange, now)
                going += 1

    def _due(self, exchange: Exchange) -> float:
        """The age at which it is sampled; its route is known by now, and asked for once."""
        due = self._later.get(exchange)
        if due is None:
            due = self._later[exchange] = self._threshold(exchange) * self._share
        return due

    def _capture(self, exchange: Exchange, now: float) -> None:
        full = [each for each, capture in list(self._captures.items()) if not capture.going]
        if len(full) >= MOST:
            self._captures.pop(full[0], None)
        self._captures[exchange] = Capture(exchange.started, now + self._longest)
        # Else nobody is told of one that fails before it is slow.
        exchange.noted = True

    def _sample(
        self, sampled: Mapping[Exchange, Capture], wards: Sequence[Ward], now: float
    ) -> None:
        left = dict(sampled)
        for ward in wards:
            loop = ward.heart.loop()
            if loop is None:
                continue
            view = View(ward.heart, loop, left, self._errand)
            hold = ward.held(now)
            for exchange in [each for each in left if each in view]:
                capture = left.pop(exchange)
                running = hold is not None and hold.holder.exchange is exchange
                block = None if hold is None or running else blocked(hold, now)
                capture.add(view.stacks(exchange), now, block=block, running=running)
        for capture in left.values():
            capture.add([], now, block=None, running=False)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Somebody else holds the loop."""

    since: float
    frame: str


Place = tuple[str, str, str]
"""Function, file and line."""


def own(frame: str) -> Place | None:
    """Where in the app's own code a frame is, as pyinstrument writes it; None if it is elsewhere."""
    identifier, *attributes = frame.split("\x01")
    match identifier.split("\x00"):
        case [function, file, first] if not distance(file):
            return function, file, next((each[1:] for each in attributes if each[:1] == "l"), first)
    return None


class Seen(NamedTuple):
    """Where in the code, and for how many seconds."""

    function: str
    at: str
    """File and line."""
    seconds: float


def _note(exchange: Exchange, seen: Seen) -> None:
    """Say in the slow line what the profile will show at length."""
    if exchange.notes is None:
        exchange.notes = {}
    exchange.notes.setdefault("findings", []).append(
        {
            "kind": "mostly_at",
            "seconds": round(seen.seconds, 6),
            "function": seen.function,
            "at": seen.at,
        }
    )


def blocked(hold: Hold, now: float) -> Blocked:
    """Who holds the loop, as a frame."""
    block = hold.block(now)
    place = block.place
    route = "" if block.exchange is None else f" ({block.exchange.route or 'no route'})"
    return Blocked(hold.began, f"{BLOCKED_BY}{place.function} at {place.file}:{place.line}{route}")


class Capture:
    """What was seen of one request, by the time that it took.

    Attributes:
        closed: Whether the request is over; nothing is added from then on.
        truncated: Whether a limit was reached before that.
        expected: When the next sample is planned.
    """

    def __init__(self, started: float, until: float) -> None:
        self.closed = False
        self.truncated = False
        self.expected = inf
        self.count = 0
        self._started = started
        self._until = until
        self._last = started
        self._began = time.process_time()
        self._cpu = 0.0
        self._tree = Tree()
        self._samples: list[Sample] = []
        # Of each node the app's own line at or above it, and the seconds of each such line.
        self._places: list[Place | None] = []
        self._times: dict[Place, float] = defaultdict(float)
        # Between the thread that looks and the one that writes; the event loop does not take it.
        self._lock = Lock()

    @property
    def going(self) -> bool:
        """Whether it takes samples."""
        return not self.closed and not self.truncated

    def add(
        self, stacks: Sequence[list[str]], now: float, *, block: Blocked | None, running: bool
    ) -> None:
        """Take a sample, which stands for the time since the one before.

        Args:
            stacks: What the request does; of several each has the same share.
            now: Seconds.
            block: Who else holds its event loop.
            running: Whether it holds that itself.
        """
        with self._lock:
            if not self.going:
                return
            since = now if block is None else min(max(block.since, self._last), now)
            if not self.count:
                self._note([[BEFORE]], since - self._last)
            elif running or since <= self.expected + LATE:
                self._note(stacks, since - self._last)
            else:
                self._note([[UNSEEN]], since - self._last)
            if block is not None:
                held = [[*without_await(stack), block.frame] for stack in stacks or [[]]]
                self._note(held, now - since)
            self._last = now
            self._cpu = time.process_time() - self._began
            self.count += 1
            self.truncated = now > self._until or self.count >= SAMPLES or len(self._tree) >= NODES

    def _note(self, stacks: Sequence[list[str]], seconds: float) -> None:
        if seconds <= 0:
            return
        chosen = stacks or [[UNSEEN]]
        for stack in chosen:
            node, share, times = self._tree.add(stack), seconds / len(chosen), 1
            if (place := self._place(node)) is not None:
                self._times[place] += share
            if self._samples and self._samples[-1].node == node:
                before = self._samples.pop()
                share, times = share + before.seconds, before.times + 1
            self._samples.append(Sample(node, share, times))

    def _place(self, node: int) -> Place | None:
        tree, places = self._tree, self._places
        for new in range(len(places), len(tree)):
            # A parent is always older than its child.
            parent, frame = tree.parents[new], tree.frames[new]
            places.append(own(frame) or (places[parent] if parent >= 0 else None))
        return None if tree.frames[node].startswith(BLOCKED_BY) else places[node]

    def busiest(self) -> Seen | None:
        """The line of the app's own code in which it was seen for the longest time, if in any."""
        # The watchdog may still be adding; to copy is one step.
        times = dict(self._times)
        if not times:
            return None
        function, file, line = place = max(times, key=lambda each: times[each])
        return Seen(function, f"{relative(file)}:{line}", times[place])

    def stacks(self, meta: Meta) -> Stacks:
        """Everything seen, once the request is over."""
        with self._lock:
            self._note([[AFTER]], self._started + meta.duration - self._last)
            return Stacks.of(
                self._tree,
                self._samples,
                beginning=[],
                description=title(meta),
                started=datetime.fromisoformat(meta.time).timestamp(),
                duration=meta.duration,
                cpu=self._cpu,
                interval=INTERVAL,
                count=self.count,
                truncated=self.truncated,
            )


def without_await(stack: Sequence[str]) -> Sequence[str]:
    """What has something above it does not only wait."""
    return stack[:-1] if stack and stack[-1] == AWAIT_FRAME_IDENTIFIER else stack
