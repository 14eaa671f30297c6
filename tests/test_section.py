"""Parts of a request's time: those of the app's own, and how parts add up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.testclient import TestClient

from fastobs import _section, catalogue, section
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import Parts, enter, leave
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.signals.parts import SECTIONS, breakdown
from tests.driving import Clock, scope


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """The running request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    token = CURRENT.set(exchange)
    yield exchange
    CURRENT.reset(token)


def settle(exchange: Exchange, now: float) -> None:
    assert isinstance(exchange.parts, Parts)
    exchange.parts.settle(now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_section, "perf_counter", clock)
    return clock


def test_a_section_takes_the_time_that_it_takes(exchange: Exchange, clock: Clock) -> None:
    """As a context manager; entered again, it adds up."""
    for seconds in (1, 2):
        with section("render"):
            clock.now += seconds

    assert exchange.parts == {"render": 3}


@pytest.mark.anyio
async def test_a_section_decorates_what_is_called_and_what_is_awaited(
    exchange: Exchange, clock: Clock
) -> None:
    """Both stay what they are, with their names and results."""

    @section("plain")
    def plain(seconds: int) -> int:
        clock.now += seconds
        return seconds

    @section("awaited")
    async def awaited(seconds: int) -> int:
        clock.now += seconds
        return seconds

    assert plain(1) == 1
    assert await awaited(2) == 2
    async with section("block"):
        clock.now += 3
    assert asyncio.iscoroutinefunction(awaited)
    assert plain.__name__ == "plain"
    assert exchange.parts == {"plain": 1, "awaited": 2, "block": 3}


def test_an_exception_passes_through(exchange: Exchange, clock: Clock) -> None:
    """And the section has ended."""

    @section("render")
    def render() -> None:
        clock.now += 1
        raise KeyError

    with pytest.raises(KeyError):
        render()
    clock.now += 5
    settle(exchange, clock.now)

    assert exchange.parts == {"render": 1}


def test_outside_of_a_request_nothing_is_measured(clock: Clock) -> None:
    """It is only a block then."""
    with section("render"):
        clock.now += 1

    assert CURRENT.get() is None


def test_what_has_its_own_part_is_not_the_sections(exchange: Exchange, clock: Clock) -> None:
    """Of 6 seconds in the section 2 are the query's and 1 another section's."""
    with section("outer"):
        clock.now += 1
        enter(exchange, "db", clock.now)
        clock.now += 2
        leave(exchange, "db", clock.now)
        with section("inner"):
            clock.now += 1
        clock.now += 2

    assert exchange.parts == {"outer": 3, "db": 2, "inner": 1}


def test_two_at_once_count_once(exchange: Exchange) -> None:
    """Queries beside each other: the time is that from the first's beginning to the last's end."""
    enter(exchange, "db", 0)
    enter(exchange, "db", 1)
    leave(exchange, "db", 3)
    leave(exchange, "db", 4)

    assert exchange.parts == {"db": 4}


def test_parts_across_each_other_never_exceed_the_time(exchange: Exchange) -> None:
    """A moment belongs to what began last."""
    enter(exchange, "db", 0)
    enter(exchange, "http", 1)
    leave(exchange, "db", 3)
    leave(exchange, "http", 6)

    assert exchange.parts == {"db": 1, "http": 5}


def test_an_end_without_a_beginning_is_nothing(exchange: Exchange) -> None:
    """A probe that was attached in between."""
    leave(exchange, "db", 1)
    assert exchange.parts == {}
    enter(exchange, "http", 2)
    leave(exchange, "db", 3)
    leave(exchange, "http", 4)

    assert exchange.parts == {"http": 2}


def test_after_the_end_nothing_changes(exchange: Exchange) -> None:
    """What goes on in a task that outlives the request is not its time; nor is what begins there."""
    enter(exchange, "db", 0)
    exchange.closed = True
    settle(exchange, 2)
    leave(exchange, "db", 5)
    enter(exchange, "db", 6)

    assert exchange.parts == {"db": 2}


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_stays_ours(
    exchange: Exchange, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block runs, and the error is counted."""
    monkeypatch.setattr("fastobs._section.enter", lambda *_: 1 / 0)
    ran = []
    with section("render"):
        ran.append(1)
    monkeypatch.setattr("fastobs._section.leave", lambda *_: 1 / 0)
    with section("render"):
        ran.append(2)

    assert ran == [1, 2]
    assert meters.counter(catalogue.SELF_ERRORS, "section").value == 3


def parts_of(meters: Meters) -> dict[tuple[str, ...], float]:
    return {row.values: row.cells[row.at] for row in meters.rows(catalogue.HTTP_PART)}


def test_parts_are_summed_by_route(observed: Callable[..., Any], meters: Meters) -> None:
    """Whatever runs in the request's threads and tasks; not its background tasks."""
    app = FastAPI()

    def later() -> None:
        with section("later"):
            pass

    @app.get("/threads/{i}")
    def threads(i: int, background: BackgroundTasks) -> int:
        background.add_task(later)
        with section("render"):
            return i

    @app.get("/tasks/{i}")
    async def tasks(i: int) -> int:
        async def part() -> int:
            async with section("render"):
                return i

        return await asyncio.create_task(part())

    # A machine that stands still for a moment would be a part, too.
    observed(app, runtime={"loop_block_after": None})
    with TestClient(app) as client:
        client.get("/threads/1")
        client.get("/tasks/1")

    assert set(parts_of(meters)) == {
        ("/threads/{i}", "thread_wait"),
        ("/threads/{i}", "thread"),
        ("/threads/{i}", "render"),
        ("/threads/{i}", "unaccounted"),
        ("/tasks/{i}", "render"),
        ("/tasks/{i}", "unaccounted"),
    }


def test_an_exchange_that_ends_within_a_part_is_settled(exchange: Exchange, meters: Meters) -> None:
    """Its time up to then is counted."""
    clock = Clock()
    finish = breakdown(meters)
    exchange.started = clock.now
    enter(exchange, "db", clock.now)
    clock.now += 2
    exchange.duration = 2.0
    finish(exchange)

    assert parts_of(meters) == {("", "db"): 2}


def test_names_made_from_data_are_folded(exchange: Exchange, meters: Meters) -> None:
    """So many names of the app's own, and one for all further ones; known parts keep theirs."""
    finish = breakdown(meters)
    exchange.parts = Parts()
    for number in range(SECTIONS + 3):
        exchange.parts[f"user {number}"] = 1.0
    exchange.parts["db"] = 1.0
    finish(exchange)
    finish(exchange)

    parts = parts_of(meters)
    assert len(parts) == SECTIONS + 2
    assert parts["", "_other"] == 6
    assert parts["", "db"] == 2
    assert meters.counter(catalogue.SELF_OVERFLOW, catalogue.HTTP_PART.name).value == 6


def test_a_request_without_parts_writes_none(exchange: Exchange, meters: Meters) -> None:
    """Most have none."""
    finish = breakdown(meters)
    finish(exchange)

    assert parts_of(meters) == {}
