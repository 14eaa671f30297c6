"""The thread that looks at event loops from outside."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable, Sequence
from threading import get_ident
from time import perf_counter, thread_time
from typing import Any, Protocol

from fastobs._contain import contain
from fastobs._exchange import Exchange

from .blocks import Block
from .heart import Heart
from .holder import Holder, Spot, holder, others

__all__ = ["Companion", "Grip", "Listener", "Ward", "Watchdog", "refusal", "watchdog_of"]

CLOSE = 0.01
"""Seconds between two looks at the beginning of a block; a long one is looked at less often."""


class Listener(Protocol):
    """Is told of blocks, on the watchdog's thread."""

    def goes_on(self, block: Block) -> None:
        """It has passed the threshold; once for each block, while it goes on."""

    def ended(self, block: Block) -> None:
        """It is over; once for each block."""


class Companion(Protocol):
    """Looks at event loops, too, on the watchdog's thread; after the watchdog in each round.

    Attributes:
        stopped: Whether it need not be asked any more.
    """

    stopped: bool

    def look(self, wards: Sequence[Ward], now: float) -> float:
        """See what there is to see; answers with the seconds until it wants to look again."""


def watchdog_of(loop: AbstractEventLoop) -> Watchdog | None:
    """Who watches this loop."""
    return next((dog for dog in list(_all) if dog.watches(loop)), None)


def refusal() -> str:
    """Why this Python cannot be watched; empty if it can."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return ""
    return (
        "this Python runs without the GIL, where the frames of another thread must not be read; "
        "run with PYTHON_GIL=1 to have blocks of the event loop found"
    )


class Watchdog:
    """One daemon thread for all event loops of the process; it ends when there is none any more.

    Args:
        listener: Is told of blocks.
        after: Seconds that one step may hold the loop. The hearts must not beat less often: else a
            step could have ended long before the beat that tells so.
        tick: Seconds between two looks.
        clock: Seconds, the hearts' clock.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        after: float,
        tick: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._listener = listener
        self._after = after
        self._tick = tick
        self._clock = clock
        self.begin_anew()
        _all.add(self)

    def begin_anew(self) -> None:
        """In a forked child: thread and loops stayed with the parent."""
        self._lock = threading.Lock()
        self._wards: list[Ward] = []
        # Whoever made them keeps them: an app that is gone, as each of a test-suite, is gone from here.
        self._companions: weakref.WeakSet[Companion] = weakref.WeakSet()
        self._stopping: threading.Event | None = None

    def watch(self, heart: Heart) -> None:
        """Watch the loop that this heart beats on; nothing happens the second time."""
        with self._lock:
            if all(ward.heart is not heart for ward in self._wards):
                self._wards.append(Ward(heart, self._listener, self._after, self._tick))
            if self._stopping is None:
                self._stopping = threading.Event()
                run = threading.Thread(
                    target=self._run, args=(self._stopping,), name="fastobs-watchdog", daemon=True
                )
                run.start()

    def watches(self, loop: AbstractEventLoop) -> bool:
        """Whether this loop is under watch."""
        with self._lock:
            return any(ward.heart.loop() is loop for ward in self._wards)

    def accompany(self, companion: Companion) -> None:
        """Have this one look, too, until it is stopped or gone; nothing happens the second time."""
        with self._lock:
            self._companions.add(companion)

    def stop(self) -> None:
        """Look no more; the thread ends by itself."""
        with self._lock:
            for ward in self._wards:
                ward.let_go()
            self._wards = []
            if self._stopping is not None:
                self._stopping.set()
                self._stopping = None

    def _run(self, stopping: threading.Event) -> None:
        pause = self._tick
        slept = self._clock()
        while not stopping.wait(pause):
            now, cpu = self._clock(), thread_time()
            try:
                wards = self._living(stopping)
                if not wards:
                    return
                pause = min([ward.look(now, slept, pause) for ward in wards])
                looks = (each.look(wards, self._clock()) for each in self._accompanied())
                pause = min([pause, *looks])
            except Exception as error:
                pause = self._tick
                contain("watchdog", error)
            # What else the looks took, others had the GIL, as in a pause that lasts too long.
            slept = now + thread_time() - cpu

    def _living(self, stopping: threading.Event) -> list[Ward]:
        with self._lock:
            if self._stopping is not stopping:
                return []
            self._wards = [ward for ward in self._wards if not ward.heart.stopped and ward.lives]
            if not self._wards:
                self._stopping = None
            return self._wards

    def _accompanied(self) -> list[Companion]:
        with self._lock:
            self._companions -= {each for each in self._companions if each.stopped}
            return list(self._companions)


