"""How the parts of a request are written by several threads, told, and summed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dis import get_instructions

import pytest

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._parts import (
    BLOCKING,
    LOOP_WAIT,
    TOLD,
    Held,
    Parts,
    account,
    enter,
    hold,
    leave,
    so_far,
)
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.config import Slow
from fastobs.signals.parts import breakdown
from fastobs.signals.slow import Line, slow_requests
from tests.driving import scope, values
from tests.parts import PATIENCE


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
        begin.wait(PATIENCE)
        work(number)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


class Grip:
    """Holds the loop until the test says that it ended."""

    def __init__(self, began: float, end: float | None = None, computed: float = 0.0) -> None:
        self.began = began
        self.end = end
        self._computed = computed

    def computed(self) -> float:
        return self._computed

    def ended(self) -> float | None:
        return self.end


def held(part: str, grip: Grip) -> Held:
    return Held(part, grip, at=0, event="blocked", attributes={})


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
def test_the_watchdog_writes_while_threads_do(exchange: Exchange) -> None:
    """Holds begin and end between their parts; nothing is lost, and nothing counted twice."""
    ticks = iter(range(1, 10**9))
    enter(exchange, "http", 10.0)

    def work(number: int) -> None:
        for _ in range(1000):
            began = 10.0 + next(ticks)
            if number == 0:
                hold(exchange, held(LOOP_WAIT, Grip(began, end=began + 3)))
                so_far(exchange, began)
            else:
                enter(exchange, f"part {number}", began)
                leave(exchange, f"part {number}", 10.0 + next(ticks))

    together(work)
    age = float(next(ticks))
    told = so_far(exchange, 10.0 + age)
    parts = exchange.parts

    assert isinstance(parts, Parts)
    assert parts._open == ["http"]
    assert parts._locked == 0
    assert sum(told.values()) == pytest.approx(age)
    assert "unaccounted" not in told


@pytest.mark.parametrize(
    ("function", "first", "last"),
    [(enter, "_since", None), (leave, "_since", None), (account, "_locked", "_settled")],
)
def test_nobody_comes_in_between(
    function: Callable[..., None], first: str, last: str | None
) -> None:
    """Where it is done without the lock nothing is called or jumps back: no thread is switched there."""
    steps = list(get_instructions(function))
    touched = [step.argval for step in steps]
    begins, ends = touched.index(first), touched.index(last) + 1 if last else len(steps)
    names = [step.opname for step in steps[begins:ends]]

    assert "STORE_ATTR" in names
    assert [name for name in names if "CALL" in name or "BACKWARD" in name] == []


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


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_begins_after_the_end_is_not_the_requests(exchange: Exchange, goes_on: bool) -> None:
    """A thread that looked just before it was closed."""
    enter(exchange, "db", 10)
    if not goes_on:
        leave(exchange, "db", 14)
    parts = exchange.parts
    assert isinstance(parts, Parts)
    account(closed(exchange, 4.0))
    parts.enter("thread", 15)
    parts.leave("thread", 16)

    assert parts._locked
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


def test_what_a_request_waits_for_stands_still_while_others_hold_its_loop(
    exchange: Exchange,
) -> None:
    """Told late and ended unseen, the hold has its own time, and the query what is before and after."""
    enter(exchange, "db", 11)
    grip = Grip(began=13)
    hold(exchange, held(LOOP_WAIT, grip))
    assert so_far(exchange, 15.0) == {"db": 2, "loop_wait": 2, "unaccounted": 1}

    grip.end = 16.0
    leave(exchange, "db", 18)

    assert account(closed(exchange, 9.0)) == {"db": 4, "loop_wait": 3, "unaccounted": 2}
    parts = exchange.parts
    assert isinstance(parts, Parts)
    assert [each.seconds for each in parts.held] == [3]


def test_a_thread_of_the_request_goes_on_while_its_loop_is_held(exchange: Exchange) -> None:
    """With all that it does; once it has ended, the request waits for the loop."""
    grip = Grip(began=12)
    enter(exchange, "http", 10)
    enter(exchange, "thread", 11)
    enter(exchange, "db", 11)
    hold(exchange, held(LOOP_WAIT, grip))
    leave(exchange, "db", 14)
    leave(exchange, "thread", 15)
    grip.end = 17.0

    assert account(closed(exchange, 8.0)) == {
        "http": 2,
        "thread": 1,
        "db": 3,
        "loop_wait": 2,
    }


def test_what_a_thread_begins_while_the_loop_is_held_is_its(exchange: Exchange) -> None:
    """A thread that nobody told of, for instance."""
    grip = Grip(began=11)
    hold(exchange, held(LOOP_WAIT, grip))
    enter(exchange, "db", 12)
    leave(exchange, "db", 14)
    grip.end = 15.0

    assert account(closed(exchange, 5.0)) == {"loop_wait": 2, "db": 2, "unaccounted": 1}


def test_who_holds_the_loop_is_blocking_where_nothing_else_is_known(exchange: Exchange) -> None:
    """To the end of the request, if the step does not end before."""
    enter(exchange, "render", 11)
    hold(exchange, held(BLOCKING, Grip(began=12)))
    leave(exchange, "render", 13)
    enter(exchange, "db", 14)
    leave(exchange, "db", 15)

    for _ in range(2):
        assert account(closed(exchange, 7.0)) == {
            "render": 2,
            "blocking": 3,
            "db": 1,
            "unaccounted": 1,
        }
    parts = exchange.parts
    assert isinstance(parts, Parts)
    assert [each.seconds for each in parts.held] == [5]


def test_what_is_computed_while_it_holds_the_loop_is_cpu(exchange: Exchange) -> None:
    """As far as it has no better name, each time, and never more than it held."""
    hold(exchange, held(BLOCKING, Grip(began=11, end=14, computed=2.0)))
    enter(exchange, "db", 12)
    leave(exchange, "db", 15)
    hold(exchange, held(BLOCKING, Grip(began=16, end=17, computed=0.25)))
    closed(exchange, 8.0)

    for _ in range(2):
        assert account(exchange) == {
            "cpu": 1.25,
            "blocking": 0.75,
            "db": 3,
            "unaccounted": 3,
        }


def test_a_hold_that_began_before_the_request_is_its_from_its_beginning(
    exchange: Exchange,
) -> None:
    """The server read the request in the same step."""
    hold(exchange, held(BLOCKING, Grip(began=9, end=12)))

    assert account(closed(exchange, 3.0)) == {"blocking": 2, "unaccounted": 1}


def test_a_section_may_be_called_loop_wait(exchange: Exchange) -> None:
    """None of them is lost, and both end."""
    grip = Grip(began=11)
    enter(exchange, "loop_wait", 10)
    hold(exchange, held(LOOP_WAIT, grip))
    leave(exchange, "loop_wait", 12)
    grip.end = 13.0

    assert account(closed(exchange, 4.0)) == {"loop_wait": 3, "unaccounted": 1}


def test_what_ends_twice_has_ended(exchange: Exchange) -> None:
    """A part that nobody began takes none away."""
    enter(exchange, "db", 10)
    leave(exchange, "http", 11)

    assert account(closed(exchange, 2.0)) == {"db": 2}


def test_who_has_ended_is_not_held_any_more(exchange: Exchange) -> None:
    """The watchdog may come too late by a moment; a request is held by one step at a time."""
    hold(exchange, held(LOOP_WAIT, Grip(began=11)))
    hold(exchange, held(LOOP_WAIT, Grip(began=12)))
    account(closed(exchange, 3.0))
    parts = exchange.parts
    assert isinstance(parts, Parts)
    parts.hold(held(BLOCKING, Grip(began=12)), 10.0)
    hold(exchange, held(BLOCKING, Grip(began=12)))

    assert account(exchange) == {"loop_wait": 2, "unaccounted": 1}
    assert [each.grip.began for each in parts.held] == [11]


def test_a_stream_is_held_as_often_as_it_happens(exchange: Exchange) -> None:
    """All of it is summed; so many are told one by one."""
    enter(exchange, "http", 10)
    for number in range(TOLD + 5):
        hold(exchange, held(LOOP_WAIT, Grip(began=10.0 + number, end=10.5 + number)))

    parts = account(closed(exchange, TOLD + 5.0))

    assert parts["loop_wait"] == parts["http"] == (TOLD + 5) / 2
    assert isinstance(exchange.parts, Parts)
    assert len(exchange.parts.held) == TOLD


def test_who_is_held_is_told_of_though_it_has_no_other_part(
    exchange: Exchange, meters: Meters
) -> None:
    """It is noted, so its ends are told, and its time is summed."""
    hold(exchange, held(LOOP_WAIT, Grip(began=11, end=12)))
    assert exchange.noted
    breakdown(meters)(closed(exchange, 3.0))

    assert values(meters, catalogue.HTTP_PART) == {("", "loop_wait"): 1, ("", "unaccounted"): 2}
