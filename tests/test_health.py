"""What orchestrators are told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from fastobs import ConfigError, catalogue, watch
from fastobs._health import Check, Health
from fastobs.cells import Meters
from fastobs.cells.meters import Gauge
from tests.driving import Answer, Clock, call, values
from tests.parts import PATIENCE

pytestmark = pytest.mark.anyio

READY = "/_fastobs/readyz"
LIVE = "/_fastobs/livez"
UP = {"state": "up", "detail": "", "required": True}


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    yield watch(engine, name="shop")
    engine.dispose()


def fail() -> None:
    message = "no route to host"
    raise ConnectionError(message)


async def details(app: Any, token: str = "secret") -> Any:
    answer = await call(app, READY, headers={"Authorization": f"Bearer {token}"})
    return json.loads(answer.body)


async def test_a_process_that_answers_lives_and_is_ready(app, observed, meters):
    """Neither is counted as a request, nor in the schema."""
    observed(app)
    answers = [await call(app, path) for path in (LIVE, READY, f"{READY}/")]

    assert [(a.status, a.body) for a in answers] == [(200, b"ok\n")] * 3
    assert answers[0].headers["cache-control"] == "no-store"
    assert values(meters, catalogue.HTTP_DURATION) == {}
    assert app.openapi()["paths"] == {}


async def test_other_paths_and_methods_are_refused(app, observed):
    """A page is its path, and only to be read."""
    observed(app, profiles=None)

    assert (await call(app, f"{LIVE}/x")).status == 404
    assert (await call(app, LIVE, "POST")).status == 405
    assert (await call(app, LIVE, "HEAD")).status == 200


@pytest.mark.parametrize("path", [LIVE, READY])
async def test_a_path_of_the_apps_is_not_taken_from_it(app, observed, path):
    """It is refused when the app is instrumented."""
    app.get(path)(lambda: 1)

    with pytest.raises(ConfigError, match="Give the app's own route another path"):
        observed(app)


async def awaited_false() -> bool:
    return False


def later() -> Any:
    return awaited_false()


@pytest.mark.parametrize("ask", [fail, lambda: False, awaited_false, later])
async def test_a_check_that_fails_takes_the_app_out_of_service(app, observed, meters, ask):
    """It raises, or says False; sync, async, or a function that returns something to await."""
    handle = observed(app)
    handle.check("redis", ask)
    handle.check("mail", lambda: None)
    answer = await call(app, READY)
    meters.refresh()

    assert (answer.status, answer.body) == (503, b"unavailable: redis\n")
    assert (await call(app, LIVE)).status == 200
    assert values(meters, catalogue.HEALTH_UP) == {("mail",): 1.0}
    assert {row.values for row in meters.rows(catalogue.HEALTH_UP)} == {("mail",), ("redis",)}


async def test_what_the_app_can_do_without_does_not_take_it_out_of_service(app, observed, meters):
    """Else the end of a cache would be the end of all instances at once. It is told all the same."""
    handle = observed(app, profiles={"token": "secret"})
    handle.check("cache", fail, required=False)
    handle.check("mail", lambda: None)
    answer = await call(app, READY)
    told = await details(app)
    meters.refresh()

    assert (answer.status, answer.body) == (200, b"degraded: cache\n")
    assert told["status"] == "degraded"
    assert {name: check["required"] for name, check in told["checks"].items()} == {
        "cache": False,
        "mail": True,
    }
    assert {row.values: row.value for row in meters.rows(catalogue.HEALTH_UP)} == {
        ("cache",): 0.0,
        ("mail",): 1.0,
    }


@pytest.mark.parametrize(
    ("optional", "status"),
    [("shop", 200), ("cache, sh*", 200), ("cache", 503), ("sho", 503)],
)
async def test_pools_that_the_app_can_do_without_are_a_setting(
    app, observed, tmp_path, monkeypatch, optional, status
):
    """By their names, or by how these begin."""
    monkeypatch.setenv("FASTOBS_POOLS_OPTIONAL", optional)
    observed(app)
    engine = watch(create_engine(f"sqlite:///{tmp_path}/not/there/shop.db"), name="shop")
    with pytest.raises(OperationalError):
        engine.connect()
    answer = await call(app, READY)

    assert answer.status == status
    assert answer.body.endswith(b": shop\n")
    engine.dispose()


@pytest.mark.parametrize("section", ["metrics", "profiles"])
async def test_details_are_for_who_has_a_token(app, observed, section):
    """Error texts may tell much."""
    observed(app, **{section: {"token": "secret"}}).check("redis", fail)

    assert await details(app) == {
        "status": "unavailable",
        "checks": {
            "redis": {
                "state": "down",
                "detail": "ConnectionError: no route to host",
                "required": True,
            }
        },
    }
    answer = await call(app, READY, headers={"Authorization": "Bearer wrong"})
    assert answer.body == b"unavailable: redis\n"


async def test_however_many_ask_it_is_asked_once_a_second():
    """Those who come while it is being asked wait for that; then the answer is good for a second."""
    asked: list[int] = []
    go, clock = asyncio.Event(), Clock()

    async def ask() -> None:
        asked.append(1)
        await go.wait()

    health = Health(tuple, clock=clock)
    health.add(Check("redis", ask))
    first = [asyncio.create_task(health.outcomes()) for _ in range(5)]
    while not asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    first[0].cancel()
    go.set()
    await asyncio.wait(first)
    await health.outcomes()
    before = len(asked)
    clock.now += 1.0
    await health.outcomes()

    assert (before, len(asked)) == (1, 2)


async def test_what_does_not_answer_in_time_is_down_and_not_asked_again():
    """A thread that hangs is one, however often somebody asks; when it is done all is well."""
    release, asked = threading.Event(), []
    clock = Clock()

    def hang() -> None:
        asked.append(1)
        release.wait(PATIENCE)

    health = Health(tuple, clock=clock)
    health.add(Check("redis", hang, within=0.001))
    late = (await health.outcomes())["redis"]
    clock.now += 1.0
    still = (await health.outcomes())["redis"]
    release.set()
    health._threads["redis"].join()
    await asyncio.sleep(0)
    clock.now += 1.0
    health._own["redis"] = Check("redis", hang, within=30)
    again = (await health.outcomes())["redis"]

    assert (late.state, late.detail) == ("down", "no answer within 0.001 s")
    assert (still.state, still.detail) == ("down", "has not answered since it was asked before")
    assert (again.state, len(asked)) == ("up", 2)


async def test_an_async_check_that_hangs_is_cancelled():
    """It gives back what it holds."""
    cancelled: list[bool] = []

    async def hang() -> None:
        try:
            await asyncio.Future()
        finally:
            cancelled.append(True)

    health = Health(tuple)
    health.add(Check("redis", hang, within=0.001))
    outcome = (await health.outcomes())["redis"]
    await asyncio.sleep(0)

    assert (outcome.state, cancelled) == ("down", [True])


@pytest.mark.parametrize(
    ("name", "ask", "within", "message"),
    [
        ("redis", fail, 1.0, "There is a health check 'redis' already"),
        ("mail", None, 1.0, "None is not callable"),
        ("mail", fail, 0.0, "give a positive number of seconds"),
    ],
)
async def test_a_check_that_cannot_work_is_refused(app, observed, name, ask, within, message):
    """Where it is added, with what to do."""
    handle = observed(app)
    handle.check("redis", fail)

    with pytest.raises(ConfigError, match=message):
        handle.check(name, ask, within=within)


async def test_a_watched_pool_is_asked(app, observed, engine, meters):
    """Without a line more, and off the event loop."""
    observed(app, metrics={"token": "secret"})

    assert await details(app) == {"status": "ok", "checks": {"shop": UP}}
    meters.refresh()
    assert values(meters, catalogue.HEALTH_UP) == {("shop",): 1.0}


async def test_a_full_pool_is_not_asked(app, observed, engine, meters):
    """Its connections are for requests; that they are all in use says nothing of the database."""
    observed(app, metrics={"token": "secret"})
    with engine.connect():
        answer: Answer = await call(app, READY)
        checks = (await details(app))["checks"]

    assert (answer.status, answer.body) == (200, b"ok\n")
    assert checks["shop"]["state"] == "busy"
    meters.refresh()
    assert values(meters, catalogue.HEALTH_UP) == {}


async def test_a_database_that_is_gone_is_down(app, observed, tmp_path):
    """Its pool's name is told, and nothing else."""
    engine = create_engine(f"sqlite:///{tmp_path}/nowhere/shop.db")
    watch(engine, name="shop")
    observed(app)
    answer = await call(app, READY)

    assert (answer.status, answer.body) == (503, b"unavailable: shop\n")


