"""How many connections the server takes: who is asked, how, and when not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from fastobs import catalogue
from fastobs.config import load
from fastobs.probes._engines import question
from fastobs.probes._server import Asker, Server
from fastobs.probes.sqlalchemy import SQLAlchemy
from tests.driving import Clock
from tests.parts import PATIENCE, eventually

Read = Callable[..., dict[tuple[str, ...], float]]
pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
def url(database_url: str) -> Any:
    return make_url(database_url).set(drivername="postgresql+psycopg")


@pytest.fixture
def most(postgresql: Any) -> int:
    """What the server says of itself."""
    ((value,),) = postgresql.execute("SHOW max_connections")
    return int(value)


def answered(probes: Any, read: Read) -> dict[tuple[str, ...], float]:
    """The limits, once what was begun is done."""
    read(catalogue.DB_SERVER_MAX)
    (probe,) = [probe for probe in probes._attached.values() if isinstance(probe, SQLAlchemy)]
    if probe._asker is not None:
        probe._asker.join(PATIENCE)
    return read(catalogue.DB_SERVER_MAX)


def use(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def test_the_server_tells_its_limit(url, probes, read, most, postgresql):
    """On a connection that is not the pool's, is not counted as one, and is closed again; what it is
    asked is no statement of the app's."""
    before = read(catalogue.DB_DURATION).get(("postgresql", "SHOW", ""))
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_logging_name="shop")
    use(engine)
    with engine.connect():
        limits = answered(probes, read)
        # A backend ends a moment after its client has left.
        open_now = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{url.database}'"
        eventually(lambda: postgresql.execute(open_now) == [(1,)])

    assert limits == {("shop",): most}
    assert read(catalogue.POOL_CREATE) == {("shop",): 1}
    assert read(catalogue.POOL_WAIT) == {("shop",): 2}
    assert read(catalogue.DB_DURATION).get(("postgresql", "SHOW", "")) == before
    engine.dispose()


async def test_an_async_engines_server_is_asked_on_a_loop_of_its_own(url, probes, read, most):
    """The app's loop may be busy."""
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), pool_logging_name="a")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        limits = answered(probes, read)
    await engine.dispose()

    assert limits == {("a",): most}


async def test_an_async_creator_of_the_apps_own_is_left_alone(url, probes, read):
    """It may belong to the app's loop; then the limit is not known."""
    called = []

    async def creator() -> Any:
        called.append(1)
        return await asyncpg.connect(url.set(drivername="postgresql").render_as_string(False))

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        limits = answered(probes, read)
    await engine.dispose()

    assert (limits, len(called)) == ({}, 1)


def test_a_server_that_the_app_never_reached_is_not_asked(url, probes, read):
    """An engine in a variable is no reason to connect to somewhere."""
    engine = probes_watch(probes, create_engine(url))

    assert answered(probes, read) == {}
    engine.dispose()


def probes_watch(probes: Any, engine: Engine) -> Engine:
    probes.watch(engine, "shop")
    return engine


def test_switched_off_nobody_is_asked(url, attach, read):
    """By the setting."""
    probes = attach(pools={"server_limits": None})
    engine = create_engine(url)
    use(engine)

    assert answered(probes, read) == {}
    engine.dispose()


def test_sqlite_has_no_limit(tmp_path, probes, read):
    """What has no server shows none."""
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    use(engine)

    assert answered(probes, read) == {}
    engine.dispose()


def server(asker: Asker, url: Any, **known: Any) -> tuple[Server, Engine]:
    """One that was reached."""
    found = Server()
    found.reached = True
    for name, value in known.items():
        setattr(found, name, value)
    return found, create_engine(url)


def test_a_server_is_asked_again_when_its_time_has_come(url, most):
    """Not each time that metrics are shown."""
    clock = Clock()
    asker = Asker(300.0, clock)
    known, engine = server(asker, url)
    seen = []
    for later in (0.0, 299.0, 1.0):
        clock.now += later
        asker.ask([(known, question(engine))])
        asker.join(PATIENCE)
        seen.append(known.most)
        known.most = None

    assert seen == [most, None, most]


def test_a_server_that_does_not_answer_keeps_its_limit(url, caplog):
    """It changes when the server starts anew only. Nothing of the address is logged."""
    asker = Asker(300.0)
    known, engine = server(asker, url.set(port=1, password="secret"), most=100)
    with caplog.at_level(logging.DEBUG, logger="fastobs"):
        asker.ask([(known, question(engine))])
        asker.join(PATIENCE)

    assert known.most == 100
    assert "OperationalError" in caplog.text
    assert "secret" not in caplog.text


def test_where_one_hangs_threads_do_not_pile_up(url, most):
    """The next question waits until the last one is done."""
    asker, go_on = Asker(1e-9), Event()
    known, engine = server(asker, url)
    asked = []

    def wait(*_: Any) -> None:
        asked.append(1)
        go_on.wait(PATIENCE)

    event.listen(engine, "do_connect", wait)
    asker.ask([(known, question(engine))])
    asker.ask([(known, question(engine))])
    go_on.set()
    asker.join(PATIENCE)

    assert (len(asked), known.most) == (1, most)


def test_a_pool_that_hides_how_it_connects_is_not_asked(url, monkeypatch):
    """The name is private; without it the limit is not known."""
    asker = Asker(1.0)
    known, engine = server(asker, url)
    monkeypatch.delattr(engine.pool, "_invoke_creator")
    asker.ask([(known, question(engine))])
    asker.join(PATIENCE)

    assert known.most is None


def test_the_settings_are_seconds():
    """Both have a default, and None switches them off."""
    settings = load(None, {}).pools

    assert settings is not None
    assert (settings.held_after, settings.server_limits) == (30.0, 300.0)
