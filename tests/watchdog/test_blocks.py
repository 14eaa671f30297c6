"""What becomes of a block: series, line and span event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time_ns
from typing import Any

import pytest

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._parts import Held, Parts, account
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.watchdog import Block, Blocks, blocks
from fastobs.watchdog.holder import Place
from tests.driving import Clock, scope, values


class Route:
    path_format = "/report/{id}"


class Told:
    """What a block leads to."""

    def __init__(self) -> None:
        self.meters = Meters()
        self.clock = Clock()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.blocks = Blocks(
            self.meters, self.lines.append, after=0.1, per_minute=2, clock=self.clock
        )


@pytest.fixture
def told() -> Told:
    return Told()


def exchange() -> Exchange:
    return Exchange({**scope("/report/7"), "route": Route}, Routes(None), 0.0)  # type: ignore[arg-type]


class Grip:
    """Holds the loop from 1 s to 3 s."""

    began = 1.0

    def ended(self) -> float:
        return 3.0

    def computed(self) -> float:
        return 0.5


def block(whose: Exchange | None, *, line: int = 7, others: Iterable[Exchange] = ()) -> Block:
    place = Place("Report.make", "shop/report.py", line)
    return Block(exchange=whose, place=place, duration=0.25, others=tuple(others), grip=Grip())


def test_a_block_is_counted_and_has_a_line_that_says_who_did_it(told: Told) -> None:
    """Flat fields: the code, the request, and who had to wait."""
    whose = exchange()

    told.blocks.ended(block(whose, others=[exchange() for _ in range(3)]))

    ((level, fields),) = told.lines
    assert level == "warning"
    assert {name: fields[name] for name in fields if name not in {"timestamp", "pid"}} == {
        "event": "event_loop_blocked",
        "level": "warning",
        "duration": 0.25,
        "threshold": 0.1,
        "method": "GET",
        "route": "/report/{id}",
        "function": "Report.make",
        "file": "shop/report.py",
        "line": 7,
        "delayed": 3,
        "trace_id": whose.trace_id,
        "span_id": whose.span_id,
        "trace_sampled": False,
        "request_id": whose.request_id,
        "suppressed": 0,
    }
    assert values(told.meters, catalogue.LOOP_BLOCKS) == {("/report/{id}",): 1.0}
    assert values(told.meters, catalogue.LOOP_BLOCKED) == {("/report/{id}",): 0.25}


def test_a_block_of_no_request_has_no_route(told: Told) -> None:
    """It is counted all the same."""
    told.blocks.goes_on(block(None))
    told.blocks.ended(block(None))

    ((_, fields),) = told.lines
    assert (fields["route"], fields["method"], fields["trace_id"]) == ("", "", "")
    assert values(told.meters, catalogue.LOOP_BLOCKS) == {("",): 1.0}


def test_lines_about_one_place_are_few_and_the_next_tells_how_many_were_left_out(
    told: Told,
) -> None:
    """Another place has lines of its own; every block is counted."""
    for _ in range(5):
        told.blocks.ended(block(None))
    told.blocks.ended(block(None, line=8))
    told.clock.now += 30.0
    told.blocks.ended(block(None))

    assert [(fields["line"], fields["suppressed"]) for _, fields in told.lines] == [
        (7, 0),
        (7, 0),
        (8, 0),
        (7, 3),
    ]
    assert values(told.meters, catalogue.LOOP_BLOCKS) == {("",): 7.0}


def test_places_that_are_made_from_data_are_forgotten(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest first."""
    monkeypatch.setattr(blocks, "PLACES", 2)

    for line in (1, 2, 3):
        told.blocks.ended(block(None, line=line))

    assert len(told.blocks._budgets) == 2


def after(whose: Exchange) -> tuple[Mapping[str, float], tuple[Held, ...]]:
    """What is known of an exchange that takes 5 s."""
    whose.duration, whose.closed = 5.0, True
    parts = account(whose)
    return parts, whose.parts.held if isinstance(whose.parts, Parts) else ()


def test_a_block_is_time_of_the_culprit_and_of_those_whom_it_held_up(told: Told) -> None:
    """With what their spans say of it: where, by which route, and when it began."""
    whose, other = exchange(), exchange()
    told.blocks.goes_on(block(whose, others=[other]))

    parts, (held,) = after(whose)
    assert parts == {"blocking": 1.5, "cpu": 0.5, "unaccounted": 3}
    assert held.event == "event_loop_blocked"
    assert held.attributes == {
        "code.function.name": "Report.make",
        "code.file.path": "shop/report.py",
        "code.line.number": 7,
        "http.route": "/report/{id}",
    }
    assert 0.25e9 <= time_ns() - held.at < 60e9
    parts, (theirs,) = after(other)
    assert parts == {"loop_wait": 2, "unaccounted": 3}
    assert (theirs.attributes, theirs.at) == (held.attributes, held.at)


def test_a_block_of_no_request_holds_others_up_all_the_same(told: Told) -> None:
    """There is no route to name; who has ended is left alone."""
    other, ended = exchange(), exchange()
    ended.closed = True
    told.blocks.goes_on(block(None, others=[other, ended]))

    parts, (held,) = after(other)
    assert parts["loop_wait"] == 2
    assert "http.route" not in held.attributes
    assert after(ended) == ({"unaccounted": 5}, ())