async def test_an_async_engine_is_asked_on_its_loop(app, observed, tmp_path):
    """Where its connections live."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    watch(engine, name="shop")
    observed(app, metrics={"token": "secret"})
    checks = (await details(app))["checks"]
    await engine.dispose()

    assert checks == {"shop": UP}


async def test_a_connection_that_requests_share_is_left_alone(app, observed):
    """A question on it would be part of somebody's transaction."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    watch(engine, name="shop")
    observed(app, metrics={"token": "secret"})

    assert (await details(app))["checks"] == {}
    engine.dispose()


async def test_uninstrumenting_takes_the_checks_along(app, observed, meters: Meters):
    """Nobody keeps them up to date any more."""
    handle = observed(app)
    handle.check("mail", lambda: None)
    await call(app, READY)
    meters.refresh()
    before = values(meters, catalogue.HEALTH_UP)
    handle.uninstrument()

    shown = [
        row for row in meters.rows(catalogue.HEALTH_UP) if isinstance(row, Gauge) and row.present
    ]
    assert (before, shown) == ({("mail",): 1.0}, [])


def test_an_app_under_trio_has_its_answer_as_well() -> None:
    """Hypercorn runs it, and so do the tests of many apps."""
    pytest.importorskip("trio")

    async def hangs() -> None:
        await anyio.sleep_forever()

    async def fine() -> bool:
        await anyio.lowlevel.checkpoint()
        return True

    checks = [
        Check("sync", lambda: True, within=30),
        Check("async", fine, within=30),
        Check("returned", lambda: fine(), within=30),  # noqa: PLW0108 - that is the point
        Check("failing", fail),
        Check("hanging", hangs, within=0.01),
        Check("no", lambda: False, within=30),
    ]
    health = Health(lambda: checks)

    outcomes = anyio.run(health.outcomes, backend="trio")

    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        **dict.fromkeys(("sync", "async", "returned"), "up"),
        **dict.fromkeys(("failing", "hanging", "no"), "down"),
    }
    assert outcomes["hanging"].detail == "no answer within 0.01 s"
