"""What people are told of the watchdog: one line, and of what is off the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastobs import Handle
from tests.driving import call
from tests.probes.waiting import until

from .rig import run

Observed = Callable[..., Handle]


def line(handle: Handle) -> str:
    """The watchdog's, of the app's status."""
    (found,) = (each for each in handle.status().splitlines() if each.startswith("watchdog: "))
    return found


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {},
            (
                "watchdog: tells of event loop blocks longer than 0.1 s; samples requests from 50% of "
                "their threshold on, and keeps what ends slow or fails"
            ),
        ),
        (
            {"slow": None},
            (
                "watchdog: tells of event loop blocks longer than 0.1 s; no profiles of slow requests, "
                "since slow is None"
            ),
        ),
        (
            {"profiles": None, "runtime": {"loop_block_after": 0.25}},
            (
                "watchdog: tells of event loop blocks longer than 0.25 s; no profiles of slow requests, "
                "since profiles is None"
            ),
        ),
        (
            {"slow": {"profile_from": None}},
            (
                "watchdog: tells of event loop blocks longer than 0.1 s; no profiles of slow requests, "
                "since slow.profile_from is None"
            ),
        ),
        (
            {"runtime": None},
            "watchdog: off, since runtime is None; so slow requests are not profiled either",
        ),
        (
            {"runtime": {"loop_block_after": None}},
            (
                "watchdog: off, since runtime.loop_block_after is None; so slow requests are not "
                "profiled either"
            ),
        ),
    ],
)
def test_status_says_what_is_on_and_which_setting_has_it_off(
    observed: Observed, sections: dict[str, Any], said: str
) -> None:
    """Before there is a loop to watch, too."""
    assert line(observed(FastAPI(), workers=None, **sections)) == said


def test_status_says_that_this_python_cannot_be_watched(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how it could be."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    told = line(observed(FastAPI(), workers=None))

    assert told.startswith("watchdog: off, this Python runs without the GIL")
    assert "PYTHON_GIL=1" in told


def test_status_says_that_the_folder_for_profiles_is_not_private(
    observed: Observed, tmp_path: Path
) -> None:
    """Once that was found out, with the way to mend it."""
    app = FastAPI()
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)

    @app.get("/fails")
    async def fails() -> None:
        await until(lambda: handle._tail and handle._tail._captures)
        raise ZeroDivisionError

    handle = observed(
        app,
        traces=None,
        workers=None,
        slow={"after": 60.0, "profile_from": 0.001},
        profiles={"directory": folder},
    )

    async def main() -> None:
        await call(app, "/fails")
        await until(lambda: handle._tail and handle._tail.refusal)

    assert "keeps what ends slow" in line(handle)
    run(main())
    told = line(handle)

    assert "no profiles of slow requests until the next start: Profiles are not kept in" in told
    assert "Set profiles.directory" in told


def test_an_app_without_a_threshold_has_the_watchdog_of_another(observed: Observed) -> None:
    """It is the process's; what its threshold is, the other app's status says."""
    observed(FastAPI(), workers=None)
    told = line(observed(FastAPI(), workers=None, runtime=None))

    assert told.startswith("watchdog: tells of event loop blocks; samples requests")


def test_status_of_an_app_that_is_as_it_was_promises_nothing(observed: Observed) -> None:
    """Its watchdog has gone with the last app."""
    handle = observed(FastAPI(), workers=None)
    handle.uninstrument()

    assert line(handle).startswith("watchdog: off, since nothing is instrumented any more")
