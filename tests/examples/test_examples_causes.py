"""Each cause of the demo's report is what the log says, and no chance."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from examples.report.causes import causes, causes_table


def slow(route: str, *findings: dict[str, Any], **fields: Any) -> str:
    line = {"event": "slow_request", "route": route, "duration": 0.5, "parts": {}}
    return json.dumps({**line, "findings": findings, **fields})


HELD = {"kind": "held_connection", "pool": "small", "seconds": 0.2, "idle": 0.15, "at": "shop.py:7"}
WAITED = {"kind": "waited_for_connection", "pool": "small", "route": "/a", "at": "shop.py:7"}
REPEATED = {"kind": "repeated_query", "relation": "A.b", "count": 40, "at": "shop.py:8"}
AT = {"kind": "mostly_at", "function": "ask", "at": "shop.py:9", "seconds": 0.4}
BLOCK = json.dumps(
    {
        "event": "event_loop_blocked",
        "route": "/b",
        "function": "render",
        "file": "shop.py",
        "line": 5,
        "duration": 0.25,
        "delayed": 2,
    }
)
NEVER = json.dumps(
    {"event": "cache_never_hits", "cache": "c", "misses": 12, "at": "shop.py:6", "route": "/c"}
)
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/x/site-packages/starlette/routing.py", line 1, in app',
    '  File "/x/examples/shop/a.py", line 3, in failing',
    '  File "/x/site-packages/sqlalchemy/pool.py", line 2, in get',
    "sqlalchemy.exc.TimeoutError: QueuePool limit reached",
]


@pytest.mark.parametrize(
    ("log", "what", "at"),
    [
        (
            [BLOCK] * 3,
            "render() blocks the event loop: 3 times, up to 250 ms; 6 requests",
            "shop.py:5",
        ),
        ([slow("/a", REPEATED)], "40 queries for A.b, one after the other", "shop.py:8"),
        (
            [*[slow("/a", HELD)] * 3, slow("/z", WAITED)],
            "a connection of small is kept for 150 ms without a query; 1 requests waited for it",
            "shop.py:7",
        ),
        ([NEVER], "the cache c never hits: 12 misses, no hit", "shop.py:6"),
        (
            [slow("/a", AT, parts={"http": 0.4})] * 3,
            "another service takes 400 ms of 500 ms",
            "shop.py:9",
        ),
        (TRACEBACK, "TimeoutError is not handled: 1 request failed", "examples/shop/a.py:3"),
    ],
)
def test_a_cause_is_named_with_its_line_and_what_to_do(log: list[str], what: str, at: str) -> None:
    """In one line."""
    (cause,) = causes(log, {"/a": 6.0})

    assert cause.what.startswith(what)
    assert cause.at == at
    assert cause.to_do


@pytest.mark.parametrize(
    "log",
    [
        [BLOCK] * 2,
        [slow("/a", HELD)] * 5,
        [slow("/a", AT, parts={"http": 0.4})] * 5,
        [slow("/a", AT, parts={"http": 0.1})] * 50,
        ["KeyError: no traceback"],
    ],
)
def test_what_few_requests_met_is_chance(log: list[str]) -> None:
    """A busy machine makes anything slow now and then."""
    assert causes(log, {"/a": 100.0}) == []


def test_the_table_shows_them() -> None:
    """Cause, place with its route, next step."""
    console = Console(width=160)
    with console.capture() as shown:
        console.print(causes_table(causes([BLOCK] * 3, {})))

    assert "shop.py:5" in shown.get()
    assert "asyncio.to_thread" in shown.get()
