"""The slow-request line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog

from fastobs import catalogue
from fastobs._exchange import SLOWEST, Exchange
from fastobs._parts import BLOCKING, LOOP_WAIT, Held, Off, Parts, hold
from fastobs._repeats import repeat as repeat_of
from fastobs._routes import Routes
from fastobs._service import Identity
from fastobs.cells import Meters
from fastobs.config import Slow
from fastobs.signals.slow import Line, lines, slow_requests
from tests.driving import Clock, scope, values
from tests.parts import PATIENCE


class Route:
    path_format = "/report/{id}"


def closed(duration: float, status: int = 200, **parts: Any) -> Exchange:
    exchange = Exchange({**scope("/report/7"), "route": Route}, Routes(None), 0.0)  # type: ignore[arg-type]
    exchange.duration, exchange.status, exchange.closed = duration, status, True
    for name, value in parts.items():
        setattr(exchange, name, value)
    return exchange


def told(exchange: Exchange, meters: Meters, **settings: Any) -> list[Line]:
    found: list[Line] = []
    slow_requests(Slow(**settings), meters, found.append)(exchange)
    return found


def test_a_slow_request_has_one_line_that_says_what_it_was(meters: Meters) -> None:
    """Flat fields, seconds and bytes, the path without its query."""
    exchange = closed(1.25, request_bytes=3, response_bytes=5, inflight=2, profile_id="ab")

    ((level, fields),) = told(exchange, meters)

    assert level == "warning"
    assert {name: fields[name] for name in fields if name not in {"timestamp", "pid"}} == {
        "event": "slow_request",
        "level": "warning",
        "duration": 1.25,
        "threshold": 1.0,
        "method": "GET",
        "route": "/report/{id}",
        "path": "/report/7",
        "status": 200,
        "error_type": "",
        "trace_id": exchange.trace_id,
        "span_id": exchange.span_id,
        "trace_sampled": False,
        "request_id": exchange.trace_id,
        "request_bytes": 3,
        "response_bytes": 5,
        "inflight": 2,
        "service": "",
        "version": "",
        "worker": "",
        "parts": {"unaccounted": 1.25},
        "profile_id": "ab",
        "suppressed": 0,
    }
    assert values(meters, catalogue.HTTP_SLOW) == {("/report/{id}",): 1.0}


def test_a_line_tells_when_the_response_began(meters: Meters) -> None:
    """Seconds from the request's arrival: a stream that began soon is another trouble than one that did not."""
    exchange = closed(2.0)
    exchange.started, exchange.answered = 5.0, 5.25
    ((_, fields),) = told(exchange, meters)

    assert fields["ttfb"] == 0.25


def test_a_line_names_the_service_and_the_worker(meters: Meters) -> None:
    """Several may write to one log."""
    found: list[Line] = []
    who = Identity("shop", "1.2", "")
    finish = slow_requests(Slow(), meters, found.append, who=who, worker=lambda: "3")
    finish(closed(2.0))

    ((_, fields),) = found
    assert (fields["service"], fields["version"], fields["worker"]) == ("shop", "1.2", "3")


def test_a_line_tells_of_queries_and_the_slowest_one(meters: Meters) -> None:
    """How many there were; of the slowest the statement without its literals, and the line that sent it."""
    query = {"seconds": 0.5, "statement": "SELECT ?", "at": "shop.py:7"}
    exchange = closed(2.0)
    for key in (("a", ""), ("b", "")):
        repeat = repeat_of(exchange, key)
        assert repeat is not None
        repeat.count = 2
    assert exchange.notes is not None
    exchange.notes[SLOWEST] = query
    ((_, fields),) = told(exchange, meters)

    assert (fields["queries"], fields["slowest_query"]) == (4, query)


def test_a_line_tells_how_many_calls_of_other_services_there_were(meters: Meters) -> None:
    """Nothing if there was none, or if the breakdown is off, where all requests share what is noted."""
    exchanges = [closed(2.0) for _ in range(3)]
    for exchange, parts, calls in zip(exchanges, (Parts(), Parts(), Off()), (2, 0, 2), strict=True):
        exchange.parts = parts
        parts.calls = calls
    lines = [told(exchange, meters)[0][1] for exchange in exchanges]

    assert [line.get("calls") for line in lines] == [2, None, None]


def fails() -> None:
    json.loads("no json")


def test_a_failure_says_which_line_of_the_app_it_came_through(meters: Meters) -> None:
    """The innermost one; of a library's own failure there is none."""
    raised: list[BaseException] = []
    for work in (fails, lambda: json.loads("no json")):
        with pytest.raises(ValueError) as caught:
            work()
        raised.append(caught.value)
    raised[1].__traceback__ = raised[1].__traceback__.tb_next.tb_next  # type: ignore[union-attr]
    lines = [told(closed(2.0, status=500, exception=error), meters)[0][1] for error in raised]

    line = fails.__code__.co_firstlineno + 1
    assert [each["raised_at"] for each in lines] == [f"tests/signals/test_slow.py:{line}", ""]


def test_a_fast_request_has_none(meters: Meters) -> None:
    """Nor does it count as slow."""
    assert told(closed(0.99), meters) == []
    assert values(meters, catalogue.HTTP_SLOW) == {}


