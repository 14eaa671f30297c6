"""The recorder: pyinstrument's sampler, made safe for a server that goes on working meanwhile.

Measured on a request that does nothing: a sampled one costs the whole thread a factor of three,
whatever the interval, since the interpreter reports every call. So there is one recording per event
loop at a time, bounded in time, samples and distinct stacks, and nothing is rendered here.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from heapq import merge
from operator import itemgetter
from types import FrameType
from typing import Any, NamedTuple

import anyio.to_thread
from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER, OUT_OF_CONTEXT_FRAME_IDENTIFIER
from pyinstrument.stack_sampler import (
    AsyncState,
    StackSampler,
    active_profiler_context_var,
    build_call_stack,
    get_stack_sampler,
)

from fastobs._contain import contain

from .stacks import Sample, Stacks, Tree
from .waiting import Waiting

__all__ = ["Recording", "busy", "record"]

MAX_SAMPLES = 20_000
MAX_NODES = 100_000
"""Of all trees; a recursion that is different each time would fill the memory with few samples."""
MAX_DEPTH = 400
"""Frames of a stack, counted from its root; pyinstrument's renderers are recursive."""


def busy() -> bool:
    """Whether this thread is being profiled already, by us or by somebody else."""
    sampler = _sampler()
    return bool(sampler.subscribers) or sys.getprofile() is not None


def record(
    *,
    interval: float,
    max_seconds: float,
    max_samples: int = MAX_SAMPLES,
    clock: Callable[[], float] = time.perf_counter,
) -> Recording:
    """Begin to record what the current context runs; only where the thread is not `busy`.

    Args:
        interval: Seconds between two samples.
        max_seconds: After which the recording ends by itself.
        max_samples: With which it does so too.
        clock: Seconds, as pyinstrument counts them.
    """
    recording = Recording(
        interval=interval, max_seconds=max_seconds, max_samples=max_samples, clock=clock
    )
    recording.start(sys._getframe(1))
    return recording


