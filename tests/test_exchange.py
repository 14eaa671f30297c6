"""What is known about one request."""

from __future__ import annotations

import os

import pytest

from fastobs import current
from fastobs._exchange import CURRENT, KEEP, Exchange
from fastobs._routes import Routes
from tests.driving import scope


def exchange(**scope_parts) -> Exchange:
    return Exchange(scope(**scope_parts), Routes(None), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "label"), [("PATCH", "PATCH"), ("BREW", "_OTHER")])
def test_only_known_methods_become_a_label(method: str, label: str) -> None:
    """Anything can stand in a request line."""
    assert exchange(method=method).method == label


def test_ids_are_made_up_once_and_look_like_w3c_ids() -> None:
    """Asked again, the answer is the same."""
    one = exchange()

    assert (len(one.trace_id), len(one.span_id)) == (32, 16)
    assert (one.trace_id, one.span_id) == (one.trace_id, one.span_id)
    assert one.trace_id != exchange().trace_id


@pytest.mark.parametrize(
    ("given", "taken"),
    [("abc-123", True), ("", False), ("x" * 129, False), ("a\x07b", False), ("ümlaut", False)],
)
def test_a_request_id_is_taken_over_if_it_is_short_and_plain(given: str, taken: bool) -> None:
    """It goes into log lines; else the trace id serves."""
    headers = [(b"x-request-id", given.encode())]

    one = Exchange({**scope(), "headers": headers}, Routes(None), 0.0)  # type: ignore[arg-type]

    assert one.request_id == (given if taken else one.trace_id)


def test_a_route_that_cannot_be_found_is_empty_and_contained(contained_errors: None) -> None:
    """A framework may change what it leaves in the scope."""
    one = exchange()
    one.scope["fastapi"] = 3

    assert one.route == ""


def test_the_route_is_not_remembered_before_the_exchange_is_closed() -> None:
    """Routing may still come."""
    one = exchange()
    assert one.route == ""

    one.scope["route"] = type("Route", (), {"path_format": "/late/{x}"})
    one.closed = True

    assert one.route == "/late/{x}"


def test_a_closed_exchange_is_not_current() -> None:
    """Its background tasks may still run."""
    one = exchange()
    token = CURRENT.set(one)
    try:
        assert current() is one
        one.closed = True
        assert current() is None
    finally:
        CURRENT.reset(token)


def test_forked_processes_do_not_make_up_the_same_ids() -> None:
    """They inherit the state of the random generator."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, exchange().trace_id.encode())
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 32).decode() != exchange().trace_id


def test_the_wish_for_a_profile_is_noted_beside_what_else_is() -> None:
    """Its end is told to whoever reads the notes."""
    first, second = exchange(), exchange()
    second.notes = {"retry_after": True}

    for one in (first, second):
        one.keep_profile()

    assert (first.notes, first.noted) == ({KEEP: True}, True)
    assert second.notes == {"retry_after": True, KEEP: True}