@pytest.mark.parametrize(("limit", "logged"), [(5.0, False), (0.1, True)])
def test_a_route_may_have_a_threshold_of_its_own(
    limit: float, logged: bool, meters: Meters
) -> None:
    """Above or below the general one."""
    found = told(closed(1.0 if limit > 1 else 0.2), meters, routes={"/report/{id}": limit})

    assert bool(found) == logged


def test_a_slow_failure_is_an_error(meters: Meters) -> None:
    """By level, so that log alerts can tell."""
    ((level, fields),) = told(closed(2.0, status=503, error_type="503"), meters)

    assert (level, fields["error_type"]) == ("error", "503")


def test_lines_above_the_budget_are_counted_and_told_by_the_next(meters: Meters) -> None:
    """A storm of slow requests must not become a storm of lines."""
    clock = Clock()
    found: list[Line] = []
    finish = slow_requests(Slow(per_minute=2), meters, found.append, clock=clock)

    for _ in range(5):
        finish(closed(2))
    clock.now += 30.0
    finish(closed(2))

    assert [fields["suppressed"] for _, fields in found] == [0, 0, 3]
    assert values(meters, catalogue.HTTP_SLOW) == {("/report/{id}",): 6.0}


def written(meters: Meters, stream: io.StringIO) -> str:
    outbox = lines(meters, stream=stream)
    outbox.put(("warning", {"event": "slow_request", "level": "warning", "n": 1}))
    assert outbox.flush(within=PATIENCE)
    return stream.getvalue()


@pytest.fixture
def unconfigured() -> Any:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("unconfigured")
def test_without_a_terminal_each_line_is_one_json_object_with_the_event_first(
    meters: Meters,
) -> None:
    """For log collectors."""
    text = written(meters, io.StringIO())

    assert text == '{"event": "slow_request", "level": "warning", "n": 1}\n'
    assert json.loads(text)["n"] == 1


@pytest.mark.usefixtures("unconfigured")
def test_on_a_terminal_it_is_for_people(meters: Meters) -> None:
    """What says where to look comes first, in colours; what is empty is not there."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    outbox = lines(meters, stream=terminal)
    parts = {"db": 1.9, "unaccounted": 0.1}
    outbox.put(
        (
            "warning",
            {
                "event": "slow_request",
                "level": "warning",
                "method": "GET",
                "route": "/x",
                "error_type": "",
                "trace_sampled": False,
                "trace_id": "ab12",
                "parts": parts,
                "suppressed": 0,
            },
        )
    )
    assert outbox.flush(within=PATIENCE)

    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert plain.split() == (
        f"[warning  ] slow_request route=/x parts={parts} method=GET trace_id=ab12".split()
    )


@pytest.mark.usefixtures("unconfigured")
def test_an_app_that_configured_structlog_gets_the_line_through_its_chain(
    meters: Meters,
) -> None:
    """Its sink, its format, its fields."""
    seen: list[dict[str, Any]] = []

    def theirs(_: Any, __: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
        seen.append(dict(fields))
        raise structlog.DropEvent

    structlog.configure(processors=[theirs])

    assert written(meters, io.StringIO()) == ""
    assert seen == [{"event": "slow_request", "level": "warning", "n": 1}]


@pytest.mark.usefixtures("unconfigured")
def test_lines_are_dropped_and_counted_when_nobody_reads_them(meters: Meters) -> None:
    """A blocked pipe must not block a request."""
    outbox = lines(meters, limit=0, stream=io.StringIO())

    outbox.put(("warning", {"event": "slow_request"}))

    assert values(meters, catalogue.SELF_DROPPED) == {("logs", "queue_full"): 1.0}


@pytest.mark.parametrize(
    ("part", "kind"), [(LOOP_WAIT, "event_loop_blocked"), (BLOCKING, "blocks_event_loop")]
)
def test_who_held_the_event_loop_is_told(meters: Meters, part: str, kind: str) -> None:
    """Where it did so, in which route, for how long, and whether it was another request."""

    class Grip:
        began = 0.5

        def ended(self) -> float | None:
            return 0.75

        def computed(self) -> float:
            return 0.0

    said: dict[str, str | int] = {
        "http.route": "/other",
        "code.function.name": "parse",
        "code.file.path": "app/feeds.py",
        "code.line.number": 7,
    }
    exchange = closed(1.25)
    exchange.closed = False
    hold(exchange, Held(part, Grip(), at=7, event="event_loop_blocked", attributes=said))
    exchange.closed = True
    exchange.notes = {"findings": [{"kind": "repeated_query"}]}

    ((_, fields),) = told(exchange, meters)

    assert fields["parts"] == {"unaccounted": 1.0, part: 0.25}
    assert fields["findings"] == [
        {
            "kind": kind,
            "seconds": 0.25,
            "route": "/other",
            "function": "parse",
            "at": "app/feeds.py:7",
        },
        {"kind": "repeated_query"},
    ]


def test_what_was_found_in_the_request_is_told(meters: Meters) -> None:
    """If anything was: the next step is in the line."""
    findings = [{"kind": "repeated_query", "relation": "Order.items", "count": 42}]

    ((_, found),) = told(closed(2.0, notes={"findings": findings}), meters)
    ((_, nothing),) = told(closed(2.0, notes={}), meters)

    assert found["findings"] == findings
    assert "findings" not in nothing
