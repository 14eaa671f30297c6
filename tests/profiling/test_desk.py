"""What becomes of a recording that is left at the desk."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.profiling import desk as desks
from fastobs.profiling.desk import Desk, describe, title
from fastobs.profiling.stacks import Stacks, Tree
from fastobs.profiling.store import Meta, NotPrivate
from tests.driving import scope, values
from tests.profiling.shelf import Shelf


def desk(meters: Meters, shelf: Shelf) -> Desk:
    return Desk(shelf, meters, trigger="test", outcomes=("late",), without="Nothing is kept.")


def written(desk: Desk) -> None:
    """Once everything taken so far is done with."""
    assert desk._outbox.flush(within=30.0)


def meta(route: str = "/items/{id}") -> Meta:
    exchange = Exchange(scope("/items/7?secret"), Routes(None), 0.0)  # type: ignore[arg-type]
    exchange.closed = True
    exchange._route = route
    exchange.status, exchange.error_type, exchange.duration = 500, "KeyError", 0.12345678
    recorded = SimpleNamespace(count=3, truncated=True)
    return describe(
        exchange, recorded, profile="0" * 32, started=0.5, trigger="test", service="shop"
    )


def stacks(meta: Meta) -> Stacks:
    """As many as a recording of nothing has."""
    settings: dict[str, Any] = {"started": 0.0, "duration": 0.0, "cpu": 0.0, "interval": 0.001}
    return Stacks.of(
        Tree(), [], beginning=[], description=title(meta), count=0, truncated=False, **settings
    )


def outcomes(meters: Meters) -> dict[tuple[str, ...], float]:
    return values(meters, catalogue.SELF_PROFILES)


def test_what_is_taken_is_stored_by_a_thread_and_counted(meters: Meters) -> None:
    """Its stacks are made there, too: that takes longer than a request should."""
    shelf, makers = Shelf(), set()

    def make(meta: Meta) -> Stacks:
        makers.add(threading.get_ident())
        return stacks(meta)

    given = desk(meters, shelf)
    given.take(meta(), make)
    written(given)

    assert [(kept.id, made.description) for kept, made in shelf.kept] == [
        ("0" * 32, "GET /items/{id}")
    ]
    assert makers == shelf.threads
    assert threading.get_ident() not in makers
    assert outcomes(meters) == {("test", "kept"): 1.0}
    assert not given.closed


def test_a_description_says_what_its_stacks_are_made_of(meters: Meters) -> None:
    """A last sample may have been taken while it was described."""
    shelf = Shelf()
    given = desk(meters, shelf)
    given.take(meta(), stacks)
    written(given)

    ((kept, _),) = shelf.kept
    assert (kept.samples, kept.truncated) == (0, False)


def test_a_description_tells_the_template_and_nothing_of_what_was_asked() -> None:
    """With its time as ISO 8601, and the ids of its span."""
    described = meta()

    assert (described.method, described.route, described.status) == ("GET", "/items/{id}", 500)
    assert (described.error_type, described.duration) == ("KeyError", 0.123457)
    assert datetime.fromisoformat(described.time) == datetime.fromtimestamp(0.5, UTC)
    assert (len(described.trace_id), len(described.span_id)) == (32, 16)
    assert (described.samples, described.truncated) == (3, True)
    assert (described.trigger, described.service) == ("test", "shop")
    assert "secret" not in repr(described)


@pytest.mark.parametrize(("route", "said"), [("/a/{b}", "GET /a/{b}"), ("", "GET (no route)")])
def test_a_request_has_a_title_without_its_path(route: str, said: str) -> None:
    """Also one that nothing matched."""
    assert title(meta(route)) == said


def test_every_outcome_exists_from_the_first_scrape(meters: Meters) -> None:
    """Those of any desk, and those that whoever asks adds."""
    desk(meters, Shelf())
    told = {row.values for row in meters.rows(catalogue.SELF_PROFILES)}

    assert told == {("test", outcome) for outcome in ("kept", "dropped", "error", "late")}


def test_a_folder_that_is_not_private_closes_the_desk_with_one_line(
    meters: Meters, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if more than one recording waits for it already."""
    shelf = Shelf(NotPrivate("It is not ours."))
    shelf.open.clear()
    given = desk(meters, shelf)
    with caplog.at_level(logging.WARNING, "fastobs"):
        for _ in range(3):
            given.take(meta(), stacks)
        shelf.open.set()
        written(given)

    assert given.closed == "It is not ours."
    assert caplog.messages == ["fastobs: It is not ours. Nothing is kept."]
    assert outcomes(meters) == {("test", "error"): 3.0}


def full(_: Meta) -> Stacks:
    raise MemoryError


@pytest.mark.parametrize(
    ("make", "refusal"),
    [(full, None), (stacks, OSError(28, "No space left on device"))],
    ids=["stacks", "store"],
)
@pytest.mark.usefixtures("contained_errors")
def test_a_recording_that_cannot_be_made_or_stored_is_counted_and_the_next_one_tried(
    meters: Meters, make: Callable[[Meta], Stacks], refusal: Exception | None
) -> None:
    """The disk may have room again."""
    shelf = Shelf(refusal)
    given = desk(meters, shelf)
    given.take(meta(), make)
    written(given)
    shelf.refusal = None
    given.take(meta(), stacks)
    written(given)

    assert outcomes(meters) == {("test", "error"): 1.0, ("test", "kept"): 1.0}
    assert not given.closed


def test_more_than_can_be_written_is_dropped_and_counted_twice(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a profile, and as something dropped; whoever leaves it there does not wait."""
    monkeypatch.setattr(desks, "WAITING", 1)
    shelf = Shelf()
    shelf.open.clear()
    given = desk(meters, shelf)
    for _ in range(5):
        given.take(meta(), stacks)
    shelf.open.set()
    written(given)

    dropped = outcomes(meters)["test", "dropped"]
    assert dropped >= 3
    assert outcomes(meters)["test", "kept"] == 5 - dropped
    assert values(meters, catalogue.SELF_DROPPED) == {("profiles", "queue_full"): dropped}


def test_who_uses_the_desk_need_not_know_the_recorder() -> None:
    """The watchdog samples by itself: it brings in nothing that slows a thread down."""
    code = "import sys, fastobs.watchdog.tail; print('fastobs.profiling.engine' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
