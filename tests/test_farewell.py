"""What is delivered before a process ends."""

from __future__ import annotations

import pytest

from fastobs import _farewell
from fastobs._farewell import before_the_end, forget, say_farewell


@pytest.fixture(autouse=True)
def deliveries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only those of the test."""
    monkeypatch.setattr(_farewell, "_deliveries", {})
    return []


def test_everything_is_delivered_as_often_as_it_may_be_the_end(deliveries: list[str]) -> None:
    """An app may begin and end several times in one process; registered twice is told once."""

    def deliver() -> None:
        deliveries.append("this")

    before_the_end(deliver)
    before_the_end(deliver)

    say_farewell()
    say_farewell()

    assert deliveries == ["this", "this"]


def test_what_cannot_be_delivered_does_not_keep_the_rest(
    deliveries: list[str], contained_errors: None
) -> None:
    """Nor the process from ending."""

    def fail() -> None:
        raise OSError

    before_the_end(fail)
    before_the_end(lambda: deliveries.append("that"))

    say_farewell()

    assert deliveries == ["that"]


def test_whoever_has_gone_is_not_asked(deliveries: list[str]) -> None:
    """As after uninstrument()."""

    def deliver() -> None:
        deliveries.append("this")

    before_the_end(deliver)
    forget(deliver)
    forget(deliver)

    say_farewell()

    assert deliveries == []
