"""The demo's report says what the log says."""

from __future__ import annotations

import json

import pytest

from examples.report.log import blocks, slow_lines, slowest_by_route, why


def line(**fields: object) -> str:
    return json.dumps({"event": "slow_request", "route": "/a", **fields}) + "\n"


def test_slow_lines_are_picked_from_between_other_lines():
    """Tracebacks, other events and half a line are not slow requests."""
    log = [
        "INFO:     Started server process [1]\n",
        line(duration=0.4),
        '{"event": "other", "duration": 9}\n',
        '{"event": "slow_request", "durat',
        "KeyError: 'kettle'\n",
        line(duration=1.5),
    ]

    assert [found["duration"] for found in slow_lines(log)] == [1.5, 0.4]


def test_the_slowest_line_of_each_route_stands_for_it():
    """Many lines of one route do not hide the others."""
    lines = slow_lines([line(duration=3.0), line(duration=2.0), line(duration=1.0, route="/b")])

    found = slowest_by_route(lines)

    assert [(slowest["route"], slowest["duration"], count) for slowest, count in found] == [
        ("/a", 3.0, 2),
        ("/b", 1.0, 1),
    ]


def test_the_reason_is_the_two_largest_parts_of_the_line():
    """What took no time worth telling is left out; what repeats itself comes first."""
    parts = {"db": 0.05, "pool_wait": 0.4, "thread": 0.02, "http": 0.0}
    found = {"kind": "repeated_query", "relation": "Order.items", "count": 40, "at": "shop.py:3"}

    assert why({"duration": 0.5, "parts": parts}) == "pool_wait 400 ms, db 50 ms"
    assert why({"duration": 0.5, "parts": {"thread": 0.0001}}) == ""
    assert why({"parts": {"db": 0.2}, "findings": [found]}) == (
        "40 x Order.items at shop.py:3, db 200 ms"
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("event_loop_blocked", "waited for /b, which blocked the event loop at shop.py:3"),
        ("blocks_event_loop", "blocked the event loop in load at shop.py:3"),
        ("mostly_at", "mostly in load at shop.py:3"),
    ],
)
def test_a_place_that_was_found_is_said_once(kind, said):
    """However often it held the request up."""
    found = {"kind": kind, "route": "/b", "function": "load", "at": "shop.py:3", "seconds": 0.1}

    assert why({"parts": {}, "findings": [found, found]}) == said


def test_blocks_of_the_event_loop_are_counted_by_place():
    """Those that the log was spared, too."""
    block = {
        "event": "event_loop_blocked",
        "route": "/a",
        "function": "load",
        "file": "shop.py",
        "line": 7,
        "duration": 0.25,
        "delayed": 2,
        "suppressed": 3,
    }

    table = blocks([json.dumps(block) + "\n", json.dumps({**block, "suppressed": 0}) + "\n"])

    assert [list(column.cells) for column in table.columns] == [
        ["/a\nload at shop.py:7"],
        ["5"],
        ["250 ms"],
        ["4"],
    ]
