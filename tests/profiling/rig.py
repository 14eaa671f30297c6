"""An app whose requests can be profiled, without the rest of fastobs around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from starlette.types import ASGIApp

from fastobs import catalogue
from fastobs._exchange import Signal
from fastobs._middleware import Middleware
from fastobs._outbox import _outboxes
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.config import Profiles
from fastobs.profiling.access import Access
from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Folder, Meta, Store
from fastobs.profiling.viewer import viewer
from fastobs.signals.profiles import profiles
from tests.driving import Answer, call, values
from tests.parts import eventually

TOKEN = "correct-horse"
HOME = ("127.0.0.1", 50000)

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
each_loop = pytest.mark.parametrize("loop", LOOPS)


BURNT = 0.03
"""Seconds that `burn` takes by the clock, at least."""


def burn(seconds: float = BURNT) -> None:
    """Work long enough to be sampled, also where others have the processor most of the time."""
    end, worked = time.perf_counter() + seconds, time.thread_time() + seconds
    while time.perf_counter() < end or time.thread_time() < worked:
        sum(range(50))


def run(work: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    """Like asyncio.run, on the event loop of that name."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work)


class Rig:
    """The middleware with one signal and one page: ours."""

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        *,
        token: str | None = TOKEN,
        debug: bool = False,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        patience: float = 0.0,
        others: tuple[Signal, ...] = (),
        **settings: Any,
    ) -> None:
        self.meters = Meters()
        chosen = Profiles(directory=folder, **{"per_minute": 1000, **settings})
        self.store = store or Folder(chosen)
        access = Access(token, debug=lambda: debug, now=now)
        signal = profiles(
            chosen, self.meters, access=access, store=self.store, service="shop", clock=clock
        )
        self.app = Middleware(
            app,
            signals=(*others, signal),
            routes=Routes(app),
            pages={
                "/_fastobs/*": viewer(
                    self.store, access=access, prefix="/_fastobs", patience=patience
                )
            },
            excluded=(),
            sockets=lambda change: None,
            started=lambda: None,
        )

    async def get(self, path: str, *, token: str | None = TOKEN, **more: Any) -> Answer:
        headers = {} if token is None else {"X-Profile": token}
        return await call(self.app, path, headers=headers | more.pop("headers", {}), **more)

    def outcomes(self) -> dict[str, float]:
        """What became of the wishes so far, once nothing is being written any more."""
        for outbox in list(_outboxes):
            assert outbox.flush(within=30.0)
        counted = values(self.meters, catalogue.SELF_PROFILES)
        return {outcome: number for (_, outcome), number in counted.items()}

    def kept(self, answer: Answer) -> tuple[Meta, Stacks]:
        """The profile that a response speaks of, once it is written."""
        profile = answer.headers["x-profile-id"]
        meta, stored = eventually(lambda: self.store.get(profile))  # type: ignore[misc]
        return meta, Stacks.decode(stored)

    def stacks(self, answer: Answer) -> list[list[str]]:
        """The names of the functions on each sampled stack."""
        _, stacks = self.kept(answer)
        return named(stacks)

    def functions(self, answer: Answer) -> set[str]:
        """Every function that was seen at work."""
        return {name for stack in self.stacks(answer) for name in stack}


def named(stacks: Stacks) -> list[list[str]]:
    return [
        [frame.partition("\x00")[0] for frame in frames]
        for frames, _ in stacks.session().frame_records
    ]
