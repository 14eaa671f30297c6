"""Time in front of us, by X-Request-Start."""

from __future__ import annotations

from typing import Any

import pytest

from fastobs._exchange import Exchange
from fastobs._queue import queued
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.config import Slow
from fastobs.signals.slow import Line, slow_requests
from tests.driving import scope

ARRIVED = 1_700_000_000.5


def asking(stamp: str | None) -> Exchange:
    headers = {} if stamp is None else {"x-request-start": stamp}
    return Exchange(scope(headers=headers), Routes(None), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stamp",
    [
        "t=1700000000.25",
        "1700000000.25",
        " t=1700000000250 ",
        "1700000000250.0",
        "t=1700000000250000",
        "t=1700000000250000000",
    ],
)
def test_seconds_milli_micro_and_nanoseconds_are_told_apart(stamp: str) -> None:
    """nginx writes seconds, Heroku milliseconds, Apache microseconds."""
    waited = queued(asking(stamp), ARRIVED)

    assert waited is not None
    assert round(waited, 4) == 0.25


@pytest.mark.parametrize(
    "stamp",
    [
        None,
        "",
        "t=",
        "now",
        "t=-1700000000",
        "t=1e9",
        "t=nan",
        "t=1700000000,250",
        "t=" + "9" * 30,
        "t=1699999000",
        "t=1700000009",
        "t=999999999",
    ],
)
def test_nonsense_is_ignored(stamp: str | None) -> None:
    """As is what would have waited for more than ten minutes, or arrived before it was sent."""
    assert queued(asking(stamp), ARRIVED) is None


def test_a_clock_a_little_ahead_is_no_wait() -> None:
    """Never below zero."""
    assert queued(asking("t=1700000001.0"), ARRIVED) == 0.0


@pytest.mark.parametrize(
    ("settings", "stamp", "expected"),
    [
        ({}, "t=1700000000.25", None),
        ({"trust_request_start": True}, "t=1700000000.25", 0.25),
        ({"trust_request_start": True}, "soon", None),
    ],
)
def test_the_slow_line_has_it_if_the_header_is_trusted(
    settings: dict[str, Any], stamp: str, expected: float | None, meters: Meters
) -> None:
    """By default it is not: whoever asks may write what they like."""
    exchange = asking(stamp)
    exchange.duration, exchange.status, exchange.closed = 2.0, 200, True
    found: list[Line] = []
    slow_requests(Slow(**settings), meters, found.append, wall=lambda: ARRIVED + 2.0)(exchange)

    ((_, fields),) = found
    assert fields.get("queue") == expected