class Ward:
    """One event loop under watch: what it runs, and since when.

    It is told of blocks in seconds that are never too many. What is seen first is taken to begin
    when it is seen, and what nobody saw any more to have ended when it was seen last.
    """

    def __init__(self, heart: Heart, listener: Listener, after: float, tick: float) -> None:
        self.heart = heart
        self._listener = listener
        self._after = after
        self._tick = tick
        self._cpu = heart.cpu()
        self._hold: Hold | None = None

    @property
    def lives(self) -> bool:
        """Whether there is still a loop."""
        loop = self.heart.loop()
        return loop is not None and not loop.is_closed()

    def held(self, now: float) -> Hold | None:
        """The step that surely holds the loop, since a beat is overdue."""
        return None if now < self.heart.due else self._hold

    def look(self, now: float, slept: float, pause: float) -> float:
        """See what the loop does.

        Args:
            now: Seconds.
            slept: When the thread lay down, in seconds.
            pause: How long it wanted to sleep, in seconds.

        Returns:
            Seconds until it should be looked at again.
        """
        heart, loop = self.heart, self.heart.loop()
        before, self._cpu = self._cpu, heart.cpu()
        began, hold = now, self._hold
        late = now - slept - pause
        computed = self._cpu - before
        kept = min(late, max(computed - pause, 0.0))
        if late > self._tick:
            # We were late ourselves: one call kept the GIL, or the process was paused. Of that time
            # only what the loop's thread surely computed is counted.
            began = max(now - kept, heart.due - heart.tick)
            if hold is not None:
                # What came after its end was not skipped of it.
                over = heart.beaten
                passed = late if over is None else over - slept - pause
                hold.grip.skip(max(passed - kept, 0.0))
        if hold is not None and late - kept > CLOSE and computed > 0:
            # The GIL was with a thread that did not let go of it when asked to. The step needed it, too:
            # who only waits in the kernel gets no processor meanwhile.
            hold.excuse((heart.beaten or now) - hold.grip.seen - computed)
        if self._hold is not None and heart.beaten is not None:
            self._end(heart.beaten)
        if loop is None or not loop.is_running() or not heart.thread:
            self.let_go()
            self._hold = None
            return self._tick
        self._see(loop, now, began)
        if self._hold is None or now < heart.due:
            return self._tick
        return min(self._tick, max(CLOSE, (now - self._hold.began) / 10))

    def let_go(self) -> None:
        """Nobody looks any more: what is known of a hold is all of it. From any thread."""
        if (hold := self._hold) is not None:
            hold.grip.ends(hold.grip.seen)

    def _see(self, loop: AbstractEventLoop, now: float, began: float) -> None:
        heart, hold = self.heart, self._hold
        if hold is None:
            # Before looking: a beat from here on ends what is seen.
            heart.beaten = None
        seen = None
        if now >= heart.due or asyncio.current_task(loop) is not None:
            seen = holder(heart, loop)
        if hold is not None and not hold.holder.goes_on(seen):
            self._end(hold.grip.seen)
            hold = None
        if seen is None:
            return
        if hold is None:
            # Of what lies before this look it surely computed as much as it is said to have taken.
            computed = self._cpu - (now - began)
            hold = self._hold = Hold(seen, Grip(heart, seen.task, began, computed))
        hold.add(seen.spot, now)
        held = now - hold.began
        if hold.others is None and held >= self._after / 2:
            hold.others = others(loop, seen.exchange)
        if not hold.told and hold.guilty(now, self._after):
            hold.told = True
            self._listener.goes_on(hold.block(now))

    def _end(self, end: float) -> None:
        hold, self._hold = self._hold, None
        if hold is None:
            return
        hold.grip.ends(end)
        if hold.guilty(end, self._after):
            self._listener.ended(hold.block(end))


