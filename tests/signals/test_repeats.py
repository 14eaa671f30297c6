"""Requests that repeat a query: counted once, and told."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from fastobs import catalogue
from fastobs._exchange import Exchange
from fastobs._process import Process
from fastobs._repeats import repeat
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.signals.repeats import TOLD, repeats
from tests.driving import scope, values


class Route:
    path_format = "/orders/{id}"


def sent(**counts: int) -> Exchange:
    """A closed exchange that sent these statements so often."""
    exchange = Exchange({**scope("/orders/7"), "route": Route}, Routes(None), 0.0)  # type: ignore[arg-type]
    for statement, count in counts.items():
        counted = repeat(exchange, (statement, ""))
        assert counted is not None
        counted.count, counted.statement = count, statement
    exchange.closed = True
    return exchange


def test_a_request_counts_once_however_much_it_repeats(meters: Meters) -> None:
    """By its route; what it repeated is in its notes, the most frequent first."""
    exchange = sent(a=5, b=40, c=4)

    repeats(meters)(exchange)

    assert values(meters, catalogue.DB_REPEATED) == {("/orders/{id}",): 1.0}
    assert exchange.notes is not None
    assert exchange.notes["findings"] == [
        {"kind": "repeated_query", "statement": "b", "count": 40},
        {"kind": "repeated_query", "statement": "a", "count": 5},
    ]


def test_what_others_found_stays(meters: Meters) -> None:
    """The findings of a request are a list for all."""
    exchange = sent(a=5)
    assert exchange.notes is not None
    exchange.notes["findings"] = [{"kind": "other"}]

    repeats(meters)(exchange)

    assert [finding["kind"] for finding in exchange.notes["findings"]] == [
        "other",
        "repeated_query",
    ]


def test_a_few_are_told(meters: Meters) -> None:
    """Nobody reads more in a line."""
    exchange = sent(**{f"s{number}": 9 for number in range(TOLD + 3)})

    repeats(meters)(exchange)

    assert exchange.notes is not None
    assert len(exchange.notes["findings"]) == TOLD


def test_without_repeats_nothing_happens(meters: Meters) -> None:
    """Neither with statements nor without any."""
    for exchange in (sent(), sent(a=4)):
        repeats(meters)(exchange)

        assert "findings" not in (exchange.notes or {})
    assert values(meters, catalogue.DB_REPEATED) == {}


def test_the_slow_line_of_an_app_tells_them(observed: Any, shared: Process, tmp_path: Any) -> None:
    """The end that finds them comes before the one that writes the line."""
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    app = FastAPI()

    @app.get("/orders")
    def orders() -> None:
        with engine.connect() as connection:
            for number in range(6):
                connection.execute(text(f"SELECT {number}"))

    lines: list[Any] = []
    shared.__dict__["lines"] = Lines(lines)
    # A machine that stands still for a moment would have a line and a finding, too.
    observed(app, slow={"after": 1e-9}, runtime={"loop_block_after": None})
    with TestClient(app) as client:
        client.get("/orders")
    engine.dispose()

    ((_, fields),) = lines
    # Its stack was looked at as well, if the request took long enough for that.
    (finding,) = (each for each in fields["findings"] if each["kind"] == "repeated_query")
    assert finding["at"].startswith("tests/signals/test_repeats.py:")
    assert {**finding, "at": ""} == {
        "kind": "repeated_query",
        "statement": "SELECT ?",
        "count": 6,
        "at": "",
    }


class Lines:
    """Keeps the lines that it is given."""

    def __init__(self, kept: list[Any]) -> None:
        self.put = kept.append


def test_the_notes_of_others_are_left_alone() -> None:
    """They may have come first."""
    exchange = Exchange(scope("/"), Routes(None), 0.0)  # type: ignore[arg-type]
    exchange.notes = {"other": 1}

    assert repeat(exchange, ("SELECT", "")) is repeat(exchange, ("SELECT", ""))
    assert exchange.notes.keys() == {"other", "statements"}
