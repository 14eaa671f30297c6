"""Profiles a request whose ``X-Profile`` header asks for it and may."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from fastobs import catalogue
from fastobs._budget import Budget
from fastobs._exchange import Exchange, Finish, Signal
from fastobs._outbox import Outbox
from fastobs.cells import Meters
from fastobs.cells.meters import Counter
from fastobs.config import Profiles
from fastobs.profiling.access import Access, Grant
from fastobs.profiling.engine import Recording, busy, record
from fastobs.profiling.store import Meta, NotPrivate, Store

__all__ = ["HEADER", "profiles"]

logger = logging.getLogger("fastobs")

HEADER = b"x-profile"
"""Requests without it do not concern us."""
WAITING = 32
"""Recordings that may wait to be written; the budget makes more of them in a minute unlikely."""
OUTCOMES = ("kept", "denied", "busy", "limited", "dropped", "error")


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
    count = {
        outcome: meters.counter(catalogue.SELF_PROFILES, Grant().trigger, outcome)
        for outcome in OUTCOMES
    }
    desk = _Desk(store, meters, count)
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
            desk.take(recording, _describe(profile, ended, recording, grant, service))

        return finish

    return begin


_OUTCOME_OF = {"unavailable": "error", "busy": "busy", "limited": "limited"}


class _Desk:
    """Takes recordings off the requests' hands, and has them written by a thread.

    Attributes:
        closed: Whether there is nowhere to keep profiles, so that none are made.
    """

    def __init__(self, store: Store, meters: Meters, count: dict[str, Counter]) -> None:
        self.closed = False
        self._store = store
        self._count = count
        self._lost = meters.counter(catalogue.SELF_DROPPED, "profiles", "queue_full").add
        self._outbox: Outbox[tuple[Recording, Meta]] = Outbox(
            self._keep, name="profiles", limit=WAITING, dropped=self._dropped
        )

    def take(self, recording: Recording, meta: Meta) -> None:
        self._outbox.put((recording, meta))

    def _keep(self, item: tuple[Recording, Meta]) -> None:
        recording, meta = item
        try:
            if recording.error is not None:
                raise recording.error
            stacks = recording.stacks(f"{meta.method} {meta.route or '(no route)'}")
            self._store.put(meta, stacks.encode())
        except NotPrivate as refused:
            self.closed = True
            self._count["error"].add()
            logger.warning("fastobs: %s No request is profiled until the next start.", refused)
        except Exception:
            self._count["error"].add()
            raise
        else:
            self._count["kept"].add()

    def _dropped(self) -> None:
        self._lost()
        self._count["dropped"].add()


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


def _describe(
    profile: str, exchange: Exchange, recording: Recording, grant: Grant, service: str
) -> Meta:
    return Meta(
        id=profile,
        time=datetime.fromtimestamp(recording.started, UTC).isoformat(timespec="milliseconds"),
        service=service,
        pid=os.getpid(),
        method=exchange.method,
        route=exchange.route,
        status=exchange.status,
        error_type=exchange.error_type,
        duration=round(exchange.duration, 6),
        trigger=grant.trigger,
        trace_id=exchange.trace_id,
        span_id=exchange.span_id,
        samples=recording.count,
        truncated=recording.truncated,
    )
