"""Requests that wait for a dependency's max_concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from inspect import signature
from typing import Any

import pytest
import uvloop
from fastapi import Depends, FastAPI

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes import Kit, Probes
from fastobs.probes._names import Names
from fastobs.probes.fastapi import Dependencies
from tests.driving import call
from tests.probes.contract import Contract
from tests.probes.waiting import until

pytestmark = pytest.mark.skipif(
    "max_concurrency" not in signature(Depends).parameters, reason="FastAPI has none yet"
)

Read = Callable[..., dict[tuple[str, ...], float]]

PENDING = catalogue.DEPENDENCY_PENDING


def limited(app: FastAPI, path: str, release: asyncio.Event) -> None:
    """An endpoint whose dependency lets in one request, and keeps it until it is released."""

    async def one_at_a_time() -> AsyncIterator[None]:
        await release.wait()
        yield

    # FastAPI before it had them knows no such argument.
    dependency: Any = Depends(one_at_a_time, max_concurrency=1)
    app.get(path, dependencies=[dependency])(lambda: 1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_waits_for_a_dependency_is_counted(
    run: Callable[..., None], observed: Callable[..., Any], read: Read
) -> None:
    """Of all dependencies together; nobody, as soon as a loop is known; and from any thread."""

    async def main() -> None:
        app, release = FastAPI(), asyncio.Event()
        app.get("/")(lambda: 1)
        limited(app, "/one", release)
        limited(app, "/other", release)
        observed(app)
        await call(app)
        before = read(PENDING)
        paths = ["/one"] * 3 + ["/other"] * 2
        calls = [asyncio.create_task(call(app, path)) for path in paths]
        await until(lambda: read(PENDING) == {(): 3})
        elsewhere = await asyncio.to_thread(read, PENDING)
        release.set()
        answers = await asyncio.gather(*calls)

        assert before == {(): 0}
        assert elsewhere == {(): 3}
        assert [answer.status for answer in answers] == [200] * 5
        assert read(PENDING) == {(): 0}

    run(main())

    assert read(PENDING) == {}


def test_one_who_gives_up_waits_no_more(observed: Callable[..., Any], read: Read) -> None:
    """As when its client is gone."""

    async def main() -> None:
        app, release = FastAPI(), asyncio.Event()
        limited(app, "/", release)
        observed(app)
        first, second = (asyncio.create_task(call(app)) for _ in range(2))
        await until(lambda: read(PENDING) == {(): 1})
        second.cancel()
        await asyncio.wait([second])

        assert read(PENDING) == {(): 0}
        release.set()
        await first

    asyncio.run(main())


def test_loops_are_counted_together(attach: Callable[..., Probes], read: Read) -> None:
    """One that is introduced twice counts once, and none is kept when it is closed."""
    probes = attach()

    async def busy(expected: float, meanwhile: Coroutine[Any, Any, None] | None = None) -> None:
        app, release = FastAPI(), asyncio.Event()
        limited(app, "/", release)
        for _ in range(2):
            probes.on_loop(asyncio.get_running_loop())
        calls = [asyncio.create_task(call(app)) for _ in range(3)]
        await until(lambda: read(PENDING) == {(): expected})
        if meanwhile is not None:
            await asyncio.to_thread(asyncio.run, meanwhile)
            assert read(PENDING) == {(): expected}
        release.set()
        await asyncio.gather(*calls)

    asyncio.run(busy(2, meanwhile=busy(4)))

    (adapter,) = (each for each in probes._attached.values() if isinstance(each, Dependencies))
    assert adapter._living() == []


@pytest.mark.parametrize(
    "private", ["fastapi.concurrency._dependency_semaphores", "anyio.lowlevel._run_vars"]
)
def test_a_release_that_hides_them_shows_none_and_says_so(
    private: str,
    attach: Callable[..., Probes],
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the status and with one warning; which is no zero."""
    with monkeypatch.context() as patch:
        patch.delattr(private)
        probes = attach()

    asyncio.run(introduced(probes, lambda: read(PENDING)))

    line = "fastapi: this release hides who waits for a max_concurrency. Update fastobs."
    assert f"  {line}" in probes.status().splitlines()
    assert [record.message for record in caplog.records] == [f"fastobs: {line}"]


def test_a_release_that_has_none_yet_shows_none_and_hides_nothing(
    attach: Callable[..., Probes],
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is missing."""
    with monkeypatch.context() as patch:
        patch.delattr("fastapi.concurrency._dependency_semaphores")
        patch.setattr("fastobs.probes.fastapi.Depends", lambda dependency, *, use_cache: None)
        probes = attach()

    asyncio.run(introduced(probes, lambda: read(PENDING)))

    assert "  fastapi: " not in probes.status()
    assert caplog.records == []


async def introduced(
    probes: Probes, seen: Callable[[], dict[tuple[str, ...], float]] = dict
) -> None:
    """A loop comes, and nothing is seen on it."""
    probes.on_loop(asyncio.get_running_loop())
    assert seen() == {}


def test_an_anyio_that_keeps_them_by_name_is_understood(meters: Meters) -> None:
    """As older releases do."""
    probe: Any = Dependencies(Kit(meters=meters, names=Names(), look=lambda: None))
    probe.attach(None)

    async def main() -> None:
        app, release = FastAPI(), asyncio.Event()
        limited(app, "/", release)
        calls = [asyncio.create_task(call(app)) for _ in range(2)]
        await until(lambda: probe._semaphores.get(None))
        by_name = {probe._semaphores._name: probe._semaphores.get(None)}
        await until(lambda: probe._waiting(by_name) == 1)
        release.set()
        await asyncio.gather(*calls)
        assert probe._waiting(by_name) == 0

    asyncio.run(main())


class TestContract(Contract):
    """FastAPI's semaphores, which are only asked."""

    row = ("fastapi", ".fastapi")
    counts = hooks = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        app, release = FastAPI(), asyncio.Event()
        release.set()
        limited(app, "/", release)
        yield app

    def call(self, it: Any, name: str) -> None:
        """It has no name."""

    async def use(self, it: Any) -> Any:
        return (await call(it)).status
