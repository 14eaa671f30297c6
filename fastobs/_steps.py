"""What a request computes: each step of its tasks, with the processor time of its thread.

Only with ``breakdown="steps"``. The awaitable that drives a coroutine of the app's sees every step begin
and end. Nothing is patched: tasks are made by a task factory, which is what asyncio has them for.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import Coroutine, Generator, Iterator
from contextvars import Context
from threading import get_ident
from time import perf_counter
from typing import Any, Self
from weakref import WeakSet

from starlette.types import ASGIApp, Receive, Scope, Send

from ._contain import contain
from ._exchange import CURRENT
from ._parts import BLOCKING, CPU, THREAD, Held, Parts

__all__ = ["Driven", "Stepped", "Steps", "Tasks", "awaits"]

COMPONENT = "steps"

SHORT = 0.0001
"""Seconds; who holds a thread no longer than that is taken to compute. To ask takes a call of the kernel,
which is most of what a step costs."""

WAITS = frozenset(
    {"db", "pool_wait", "cache", "http", "thread_wait", "loop_wait", THREAD, BLOCKING}
)
"""Parts of ours; every other one is a section of the app's."""

_clock_of = getattr(time, "pthread_getcpuclockid", None)
_read = getattr(time, "clock_gettime", None)


class Worker(str):
    """A part in which a thread works for the request; what it computes is `CPU`.

    Made on that thread.

    Attributes:
        otherwise: The part that the rest of its time is.
    """

    __slots__ = ("_clock", "otherwise", "thread")

    def __new__(cls, part: str, otherwise: str) -> Self:
        made = super().__new__(cls, part)
        made.otherwise = otherwise
        made.thread = get_ident()
        # The clock of a thread can be read from others. macOS does not tell of them.
        made._clock = None if _clock_of is None else _clock_of(made.thread)
        return made

    otherwise: str
    thread: int
    _clock: int | None

    def cpu(self) -> float | None:
        """Seconds of processor time that its thread has taken; None if nobody knows."""
        if self.thread == get_ident():
            return time.thread_time()
        if self._clock is None or _read is None:
            return None
        try:
            seconds: float = _read(self._clock)
        except OSError:
            # The thread has ended.
            return None
        return seconds


class Steps(Parts):
    """Parts of a request whose steps are driven.

    A step is a part that begins with each step, so what the request waits for meanwhile does not
    count, and a query that it waits for without letting go of the loop does. In a section of the
    app's a step is the section's. What a step or a worker thread computes is `CPU`; the rest of a step
    is `BLOCKING`, and of a thread's work `THREAD`.
    """

    __slots__ = ("_cpu", "_driven", "_marked", "_step")

    def __init__(self) -> None:
        super().__init__()
        # It reads a second clock, and so takes the lock each time.
        self._locked = 1
        self._step: Worker | None = None
        self._driven = False
        # Whose processor time is counted, and what it was when that began.
        self._marked: Worker | None = None
        self._cpu: float | None = None

    def enter(self, part: str, now: float) -> None:
        """The part begins."""
        with self._lock:
            super().enter(Worker(THREAD, THREAD) if part == THREAD else part, now)
            self._mark()

    def leave(self, part: str, now: float) -> None:
        """The part ends."""
        with self._lock:
            super().leave(part, now)
            self._mark()

    def begins(self, step: Worker) -> None:
        """A step of the request begins, on the thread of the worker."""
        # Of the two clocks the one that is read first and last never tells of less.
        cpu = time.thread_time()
        now = perf_counter()
        with self._lock:
            if self._settled:
                return
            if self._open or self._holding is not None:
                self._turn(now)
            self._since = max(self._since, now)
            self._open.append(step)
            self._step = self._marked = step
            self._cpu = cpu

    def ends(self) -> None:
        """It ends, and with it whatever the watchdog says that it holds."""
        now = perf_counter()
        with self._lock:
            step, self._step = self._step, None
            if step is None or self._settled:
                return
            if self._holding is not None or self._marked is not step or len(self._open) > 1:
                self._end(step, now)
                return
            # Nearly always nothing else happened meanwhile, and this is all of the above in few calls.
            seconds = now - self._since
            if seconds > SHORT and (computed := time.thread_time() - (self._cpu or 0.0)) < seconds:
                self[BLOCKING] = self.get(BLOCKING, 0.0) + seconds - computed
                seconds = computed
            self[CPU] = self.get(CPU, 0.0) + seconds
            self._since = now
            self._marked = None
            self._open.clear()

    def _end(self, step: Worker, now: float) -> None:
        # In this order: the step is still the one that its section knows.
        self._step = step
        super().leave(step, now)
        self._step = None
        held = self._holding
        if held is not None and held.part == BLOCKING:
            self._release(held, now)
        self._mark()

    def hold(self, held: Held, started: float) -> None:
        """The loop is held, since a while."""
        with self._lock:
            self._driven = self._step is not None
            super().hold(held, started)
            self._mark()

    def _compute(self, held: Held) -> None:
        # Of a step that is driven it is known already; of a child task only this.
        if not self._driven:
            super()._compute(held)

    def _mark(self) -> None:
        """Note the processor time from which on the part that goes on now computes."""
        going_on = self._open
        top = going_on[-1] if going_on else None
        if top is self._marked:
            return
        self._marked = top if type(top) is Worker else None
        cpu = None if self._marked is None else self._marked.cpu()
        # What was needed since then to get here was computed; unless the machine was busy with others.
        self._cpu = None if cpu is None else cpu - min(perf_counter() - self._since, SHORT)

    def _spend(self, part: str, seconds: float) -> None:
        if type(part) is not Worker:
            super()._spend(part, seconds)
            return
        computed = self._computed(part, seconds)
        if part is self._step and (section := self._section()) is not None:
            super()._spend(section, seconds)
            return
        if computed > 0:
            super()._spend(CPU, computed)
        if seconds > computed:
            super()._spend(part.otherwise, seconds - computed)

    def _computed(self, part: Worker, seconds: float) -> float:
        before = self._cpu if part is self._marked else None
        if before is not None and seconds <= SHORT:
            self._cpu = before + seconds
            return seconds
        now = part.cpu()
        self._marked, self._cpu = part, now
        if before is None or now is None:
            return 0.0
        if now - before > seconds:
            # The clock is read late: what is too much was computed since.
            self._cpu = before + seconds
            return seconds
        return max(now - before, 0.0)

    def _section(self) -> str | None:
        if len(self._open) == 1:
            return None
        return next((part for part in reversed(self._open[:-1]) if part not in WAITS), None)

    def _drop(self, part: str) -> None:
        going_on = self._open
        mine = get_ident()
        for at in range(len(going_on) - 1, -1, -1):
            # Of several threads the one that says so; of a step the step.
            each = going_on[at]
            if each is part or (each == part == THREAD and each.thread == mine):  # type: ignore[attr-defined]
                del going_on[at]
                return
        super()._drop(part)


