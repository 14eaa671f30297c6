"""Connections that wait for accept()."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes import Kit, Probes
from fastobs.probes._names import Names
from fastobs.probes.accepts import AGAIN, SOON, Accepts, _listening
from tests.driving import Clock
from tests.probes.contract import Contract

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accepts(meters: Meters, clock: Clock) -> Accepts:
    return Accepts(Kit(meters=meters, names=Names(), look=lambda: None), clock)


def waiting(accepts: Accepts) -> float | None:
    """What the probe shows, if it shows something."""
    found = list(accepts.read())
    assert all(reading.metric is catalogue.ACCEPT_QUEUE for reading in found)
    return found[0].value if found else None


def listen(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return stack.enter_context(socket.create_server((host, 0), family=family, backlog=8))


def connect(stack: ExitStack, listening: socket.socket) -> None:
    stack.enter_context(socket.create_connection(listening.getsockname()[:2]))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"] if socket.has_ipv6 else ["127.0.0.1"])
def test_what_was_not_accepted_is_counted(host: str, stack: ExitStack, accepts: Accepts) -> None:
    """Until it is accepted."""
    listening = listen(stack, host)
    before = waiting(accepts)
    assert before is not None
    for _ in range(3):
        connect(stack, listening)

    assert waiting(accepts) == before + 3
    stack.enter_context(listening.accept()[0])
    assert waiting(accepts) == before + 2


def test_the_servers_socket_stays_the_servers(stack: ExitStack, accepts: Accepts) -> None:
    """Asking must not close it."""
    listening = listen(stack)
    assert waiting(accepts) is not None
    connect(stack, listening)

    stack.enter_context(listening.accept()[0])


def test_a_socket_that_is_gone_is_looked_for_no_more(stack: ExitStack, accepts: Accepts) -> None:
    """Nor is a file taken for it that got its number."""
    others = waiting(accepts)
    gone = listen(stack)
    list(accepts.read())
    gone.close()
    with Path("/dev/null").open():
        assert waiting(accepts) == others


@pytest.mark.parametrize("first", [True, False])
def test_a_new_socket_is_found_after_a_while(
    first: bool,
    stack: ExitStack,
    accepts: Accepts,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Soon, as long as there is none; looking takes time for each open file."""
    others = set(_listening())
    monkeypatch.setattr(
        "fastobs.probes.accepts._listening",
        lambda: (each for each in _listening() if each not in others),
    )
    if not first:
        listen(stack)
    before = waiting(accepts)
    assert (before is None) == first
    connect(stack, listen(stack))
    assert waiting(accepts) == before

    clock.now += SOON if first else AGAIN

    assert waiting(accepts) == (before or 0) + 1


def test_it_is_among_the_probes(probes: Probes) -> None:
    """Of the runtime, so that it is there without a library."""
    assert probes.status()


class TestContract(Contract):
    """The kernel's queue, which is only asked."""

    row = ("asyncio", ".accepts")
    counts = hooks = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield listening

    def call(self, it: Any, name: str) -> None:
        """It has no name."""

    async def use(self, it: Any) -> Any:
        with socket.create_connection(it.getsockname()):
            return it.accept()[0].close()


def test_without_proc_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, accepts: Accepts) -> None:
    """A sandbox without it is no error of ours each second."""
    monkeypatch.setattr("fastobs.probes.accepts.DESCRIPTORS", "/nowhere/fd")

    assert waiting(accepts) is None
