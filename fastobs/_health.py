"""Whether the process lives, and whether what it needs answers: for orchestrators and load balancers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from hmac import compare_digest
from inspect import isawaitable, iscoroutinefunction
from time import monotonic

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from . import catalogue
from .cells import Reading
from .errors import ConfigError

__all__ = ["WITHIN", "Check", "Health", "health_pages"]

FRESH = 1.0
"""Seconds for which an answer is good: however many ask, what they ask about is asked once."""

WITHIN = 1.0
"""Seconds that a check may take, if it does not say otherwise."""

Ask = Callable[[], object]
"""A sync or async callable; what it raises, or False, says that there is no answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to be asked.

    Attributes:
        name: A label, and what an orchestrator's log shows.
        ask: Asks.
        within: Seconds.
        busy: Whether asking would take from requests what they wait for; then it is not asked, and
            not held against the process.
        required: Whether the process can serve nobody without it.
    """

    name: str
    ask: Ask
    within: float = WITHIN
    busy: Callable[[], bool] = lambda: False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check."""

    state: str
    """up, down or busy."""
    detail: str = ""
    required: bool = True


class Health:
    """The checks of one app, and what came of them.

    Args:
        found: Checks that nobody had to ask for.
        clock: Seconds.
    """

    def __init__(
        self, found: Callable[[], Iterable[Check]], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._found = found
        self._clock = clock
        self._own: dict[str, Check] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._up: dict[str, bool] = {}
        self._asked = -FRESH
        self._round: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Future[object]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def add(self, check: Check) -> None:
        """Have this checked, too.

        Raises:
            ConfigError: There is one of this name, or it cannot be asked.
        """
        if check.name in self._own:
            msg = f"There is a health check {check.name!r} already. Give each check its own name."
            raise ConfigError(msg)
        ask: object = check.ask
        if not callable(ask):
            msg = (
                f"The health check {check.name!r} cannot be asked: {check.ask!r} is not callable. "
                "Give the function itself, as in handle.check('redis', client.ping)."
            )
            raise ConfigError(msg)
        if check.within <= 0:
            msg = (
                f"The health check {check.name!r} has within={check.within!r}, so it could never "
                "succeed; give a positive number of seconds."
            )
            raise ConfigError(msg)
        self._own[check.name] = check

    async def outcomes(self) -> dict[str, Outcome]:
        """What came of every check, at most a second ago."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if self._clock() - self._asked >= FRESH:
                await self._ask_under_trio()
            return self._outcomes
        running = self._round
        if running is not None and not running.done() and running.get_loop() is loop:
            await asyncio.shield(running)
        elif self._clock() - self._asked >= FRESH:
            # A task of its own: who asked first may hang up before there is an answer.
            self._round = loop.create_task(self._ask_all(), context=Context())
            await asyncio.shield(self._round)
        return self._outcomes

    def read(self) -> Iterator[Reading]:
        """1 for what answered when it was asked last; nothing for what never was."""
        for name, up in list(self._up.items()):
            yield Reading(catalogue.HEALTH_UP, (name,), float(up))

    async def _ask_all(self) -> None:
        checks = self._checks()
        self._note(checks, await asyncio.gather(*map(self._outcome, checks.values())))

    async def _ask_under_trio(self) -> None:
        """One after the other; tasks and futures are asyncio's."""
        checks = self._checks()
        self._note(checks, [await self._outcome(check, _ask) for check in checks.values()])

    def _checks(self) -> dict[str, Check]:
        return {check.name: check for check in self._found()} | self._own

    def _note(self, checks: dict[str, Check], outcomes: Iterable[Outcome]) -> None:
        self._outcomes = {
            check.name: replace(outcome, required=check.required)
            for check, outcome in zip(checks.values(), outcomes, strict=True)
        }
        # What is busy keeps the value that it had.
        known = {name: up for name, up in self._up.items() if name in checks}
        self._up = known | {
            name: outcome.state == "up"
            for name, outcome in self._outcomes.items()
            if outcome.state != "busy"
        }
        self._asked = self._clock()

    async def _outcome(
        self, check: Check, answer: Callable[[Check], Awaitable[Outcome]] | None = None
    ) -> Outcome:
        try:
            if check.busy():
                return Outcome("busy", "every connection is in use; not asked")
            if self._unanswered(check.name):
                return Outcome("down", "has not answered since it was asked before")
            return await (answer or self._answer)(check)
        except Exception as error:
            # Not ours to contain: the check is the app's, and this is its answer.
            return Outcome("down", f"{type(error).__name__}: {error}"[:500])

    def _unanswered(self, name: str) -> bool:
        """Whether it was asked before and is still at it: then it is not asked again on top."""
        asking, thread = self._asking.get(name), self._threads.get(name)
        return bool((asking and not asking.done()) or (thread and thread.is_alive()))

    async def _answer(self, check: Check) -> Outcome:
        asking = self._asking[check.name] = asyncio.ensure_future(self._call(check))
        await asyncio.wait({asking}, timeout=check.within)
        if asking.done():
            return _outcome_of(asking.result())
        asking.cancel()
        if check.busy():
            return Outcome("busy", "the last connection was taken meanwhile; no answer")
        return Outcome("down", f"no answer within {check.within:g} s")

    async def _call(self, check: Check) -> object:
        if iscoroutinefunction(check.ask):
            return await check.ask()
        said = await self._in_thread(check)
        # Such as the coroutine of ``lambda: client.ping()``.
        return await said if isawaitable(said) else said

    def _in_thread(self, check: Check) -> asyncio.Future[object]:
        """Call it in a thread of its own: the app's may all be taken, and one may hang in it.

        A daemon, so that it does not keep the process from ending either.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()

        def settle(said: object, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(said)
            else:
                answer.set_exception(error)

        def run() -> None:
            said, failed = None, None
            try:
                said = check.ask()
            except Exception as error:
                failed = error
            # The loop may be closed by now.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, said, failed)

        name = f"fastobs-check-{check.name}"
        thread = self._threads[check.name] = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return answer


def _outcome_of(said: object) -> Outcome:
    return Outcome("down", "answered False") if said is False else Outcome("up")


async def _ask(check: Check) -> Outcome:
    """On whatever runs the app; a thread that hangs is left to itself."""
    with anyio.move_on_after(check.within):
        if iscoroutinefunction(check.ask):
            return _outcome_of(await check.ask())
        # A thread of its own: the app's may all be taken.
        limiter = anyio.CapacityLimiter(1)
        # In a tuple: trio refuses a function that answers with a coroutine, such as
        # ``lambda: client.ping()``.
        (said,) = await anyio.to_thread.run_sync(
            lambda: (check.ask(),), abandon_on_cancel=True, limiter=limiter
        )
        return _outcome_of(await said if isawaitable(said) else said)
    return Outcome("down", f"no answer within {check.within:g} s")


def health_pages(
    health: Health, prefix: str, *, tokens: Iterable[str]
) -> Iterator[tuple[str, ASGIApp]]:
    """What answers to an orchestrator, by path.

    Args:
        health: Knows.
        prefix: Of both paths.
        tokens: Any of these, sent as Bearer, shows the details.
    """
    known = [token.encode() for token in tokens if token]

    def trusted(scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        sent = given.strip().encode()
        return scheme.lower() == "bearer" and any(compare_digest(sent, token) for token in known)

    async def live(_: Scope) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(scope: Scope) -> Response:
        outcomes = await health.outcomes()
        down = sorted(name for name, outcome in outcomes.items() if outcome.state == "down")
        missing = [name for name in down if outcomes[name].required]
        status = 503 if missing else 200
        word = "unavailable" if missing else "degraded" if down else "ok"
        if trusted(scope):
            checks = {
                name: {
                    "state": outcome.state,
                    "detail": outcome.detail,
                    "required": outcome.required,
                }
                for name, outcome in sorted(outcomes.items())
            }
            return JSONResponse({"status": word, "checks": checks}, status_code=status)
        names = ", ".join(missing or down)
        return PlainTextResponse(f"{word}: {names}\n" if names else f"{word}\n", status)

    for name, answer in (("livez", live), ("readyz", ready)):
        yield f"{prefix}/{name}", _page(f"{prefix}/{name}", answer)


def _page(own: str, answer: Callable[[Scope], Awaitable[Response]]) -> ASGIApp:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.removesuffix("/") != own:
            response: Response = PlainTextResponse("Not Found\n", 404)
        elif scope["method"] not in {"GET", "HEAD"}:
            allow = {"Allow": "GET, HEAD"}
            response = PlainTextResponse("Method Not Allowed\n", 405, headers=allow)
        else:
            response = await answer(scope)
        response.headers["Cache-Control"] = "no-store"
        await response(scope, receive, send)

    return page