class Grip:
    """How long a step holds its loop, for the requests whose time it is; it refers to none of them.

    Attributes:
        began: When it was seen first, in seconds.
        seen: When it was seen last.
        end: When it ended; None until the watchdog knows.
    """

    def __init__(
        self,
        heart: Heart,
        task: weakref.ref[asyncio.Task[Any]] | None,
        began: float,
        cpu: float,
    ) -> None:
        self.began = self.seen = began
        self.end: float | None = None
        self._heart = heart
        self._task = task
        self._cpu = cpu
        self._computed: float | None = None

    def skip(self, seconds: float) -> None:
        """So much of the time since it was seen last is not its own."""
        self.began += seconds
        self.seen += seconds

    def ends(self, end: float) -> None:
        """It is known when it ended."""
        self._computed = self.computed()
        self.end = end

    def computed(self) -> float:
        """Seconds of processor time that the loop's thread took for it."""
        if self._computed is not None:
            return self._computed
        return max(self._heart.cpu() - self._cpu, 0.0)

    def ended(self) -> float | None:
        """When, in seconds; None while it goes on.

        A request that it held up may end before the watchdog looks again. Then the beat tells, or
        that another step runs: this one has ended, and not before it was seen last.
        """
        heart = self._heart
        # In this order: the watchdog notes the end before it waits for another beat.
        beaten = heart.beaten
        if self.end is not None:
            return self.end
        if beaten is not None:
            return beaten
        if get_ident() != heart.thread or (loop := heart.loop()) is None:
            return None
        task = None if self._task is None else self._task()
        goes_on = task is not None and asyncio.current_task(loop) is task
        return None if goes_on else self.seen


class Hold:
    """A step that was seen, perhaps to become a block."""

    def __init__(self, holder: Holder, grip: Grip) -> None:
        self.holder = holder
        self.grip = grip
        self._excused = 0.0
        self.others: tuple[Exchange, ...] | None = None
        self.told = False
        self._spots: dict[Spot, float] = defaultdict(float)

    @property
    def began(self) -> float:
        """When it was seen first, in seconds."""
        return self.grip.began

    def add(self, spot: Spot, now: float) -> None:
        """It was seen here."""
        self._spots[spot] += now - self.grip.seen
        self.grip.seen = now

    def excuse(self, seconds: float) -> None:
        """For so long others kept it from going on, since they had the GIL."""
        self._excused += max(seconds, 0.0)

    def guilty(self, end: float, after: float) -> bool:
        """Whether it has held the loop for longer than allowed by itself, if it ends now."""
        held = end - self.began
        if held - self._excused <= after:
            return False
        # In a step that has to wait for the GIL so often, not every such wait was found.
        return self._excused <= held / 2 or self.grip.computed() > after

    def block(self, end: float) -> Block:
        """What can be told of it, if it ends now."""
        # A loop in the code has many lines: first the function, then its line.
        functions: dict[object, float] = defaultdict(float)
        for spot, seconds in self._spots.items():
            functions[spot.code] += seconds
        spot = max(self._spots, key=lambda spot: (functions[spot.code], self._spots[spot]))
        return Block(
            exchange=self.holder.exchange,
            place=spot.place(),
            duration=end - self.began,
            others=self.others or (),
            grip=self.grip,
        )


_all: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _after_fork() -> None:
    for watchdog in list(_all):
        watchdog.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
