"""How the parts of a request are written by several threads, told, and summed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._parts import Parts, account, enter, leave, so_far
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.config import Slow
from fastobs.signals.parts import breakdown
from fastobs.signals.slow import Line, slow_requests
from tests.driving import scope, values


@pytest.fixture
def exchange() -> Exchange:
    """One that began at 10 s."""
    return Exchange(scope("/"), Routes(None), 10.0)  # type: ignore[arg-type]


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], None], threads: int = 4) -> None:
    begin = threading.Barrier(threads)

    def run(number: int) -> None:
        begin.wait(30)
        work(number)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def closed(exchange: Exchange, duration: float) -> Exchange:
    exchange.duration, exchange.closed = duration, True
    return exchange


@pytest.mark.usefixtures("restless")
def test_parts_of_several_threads_never_exceed_the_time(exchange: Exchange) -> None:
    """However they take turns: every moment is counted once, and every part ends."""
    ticks = iter(range(1, 10**9))

    def work(number: int) -> None:
        for _ in range(2000):
            enter(exchange, f"part {number}", 10.0 + next(ticks))
            leave(exchange, f"part {number}", 10.0 + next(ticks))

    together(work)
    parts = exchange.parts

    assert isinstance(parts, Parts)
    assert parts._open == []
    assert all(seconds >= 0 for seconds in parts.values())
    assert 0 < sum(parts.values()) <= next(ticks)


@pytest.mark.usefixtures("restless")
def test_the_first_part_may_begin_in_two_threads_at_once() -> None:
    """None of them is lost."""
    for _ in range(200):
        exchange = Exchange(scope("/"), Routes(None), 10.0)  # type: ignore[arg-type]

        def work(number: int, exchange: Exchange = exchange) -> None:
            enter(exchange, f"part {number}", 11.0)

        together(work, threads=2)
        parts = exchange.parts
        assert isinstance(parts, Parts)
        assert sorted(parts._open) == ["part 0", "part 1"]


def test_who_read_the_clock_first_may_come_second(exchange: Exchange) -> None:
    """Another thread wrote in between; its moments are not counted twice."""
    enter(exchange, "db", 11)
    leave(exchange, "db", 14)
    enter(exchange, "cache", 13)
    leave(exchange, "cache", 16)

    assert exchange.parts == {"db": 3, "cache": 2}


def test_parts_and_what_is_in_none_of_them_are_the_duration(exchange: Exchange) -> None:
    """Of a closed exchange what goes on ends with it, however late one asks, and as often."""
    enter(exchange, "db", 12)
    leave(exchange, "db", 15)
    enter(exchange, "http", 16)
    closed(exchange, 8.0)

    for _ in range(2):
        assert account(exchange) == {"db": 3, "http": 2, "unaccounted": 3}


def test_a_request_that_is_all_parts_has_nothing_unaccounted(exchange: Exchange) -> None:
    """Not even below zero, when a thread still wrote while the last byte went out."""
    enter(exchange, "db", 10)
    leave(exchange, "db", 15)

    assert account(closed(exchange, 4.9)) == {"db": 5}


def test_a_section_may_be_called_unaccounted(exchange: Exchange) -> None:
    """Its time is not lost."""
    enter(exchange, "unaccounted", 11)
    leave(exchange, "unaccounted", 12)

    assert account(closed(exchange, 4.0)) == {"unaccounted": 4}


def test_what_begins_after_the_end_is_not_the_requests(exchange: Exchange) -> None:
    """A thread that looked just before it was closed."""
    enter(exchange, "db", 10)
    parts = exchange.parts
    assert isinstance(parts, Parts)
    account(closed(exchange, 4.0))
    parts.enter("thread", 15)
    parts.leave("thread", 16)

    assert parts == {"db": 4}


def test_an_open_exchange_is_told_up_to_now(exchange: Exchange) -> None:
    """And goes on; without parts its whole age is unaccounted."""
    assert so_far(exchange, 11.0) == {"unaccounted": 1}
    enter(exchange, "db", 11)

    assert so_far(exchange, 13.0) == {"db": 2, "unaccounted": 1}
    leave(exchange, "db", 15)
    assert exchange.parts == {"db": 4}


def test_the_rest_is_summed_only_where_there_are_parts(exchange: Exchange, meters: Meters) -> None:
    """Of a request without any it would be the duration, which has a series already."""
    finish = breakdown(meters)
    finish(closed(Exchange(scope("/"), Routes(None), 0.0), 5.0))  # type: ignore[arg-type]
    enter(exchange, "db", 10)
    leave(exchange, "db", 11)
    finish(closed(exchange, 3.0))

    assert values(meters, catalogue.HTTP_PART) == {("", "db"): 1, ("", "unaccounted"): 2}


def test_the_slow_line_has_the_parts_with_the_largest_first(
    exchange: Exchange, meters: Meters
) -> None:
    """In seconds, with what is in none of them."""
    for part, seconds in (("cache", 0.25), ("db", 1.1234567), ("http", 0.5)):
        began = 10.0 + sum(exchange.parts.values())
        enter(exchange, part, began)
        leave(exchange, part, began + seconds)
    found: list[Line] = []
    slow_requests(Slow(), meters, found.append)(closed(exchange, 2.5))

    ((_, fields),) = found
    assert list(fields["parts"].items()) == [
        ("db", 1.123457),
        ("unaccounted", 0.626543),
        ("http", 0.5),
        ("cache", 0.25),
    ]
