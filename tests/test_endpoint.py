"""GET /metrics."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from starlette.types import ASGIApp

from fastobs import catalogue
from fastobs._endpoint import metrics_page
from fastobs.cells import Meters
from fastobs.cells.shared import SharedStore
from tests.driving import Answer, call, values
from tests.parts import PATIENCE


@pytest.fixture
def page(meters: Meters) -> ASGIApp:
    return metrics_page(meters, token=None, users=list)


async def ask(page: ASGIApp, method: str = "GET", **headers: str) -> Answer:
    return await call(
        page, "/metrics", method, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        # Prometheus 2.42 and 3.5
        (
            (
                "application/openmetrics-text;version=1.0.0,"
                "application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            True,
        ),
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "application/openmetrics-text;version=0.0.1;q=0.5,"
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
                "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
            ),
            True,
        ),
        ("application/openmetrics-text;q=0.3,text/plain", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)
async def test_the_format_is_what_the_scraper_prefers(
    accept: str, openmetrics: bool, page: ASGIApp
) -> None:
    """Text unless OpenMetrics is asked for."""
    answer = await ask(page, accept=accept)

    expected = "application/openmetrics-text" if openmetrics else "text/plain"
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(expected)
    assert answer.body.endswith(b"# EOF\n") == openmetrics
    if openmetrics:
        assert list(parse_openmetrics(answer.body.decode()))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("gzip, deflate;q=0.5", True), ("*", True), ("", False), ("gzip;q=0", False)],
)
async def test_the_body_is_compressed_for_those_who_accept_it(
    accepted: str, compressed: bool, page: ASGIApp
) -> None:
    """And caches are told what it depends on."""
    answer = await ask(page, accept_encoding=accepted)

    body = gzip.decompress(answer.body) if compressed else answer.body
    assert body.startswith(b"# HELP")
    assert ("content-encoding" in answer.headers) == compressed
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic s3cret"}, 401),
        ({"authorization": "Bearer s3cret"}, 200),
        ({"authorization": "bearer  s3cret"}, 200),
    ],
)
async def test_a_token_keeps_others_out(sent: dict[str, str], status: int, meters: Meters) -> None:
    """The answer says what to send, never what would be right."""
    page = metrics_page(meters, token="s3cret", users=list)

    answer = await ask(page, **sent)

    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert b"metrics.token" in answer.body
        assert b"s3cret" not in answer.body


@pytest.mark.anyio
async def test_only_reading_is_possible(page: ASGIApp) -> None:
    """Anything else is told so."""
    assert (await ask(page, "HEAD")).status == 200
    answer = await ask(page, "POST")

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.anyio
async def test_a_scrape_is_timed(page: ASGIApp, meters: Meters) -> None:
    """The next one shows how long this one took."""
    await ask(page)

    assert values(meters, catalogue.SELF_SCRAPE) == {(): 1.0}


@pytest.mark.anyio
async def test_a_scrape_is_answered_while_every_thread_for_endpoints_is_taken(
    page: ASGIApp,
) -> None:
    """A saturated app is the one that must be seen."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    gate = threading.Event()
    async with anyio.create_task_group() as group:
        for _ in range(int(limiter.total_tokens)):
            group.start_soon(anyio.to_thread.run_sync, gate.wait, PATIENCE)
        while limiter.available_tokens:
            await anyio.lowlevel.checkpoint()

        answer = await ask(page)

        assert not gate.is_set()
        gate.set()
    assert answer.status == 200


@pytest.mark.anyio
async def test_a_scrape_leaves_the_event_loop_free(meters: Meters) -> None:
    """Rendering happens on a thread; the loop goes on meanwhile."""
    entered, gate = threading.Event(), threading.Event()

    class Slow:
        def read(self) -> list[Any]:
            entered.set()
            assert gate.wait(PATIENCE)
            return []

    meters.ask(Slow())
    page = metrics_page(meters, token=None, users=list)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, page)
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()
        gate.set()


@pytest.mark.anyio
async def test_the_endpoint_is_not_in_the_schema_and_not_measured(
    observed: Callable[..., Any], meters: Meters
) -> None:
    """It is ours, not the app's."""
    app = FastAPI()
    observed(app)

    for path in ("/metrics", "/metrics/"):
        assert (await call(app, path)).status == 200

    assert "/metrics" not in app.openapi()["paths"]
    assert values(meters, catalogue.HTTP_DURATION) == {}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_loop_goes_on_while_eight_workers_are_shown(encoding: str, tmp_path: Path) -> None:
    """600 label sets in each: nothing waits for the scrape, not even for half of one."""
    workers = [Meters(SharedStore(tmp_path, "test", lambda _: None)) for _ in range(8)]
    for meters in workers:
        for number in range(600):
            meters.histogram(catalogue.HTTP_DURATION, "GET", f"/{number}", "200", "").observe(0.02)
    page = metrics_page(workers[0], token=None, users=list)

    async def scrape() -> float:
        """The loop's longest wait for its next turn, as a share of the whole scrape."""
        began = turned = perf_counter()
        longest = 0.0
        asked = asyncio.ensure_future(ask(page, accept_encoding=encoding))
        while not asked.done():
            await asyncio.sleep(0)
            now = perf_counter()
            longest, turned = max(longest, now - turned), now
        assert (await asked).status == 200
        return longest / (perf_counter() - began)

    async def scrapes() -> bool:
        for _ in range(50):
            if await scrape() < 0.5:
                return True
        return False

    interval = sys.getswitchinterval()
    # For how long CPython lets a thread run is not our choice, and as long as the scrape is.
    sys.setswitchinterval(1e-4)
    try:
        # On the loop, each would be nearly 1; a neighbour on the machine may spoil many of them.
        assert asyncio.run(scrapes())
    finally:
        sys.setswitchinterval(interval)