class Recording:
    """One request's samples: from its event loop, and from the threads that it has work done in.

    The object itself is what pyinstrument calls with each sample, and what its ContextVar holds in
    the request's context. So the context tells which recording a thread works for, and what was
    inherited from a request that is over is recognised by its recording not running any more.
    """

    def __init__(
        self, *, interval: float, max_seconds: float, max_samples: int, clock: Callable[[], float]
    ) -> None:
        self.interval = interval
        self.running = False
        self.truncated = False
        self._attached = False
        self.error: Exception | None = None
        self.begun = clock()
        self.ended = self.begun
        self.started = time.time()
        self._deadline = self.begun + max_seconds
        self.count = 0
        self._nodes = 0
        self._most = max_samples
        self._clock = clock
        self._cpu = time.process_time()
        self._thread = threading.get_ident()
        self._tree = Tree()
        # Of its own, as the sampler may interrupt what adds to it, and adds to the other.
        self._stems = Tree()
        self._timeline = Timeline(clock)
        self._hops: list[Hop] = []
        self._beginning: list[str] = []
        self._waiting: Waiting

    def start(self, frame: FrameType | None) -> None:
        """Attach to the sampler of this thread."""
        sampler = _sampler()
        # Inherited from a request that is over: a task that outlived it, or a pipelined request,
        # whose task uvicorn creates within the one before.
        active_profiler_context_var.set(None)
        self._beginning = build_call_stack(frame, "initial", None)
        self._waiting = Waiting(self, self._beginning)
        THREADS.attach()
        # The first sample may come before the sampler's start has returned.
        self._attached = self.running = True
        try:
            sampler.subscribe(self, desired_interval=self.interval, use_async_context=True)
        except BaseException:
            self._attached = self.running = False
            THREADS.detach()
            raise

    def stop(self) -> None:
        """End it; from any thread, as often as one likes."""
        if self.running:
            self.running = False
            self.ended = self._clock()
            self._cpu = time.process_time() - self._cpu
        # In another thread than the sampler's it cannot be detached; its next sample will do it.
        if self.here:
            # Any call from here on may be sampled, and that would end it as well.
            attached, self._attached = self._attached, False
            if attached:
                _unsubscribe(self)
                THREADS.detach()
        if active_profiler_context_var.get() is self:
            active_profiler_context_var.set(None)

    @property
    def here(self) -> bool:
        """Whether this is the thread of its event loop; another loop's may share its context."""
        return threading.get_ident() == self._thread

    def __call__(self, stack: list[str], seconds: float, state: AsyncState | None) -> None:
        """One sample, from pyinstrument, in the midst of whatever the thread was doing.

        An exception from here would be raised there, in the user's code.
        """
        try:
            if self.running:
                self.note(self._timeline, self._tree, self._attributed(stack, state), seconds)
            else:
                self.stop()
        except Exception as error:
            self.error = error
            self.running = False

    def _attributed(self, stack: list[str], state: AsyncState | None) -> list[str]:
        """The stack on which the time since the last sample was spent."""
        if state is not None and state.state == "out_of_context_awaited":
            return [*self._waiting.stack(state)[:MAX_DEPTH], AWAIT_FRAME_IDENTIFIER]
        if state is not None and state.state == "out_of_context_unknown":
            # What runs now is another request's.
            return [*state.info[:MAX_DEPTH], OUT_OF_CONTEXT_FRAME_IDENTIFIER]
        if self._waiting.is_loop(stack):
            return [*(self._waiting.ended() or stack)[:MAX_DEPTH], AWAIT_FRAME_IDENTIFIER]
        return stack[:MAX_DEPTH]

    def note(self, timeline: Timeline, tree: Tree, stack: Sequence[str], seconds: float) -> None:
        """Take a sample, or end the recording at its limits."""
        full = self.count >= self._most or self._nodes >= MAX_NODES
        if full or self._clock() > self._deadline:
            self.truncated = True
            self.stop()
        else:
            before = len(tree)
            timeline.add(tree.add(stack), seconds)
            self.count += 1
            self._nodes += len(tree) - before

    def hop(self, function: Callable[..., Any], frame: FrameType) -> Hop:
        """The function, to be called in a worker thread, with its samples under the frame."""
        return Hop(function, self, self._stems.add(build_call_stack(frame, "initial", None)))

    def hopped(self, hop: Hop) -> None:
        """Remember a hop, which has a sample; a stream makes thousands that have none."""
        self._hops.append(hop)

    def stacks(self, description: str) -> Stacks:
        """Everything recorded, by time; not on the event loop, since it takes a while."""
        hops = list(self._hops)
        stems = [self._tree.add(self._stems.path(hop.below)) for hop in hops]
        notes = [
            list(self._awaited(hops)),
            *(hop.grafted(self._tree, stem) for hop, stem in zip(hops, stems, strict=True)),
        ]
        return Stacks.of(
            self._tree,
            [Sample(*note[1:]) for note in merge(*notes, key=itemgetter(0))],
            beginning=self._beginning,
            description=description,
            started=self.started,
            duration=self.ended - self.begun,
            cpu=self._cpu,
            interval=self.interval,
            count=self.count,
            truncated=self.truncated,
        )

    def _awaited(self, hops: list[Hop]) -> Iterator[Note]:
        """What the loop saw, without the waiting for threads that is explained by their samples.

        What remains of that waiting is the time until a thread was free.
        """
        for at, node, seconds, times in self._timeline.notes:
            left = seconds
            if node >= 0 and self._tree.frames[node] == AWAIT_FRAME_IDENTIFIER:
                left -= sum(hop.timeline.covers(at - seconds, at) for hop in hops)
            if left > 0:
                yield Note(at, node, left, times)


class Note(NamedTuple):
    """One stack of a timeline."""

    at: float
    """When it was seen last."""
    node: int
    seconds: float
    times: int = 1


