"""The desk: where finished recordings are left, to be stored by a thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._outbox import Outbox
from fastobs.cells import Meters

from .stacks import Stacks
from .store import Keeper, Meta, NotPrivate

__all__ = ["Desk", "Recorded", "describe", "title"]

logger = logging.getLogger("fastobs")

WAITING = 32
"""Recordings that may wait to be written; the budgets make more of them in a minute unlikely."""
OUTCOMES = ("kept", "dropped", "error")
"""What can become of a recording that was taken."""


class Recorded(Protocol):
    """What a description tells of any recording."""

    @property
    def count(self) -> int:
        """Samples."""

    @property
    def truncated(self) -> bool:
        """Whether the request went on when a limit was reached."""


class Desk:
    """Takes recordings off the requests' hands, and has them stored by a thread.

    It does not know what records: it is handed a description, and what makes the stacks.

    Args:
        store: Takes the profiles, in the thread.
        meters: Count what becomes of them.
        trigger: What has them recorded; a label of the counter.
        outcomes: What else can become of a wish for a profile, before there is anything to take.
        without: A sentence that ends the warning when there is nowhere to keep profiles.

    Attributes:
        closed: Why there is nowhere to keep profiles, so that none need be made; empty while there
            is.
        count: A counter by outcome, each there from the start.
    """

    def __init__(
        self,
        store: Keeper,
        meters: Meters,
        *,
        trigger: str,
        outcomes: Sequence[str] = (),
        without: str,
    ) -> None:
        self.closed = ""
        self.trigger = trigger
        self.count = {
            outcome: meters.counter(catalogue.SELF_PROFILES, trigger, outcome)
            for outcome in (*OUTCOMES, *outcomes)
        }
        self._store = store
        self._without = without
        self._lost = meters.counter(catalogue.SELF_DROPPED, "profiles", "queue_full").add
        self._outbox: Outbox[tuple[Meta, Callable[[Meta], Stacks]]] = Outbox(
            self._keep, name="profiles", limit=WAITING, dropped=self._dropped, signal="profiles"
        )

    def take(self, meta: Meta, stacks: Callable[[Meta], Stacks]) -> None:
        """Have this one stored soon; never waits.

        Args:
            meta: Its description.
            stacks: Makes what is stored, in the thread. Its exceptions are contained and counted.
        """
        self._outbox.put((meta, stacks))

    def _keep(self, item: tuple[Meta, Callable[[Meta], Stacks]]) -> None:
        meta, stacks = item
        try:
            made = stacks(meta)
            # A sample may have been under way while it was described.
            meta = replace(meta, samples=made.count, truncated=made.truncated)
            self._store.put(meta, made.encode())
        except NotPrivate as refused:
            self.count["error"].add()
            # What waits already is refused as well; one line is enough.
            if not self.closed:
                self.closed = str(refused)
                logger.warning("fastobs: %s %s", refused, self._without)
        except Exception:
            self.count["error"].add()
            raise
        else:
            self.count["kept"].add()

    def _dropped(self) -> None:
        self._lost()
        self.count["dropped"].add()


def describe(
    exchange: Exchange,
    recorded: Recorded,
    *,
    profile: str,
    started: float,
    trigger: str,
    service: str,
) -> Meta:
    """What is known of a request that was recorded, and of its recording; once it is over.

    Args:
        exchange: The request.
        recorded: What was recorded of it.
        profile: The id: 32 hex characters.
        started: When it arrived, in seconds since the epoch.
        trigger: What had it recorded.
        service: Our name.
    """
    return Meta(
        id=profile,
        time=datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
        service=service,
        pid=os.getpid(),
        method=exchange.method,
        route=exchange.route,
        status=exchange.status,
        error_type=exchange.error_type,
        duration=round(exchange.duration, 6),
        trigger=trigger,
        trace_id=exchange.trace_id,
        span_id=exchange.span_id,
        samples=recorded.count,
        truncated=recorded.truncated,
    )


def title(meta: Meta) -> str:
    """The request in a few words, for whoever draws its stacks: ``GET /items/{item_id}``."""
    return f"{meta.method} {meta.route or '(no route)'}"
