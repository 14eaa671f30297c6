"""Profiles a request whose ``X-Profile`` header asks for it and may."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from time import monotonic

from fastobs._budget import Budget
from fastobs._exchange import Exchange, Finish, Signal
from fastobs.cells import Meters
from fastobs.config import Profiles
from fastobs.profiling.access import Access, Grant
from fastobs.profiling.desk import Desk, describe, title
from fastobs.profiling.engine import Recording, busy, record
from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Meta, Store

__all__ = ["HEADER", "profiles"]

logger = logging.getLogger("fastobs")

HEADER = b"x-profile"
"""Requests without it do not concern us."""
REFUSED = ("denied", "busy", "limited")
"""What becomes of wishes that lead to no recording."""


def profiles(
    settings: Profiles,
    meters: Meters,
    *,
    access: Access,
    store: Store,
    service: str = "",
    clock: Callable[[], float] = monotonic,
) -> Signal:
    """Record what a request runs, from here to its last byte, and keep it under a random id.

    The response says where: ``X-Profile-Id``, or ``X-Profile-Status`` if there is none although the
    request might have one. Whoever may not is told nothing.

    Args:
        settings: Limits.
        meters: Count what became of each wish.
        access: Decides who may.
        store: Takes the finished profile, in a thread.
        service: Our name, in the profile.
        clock: Seconds; for the budget.
    """
    desk = Desk(
        store,
        meters,
        trigger=Grant().trigger,
        outcomes=REFUSED,
        without="No request is profiled until the next start.",
    )
    count = desk.count
    budget = Budget(settings.per_minute, clock)
    hint = _Hint()

    def why_not() -> str | None:
        if desk.closed:
            return "unavailable"
        if busy():
            return "busy"
        return "limited" if budget.take() is None else None

    def begin(exchange: Exchange) -> Finish | None:
        value = exchange.request_headers.get(HEADER)
        if value is None:
            return None
        if not access.concerns(exchange.scope):
            hint.give()
            return None
        _hide(exchange)
        grant = access.allowed(value, exchange)
        if grant is None:
            count["denied"].add()
            return None
        if (status := why_not()) is not None:
            count[_OUTCOME_OF[status]].add()
            exchange.headers.append((b"x-profile-status", status.encode()))
            return None
        return follow(exchange, grant)

    def follow(exchange: Exchange, grant: Grant) -> Finish:
        # It is this one that slows the thread down, so it comes last.
        recording = record(interval=settings.interval, max_seconds=settings.max_seconds)
        exchange.profile_id = profile = secrets.token_hex(16)
        exchange.headers.append((b"x-profile-id", profile.encode()))

        def finish(ended: Exchange) -> None:
            recording.stop()
            meta = describe(
                ended,
                recording,
                profile=profile,
                started=recording.started,
                trigger=grant.trigger,
                service=service,
            )
            desk.take(meta, partial(_stacks, recording))

        return finish

    return begin


_OUTCOME_OF = {"unavailable": "error", "busy": "busy", "limited": "limited"}


def _stacks(recording: Recording, meta: Meta) -> Stacks:
    """What was recorded; raises what went wrong with that."""
    if recording.error is not None:
        raise recording.error
    return recording.stacks(title(meta))


class _Hint:
    """Says once why nothing is profiled."""

    def __init__(self) -> None:
        self._given = False

    def give(self) -> None:
        if not self._given:
            self._given = True
            logger.warning(
                "fastobs: a request has the header X-Profile, but profiles.token is not set, so no "
                "request is profiled. Set FASTOBS_PROFILES_TOKEN; requests from the same machine "
                "need none while the app has debug=True."
            )


def _hide(exchange: Exchange) -> None:
    """Keep the token from the app, which may log or forward what it gets."""
    scope = exchange.scope
    # A new list: the server's is the server's.
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != HEADER]
    exchange.request_headers.pop(HEADER, None)