class Timeline:
    """Samples of one thread in the order of time; what repeats the one before adds to it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.notes: list[Note] = []
        self._clock = clock

    def add(self, node: int, seconds: float) -> None:
        """What was running for so long until now."""
        now, notes = self._clock(), self.notes
        if notes and notes[-1].node == node:
            _, _, before, times = notes[-1]
            notes[-1] = Note(now, node, before + seconds, times + 1)
        else:
            notes.append(Note(now, node, seconds))

    def covers(self, since: float, until: float) -> float:
        """Seconds of a period for which there are samples."""
        first, last = self.notes[0], self.notes[-1]
        return max(0.0, min(until, last.at) - max(since, first.at - first.seconds))


class Hop:
    """A function on its way to a worker thread: its call there is sampled too.

    pyinstrument shows the work of ``def`` endpoints and dependencies as waiting, since it happens in
    another thread. Two ways to see it were tried. A thread of ours that looks at the others'
    frames patches nothing, but under load gets the interpreter 120 to 200 times a second and relies
    on a local variable of anyio. A sampler in the worker thread is exact, needs one public function
    to be replaced (only while something is recorded, and only effective in the recorded context),
    and costs 50 us per call. This is the second.
    """

    def __init__(self, function: Callable[..., Any], recording: Recording, below: int) -> None:
        self.below = below
        self.tree = Tree()
        self.timeline = Timeline(recording._clock)
        self._function = function
        self._recording = recording
        self._depth = 0
        self._known = False
        self._attached = False

    def __call__(self, *arguments: Any) -> Any:
        """In the worker thread: what the function returns, or raises."""
        self._attach(sys._getframe())
        try:
            return self._function(*arguments)
        finally:
            self._detach()

    def grafted(self, tree: Tree, stem: int) -> list[Note]:
        """The thread's samples in the tree of the loop's, below where the loop waits for them.

        It may still be running: then these are the samples so far.
        """
        notes = list(self.timeline.notes)
        nodes: list[int] = []
        for parent, frame in zip(list(self.tree.parents), self.tree.frames, strict=False):
            # A parent is always older than its child.
            nodes.append(tree.add((frame,), stem if parent < 0 else nodes[parent]))
        return [note._replace(node=stem if note.node < 0 else nodes[note.node]) for note in notes]

    def _attach(self, frame: FrameType) -> None:
        try:
            if not self._recording.running or busy():
                return
            self._depth = len(build_call_stack(frame, "initial", None))
            sampler = _sampler()
            self._attached = True
            sampler.subscribe(
                self.saw, desired_interval=self._recording.interval, use_async_context=False
            )
        except Exception as error:
            contain("profiles", error)

    def _detach(self) -> None:
        # As in `Recording.stop`.
        attached, self._attached = self._attached, False
        if attached:
            _unsubscribe(self.saw)

    def saw(self, stack: list[str], seconds: float, _: AsyncState | None) -> None:
        """One sample of the thread; must not raise, as it is called within the user's code."""
        recording = self._recording
        try:
            if recording.running:
                own = stack[self._depth : self._depth + MAX_DEPTH]
                recording.note(self.timeline, self.tree, own, seconds)
                if not self._known and self.timeline.notes:
                    self._known = True
                    recording.hopped(self)
            else:
                # The request is over, its thread is not (it was cancelled, or took too long).
                self._detach()
        except Exception as error:
            recording.error = error
            recording.running = False


class _Threads:
    """Replaces `anyio.to_thread.run_sync` as long as anybody records.

    Starlette and FastAPI run everything that is not async through it: endpoints, dependencies,
    their clean-up, iterators of responses, background tasks, files.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], None] = lambda: None

    def attach(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._undo = _replace_run_sync()

    def detach(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._undo()


THREADS = _Threads()


def _replace_run_sync() -> Callable[[], None]:
    module = vars(anyio.to_thread)
    original: Callable[..., Coroutine[Any, Any, Any]] = module["run_sync"]

    # Not async: it would be one more frame under everything that waits for a thread.
    def run_sync(func: Any, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        recording = active_profiler_context_var.get()
        if (
            isinstance(recording, Recording)
            and recording.running
            and recording.here
            and not isinstance(func, Hop)
        ):
            try:
                func = recording.hop(func, sys._getframe(1))
            except Exception as error:
                contain("profiles", error)
        return original(func, *args, **options)

    def undo() -> None:
        # Whoever wrapped ours meanwhile keeps it; without a recording it only passes on.
        if module["run_sync"] is run_sync:
            module["run_sync"] = original

    module["run_sync"] = run_sync
    return undo


def _sampler() -> StackSampler:
    """The pyinstrument sampler of this thread, without what is left of recordings that are over."""
    sampler = get_stack_sampler()
    # It measures the clock and complains on stderr about a slow one; a server's log is not for that.
    sampler.has_warned_about_timing_overhead = True
    for subscriber in list(sampler.subscribers):
        target = subscriber.target
        if isinstance(target, Recording) and not target.running:
            target.stop()
    if not sampler.subscribers:
        # One that ended within its own sample leaves the time of that behind (pyinstrument 5.1.3),
        # and everything since would be booked on the first sample of the next.
        sampler.last_profile_time = 0.0
    return sampler


_ENDED = threading.local()


def _unsubscribe(target: Callable[..., None]) -> None:
    """Detach from this thread's sampler, whichever context this is called in."""
    # Within a sample, this has what calls us freed while it goes on with it (pyinstrument 5.1.3), and
    # in the end an exception of its own raised in the user's code. So it is kept until the next time.
    _ENDED.state = sys.getprofile()
    before = active_profiler_context_var.get()
    with suppress(StackSampler.SubscriberNotFound):
        get_stack_sampler().unsubscribe(target)
    if before is not target and before is not None:
        # pyinstrument clears the variable, but here it speaks of somebody else.
        active_profiler_context_var.set(before)
