"""Our own errors."""

from __future__ import annotations

import logging

import pytest

from fastobs._contain import contain, contained, report_to


def test_an_error_is_counted_each_time_and_logged_once_per_place(
    contained_errors: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken hook on the request path must not flood the log."""
    counted: list[str] = []
    report_to(counted.append)

    for _ in range(3):
        with contained("probe"):
            raise KeyError
    contain("probe", ValueError())

    assert counted == ["probe"] * 4
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "your request was not affected" in caplog.text


def test_in_strict_mode_the_error_is_raised() -> None:
    """So that tests, ours and the users', see it."""
    with pytest.raises(KeyError), contained("probe"):
        raise KeyError


def test_what_is_no_error_passes_through(contained_errors: None) -> None:
    """Cancellation and exit are not ours to keep."""
    with pytest.raises(KeyboardInterrupt), contained("probe"):
        raise KeyboardInterrupt
