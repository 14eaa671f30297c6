"""What every test can ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette

from fastobs import Handle, _contain, instrument
from fastobs._process import Process, process
from fastobs.cells import Meters

pytest_plugins = ["tests.parts.fixtures"]


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our own errors are loud here, and no test sees another's counts or settings."""
    monkeypatch.setenv("FASTOBS_STRICT", "1")
    _forget_process()
    _contain._logged.clear()
    yield
    _forget_process()


def _forget_process() -> None:
    """Take out every hook: an app of a module that was imported for a test stays instrumented."""
    shared = process()
    while shared.apps:
        shared.leave()
    process.cache_clear()


@pytest.fixture
def contained_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our errors are contained, as they are in production."""
    monkeypatch.delenv("FASTOBS_STRICT")
    logging.getLogger("fastobs").setLevel(logging.NOTSET)


@pytest.fixture
def shared() -> Process:
    """The process's meters, probes and log writer, fresh."""
    return process()


@pytest.fixture
def meters(shared: Process) -> Meters:
    """The meters that an instrumented app of this test writes to."""
    return shared.meters


@pytest.fixture
def observed() -> Iterator[Callable[..., Handle]]:
    """Instruments an app, and gives it back as it was when the test ends."""
    handles: list[Handle] = []

    def observe(app: Starlette, **sections: Any) -> Handle:
        handle = instrument(app, **sections)
        handles.append(handle)
        return handle

    yield observe
    for handle in handles:
        handle.uninstrument()


@pytest.fixture
def anyio_backend() -> str:
    """Servers run asyncio; trio is tried where it matters."""
    return "asyncio"
