"""The parts that many tests share, and what happens where one is missing."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NoReturn

import pytest

from . import stores
from .programs import MissingPart, find, in_ci

__all__ = ["database_url", "postgresql", "promtool", "redis_server", "redis_url"]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[stores.PostgreSQL]:
    """One PostgreSQL server for the whole run."""
    with stores.postgresql() as server:
        yield server


@pytest.fixture
def database_url(postgresql: stores.PostgreSQL) -> Iterator[str]:
    """A database of the test's own: ``postgresql://postgres@127.0.0.1:PORT/NAME``."""
    with postgresql.database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[stores.Redis]:
    """One Redis server for the whole run."""
    with stores.redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: stores.Redis) -> str:
    """An empty Redis: ``redis://127.0.0.1:PORT/0``."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture
def promtool() -> str:
    """The program's path; a missing one is a failure in CI, like every other part."""
    return find("promtool")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """A fixture that lacks its part decides like a test that does."""
    try:
        return (yield)
    except MissingPart as missing:
        give_up(missing, strict=in_ci())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """A test without its part is skipped where a person runs it, and fails in CI."""
    try:
        return (yield)
    except MissingPart as missing:
        give_up(missing, strict=in_ci())


def give_up(missing: MissingPart, *, strict: bool) -> NoReturn:
    """End the test, visibly."""
    if strict:
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))