class Driven:
    """Awaits a coroutine of a request step by step.

    Attributes:
        coroutine: What it awaits.
    """

    __slots__ = ("_parts", "_step", "coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], parts: Steps, step: Worker) -> None:
        self.coroutine = coroutine
        self._parts = parts
        self._step = step

    def __await__(self) -> Generator[Any, Any, Any]:
        # What a step needs of one is here.
        return self  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """One step; not counted within another one, nor when the request is over."""
        parts = self._parts
        if parts._step is not None or parts._settled:
            return self.coroutine.send(None)
        try:
            parts.begins(self._step)
        except Exception as error:
            contain(COMPONENT, error)
        try:
            return self.coroutine.send(None)
        finally:
            try:
                parts.ends()
            except Exception as error:
                contain(COMPONENT, error)

    def send(self, value: Any) -> Any:
        """One step, with a value: asyncio sends none, and so its time is not counted."""
        return self.coroutine.send(value)

    def throw(self, *raised: Any) -> Any:
        """One step, which begins with an exception."""
        parts = self._parts
        if parts._step is not None or parts._settled:
            return self.coroutine.throw(*raised)
        try:
            parts.begins(self._step)
        except Exception as error:
            contain(COMPONENT, error)
        try:
            return self.coroutine.throw(*raised)
        finally:
            try:
                parts.ends()
            except Exception as error:
                contain(COMPONENT, error)

    def close(self) -> None:
        """No further step."""
        self.coroutine.close()


class Stepped:
    """A middleware that drives the requests which pass through it, and the tasks that they make.

    Outside all others. A task of a request may be an endpoint behind Starlette's BaseHTTPMiddleware, the
    body of a stream, or one that the app makes itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._loops: WeakSet[AbstractEventLoop] = WeakSet()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = CURRENT.get()
        if exchange is None or exchange.closed or exchange.profile_id is not None:
            # One that is profiled has its answer, and a profiler takes our frames for the end of an await.
            await self.app(scope, receive, send)
            return
        exchange.parts = parts = Steps()
        if exchange.sampled:
            parts.record()
        exchange.noted = True
        await Driven(self.app(scope, receive, send), parts, self._worker())  # type: ignore[arg-type]

    def undo(self) -> None:
        """Drive no tasks any more."""
        for loop in list(self._loops):
            factory = loop.get_task_factory()
            if isinstance(factory, Tasks):
                loop.set_task_factory(factory.before)
        self._loops.clear()

    def _worker(self) -> Worker:
        """Of this loop, whose tasks are driven from here on."""
        try:
            loop = get_running_loop()
        except RuntimeError:
            # Under trio there is no such loop.
            return Worker("step", BLOCKING)
        tasks = loop.get_task_factory()
        if not isinstance(tasks, Tasks):
            tasks = Tasks(tasks)
            loop.set_task_factory(tasks)
            self._loops.add(loop)
        return tasks.worker


class Tasks:
    """A task factory that drives the tasks of requests; the app's own is asked for the task.

    Made on the thread of its loop.

    Attributes:
        before: The factory that the loop had.
        worker: The loop's thread.
    """

    def __init__(self, before: Any) -> None:
        self.before = before
        self.worker = Worker("step", BLOCKING)

    def __call__(self, loop: AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        """A task."""
        try:
            coroutine = _driven(coroutine, options.get("context"), self.worker)
        except Exception as error:
            contain(COMPONENT, error)
        if self.before is not None:
            return self.before(loop, coroutine, **options)
        return Task(coroutine, loop=loop, **options)


def _driven(coroutine: Any, context: Context | None, worker: Worker) -> Any:
    exchange = CURRENT.get() if context is None else context.get(CURRENT)
    if exchange is None or exchange.closed or not isinstance(exchange.parts, Steps):
        return coroutine
    wrapper = awaits(Driven(coroutine, exchange.parts, worker))
    for name in ("__name__", "__qualname__"):
        # So that the task is described as what it is.
        setattr(wrapper, name, getattr(coroutine, name, name))
    return wrapper


async def awaits(driven: Driven) -> Any:
    """A task wants a coroutine."""
    return await driven
