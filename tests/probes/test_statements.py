"""Times of statements that an app hands to a driver itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes import Kit, _statements
from fastobs.probes._hooks import Hooks
from fastobs.probes._names import Names
from fastobs.probes._statements import Statements, argument

Read = Callable[..., dict[tuple[str, ...], float]]


class Driver:
    """Answers with the statement that it is given."""

    def execute(self, query: object, *_: object) -> object:
        if query == "FAIL":
            raise ZeroDivisionError
        return query

    async def fetch(self, query: object) -> object:
        if query == "FAIL":
            raise ZeroDivisionError
        return query


class Tidy(Statements):
    """Statements of the driver above."""

    housekeeping = frozenset({"the_driver"})


@pytest.fixture
def hooks(meters: Meters) -> Iterator[Hooks]:
    """Those of the driver above, in it."""
    hooks = Hooks()
    kit = Kit(meters=meters, names=Names(), look=lambda: None)
    statements = Tidy(kit, hooks, "probes.driver")
    statements.wrap(Driver, "execute", argument("query"), awaited=False)
    statements.wrap(Driver, "fetch", argument("query"), awaited=True)
    statements.wrap(Driver, "of_another_release", argument("query"), awaited=False)
    yield hooks
    hooks.undo()


def called_from(module: str, layers: int = 0) -> Callable[..., Any]:
    """Calls a function from a module of this name, with so many of others in between."""
    space: dict[str, Any] = {"__name__": module}
    exec("def call(function, *args): return function(*args)", space)
    call: Callable[..., Any] = space["call"]
    for _ in range(layers):
        inner, between = call, called_from("between")
        call = lambda function, *args, inner=inner, between=between: inner(between, function, *args)  # noqa: E731
    return call


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("SELECT 1", "SELECT"),
        ("  insert\ninto t", "INSERT"),
        ("select(1)", "SELECT"),
        ("COMMIT;", "COMMIT"),
        ("-- a comment\nSELECT 1", "_OTHER"),
        ("secret", "_OTHER"),
        ("", "_OTHER"),
        (None, "_OTHER"),
    ],
)
@pytest.mark.usefixtures("hooks")
def test_an_operation_is_the_first_word_if_it_is_a_known_one(
    statement: str | None, operation: str, read: Read
) -> None:
    """A label is not made from anything else; the second time it is looked up."""
    Driver().execute(statement)
    Driver().execute(query=statement)

    assert read(catalogue.DB_DURATION) == {("postgresql", operation, ""): 2}


@pytest.mark.usefixtures("hooks")
def test_ways_to_write_a_word_are_not_kept_without_end(read: Read) -> None:
    """They are counted all the same."""
    for at in range(200):
        Driver().execute(f"SELECT({at})")

    assert read(catalogue.DB_DURATION) == {("postgresql", "SELECT", ""): 200}


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
async def test_an_error_is_the_apps_and_told(read: Read) -> None:
    """Sync and async."""
    with pytest.raises(ZeroDivisionError):
        Driver().execute("FAIL")
    with pytest.raises(ZeroDivisionError):
        await Driver().fetch("FAIL")

    assert read(catalogue.DB_DURATION) == {("postgresql", "_OTHER", "ZeroDivisionError"): 2}


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("layers", [0, 2])
async def test_what_sqlalchemy_sends_is_not_counted_here(layers: int, read: Read) -> None:
    """Directly, or through layers of the driver and of somebody else."""
    call = called_from("sqlalchemy.engine.default", layers)

    async def adapted() -> Any:
        return await Driver().fetch("SELECT 1")

    assert call(Driver().execute, "SELECT 1") == "SELECT 1"
    space: dict[str, Any] = {"__name__": "sqlalchemy.dialects"}
    exec("async def call(function): return await function()", space)
    assert await space["call"](adapted) == "SELECT 1"

    assert read(catalogue.DB_DURATION) == {}


@pytest.mark.usefixtures("hooks")
def test_what_a_driver_does_for_itself_is_not_counted(read: Read) -> None:
    """Also if a tool has wrapped its methods. What the app asks, called by the same module, is."""
    driver = called_from("the_driver")
    driver(Driver().execute, "SELECT 1")
    assert read(catalogue.DB_DURATION) == {}
    driver(called_from("a_tool"), Driver().execute, "SELECT 1")
    assert read(catalogue.DB_DURATION) == {}
    driver(lambda: Driver().execute("SELECT 1"))

    assert read(catalogue.DB_DURATION) == {("postgresql", "SELECT", ""): 1}


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
async def test_a_stack_may_be_short(read: Read) -> None:
    """A thread or a task begins with the call."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(Driver().execute, "SELECT 1").result(10)
    await asyncio.create_task(Driver().fetch("SELECT 1"))

    assert read(catalogue.DB_DURATION) == {("postgresql", "SELECT", ""): 2}


@pytest.mark.anyio
async def test_a_hook_that_could_not_be_taken_out_does_nothing(hooks: Hooks, read: Read) -> None:
    """Somebody has wrapped it, and still calls it."""
    execute, fetch = Driver.execute, Driver.fetch
    hooks.undo()

    assert execute(Driver(), "SELECT 1") == "SELECT 1"
    assert await fetch(Driver(), "SELECT 1") == "SELECT 1"
    assert read(catalogue.DB_DURATION) == {}


@pytest.mark.anyio
@pytest.mark.usefixtures("contained_errors", "hooks")
@pytest.mark.parametrize("broken", ["enter", "leave"])
async def test_an_error_of_ours_stays_ours(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app gets its answer."""

    def fail(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(_statements, broken, fail)

    assert Driver().execute("SELECT 1") == "SELECT 1"
    assert await Driver().fetch("SELECT 1") == "SELECT 1"
    with pytest.raises(ZeroDivisionError):
        Driver().execute("FAIL")
