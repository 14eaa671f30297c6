"""A cache that never hits is told of once."""

from __future__ import annotations

from typing import Any

import pytest

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes import _never
from fastobs.probes._never import MISSES, SECONDS, Judge
from tests.driving import Clock

HERE = "tests/probes/test_never.py"


class Cache:
    """Counts, and is judged after each load."""

    def __init__(self) -> None:
        meters = Meters()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.clock = Clock()
        self.judge = Judge("users", self.lines.append, self.clock)
        self.hits = meters.counter(catalogue.CACHE_REQUESTS, "users", "hit")
        self.misses = meters.counter(catalogue.CACHE_REQUESTS, "users", "miss")

    def loads(self) -> None:
        self.misses.add()
        if not self.judge.over:
            self.judge.look(self.hits, self.misses)


def test_what_misses_for_a_while_and_never_hits_has_a_line() -> None:
    """With the line of the app, and once."""
    cache = Cache()
    for _ in range(2 * MISSES):
        cache.loads()
        cache.clock.now += SECONDS / MISSES

    ((level, fields),) = cache.lines
    assert level == "warning"
    assert (fields["event"], fields["cache"], fields["route"]) == ("cache_never_hits", "users", "")
    assert fields["misses"] >= MISSES
    assert fields["at"]


def test_a_cache_that_is_empty_yet_has_none() -> None:
    """All its first look-ups miss."""
    cache = Cache()
    for _ in range(10 * MISSES):
        cache.loads()
    assert cache.lines == []
    cache.hits.add()
    cache.clock.now += 2 * SECONDS
    cache.loads()

    assert cache.judge.over
    assert cache.lines == []


def test_a_look_up_long_before_the_others_says_nothing_about_them() -> None:
    """One when the app starts, and then the first rush: that was told of the shop's products."""
    cache = Cache()
    cache.loads()
    cache.clock.now += 10 * SECONDS
    for _ in range(2 * MISSES):
        cache.loads()

    assert cache.lines == []


def test_few_look_ups_are_no_reason() -> None:
    """However long it takes."""
    cache = Cache()
    for _ in range(MISSES - 1):
        cache.loads()
        cache.clock.now += SECONDS

    assert cache.lines == []


def test_the_line_is_the_one_that_asks_and_not_that_of_the_cache() -> None:
    """A cache of the app's has a file of its own; without another there is only that."""

    class Alone:
        def loads(self) -> None:
            found.append(_never._asked_from())

    found: list[str] = []
    source = "def get(load):\n    return load()\n"
    module: dict[str, Any] = {"__name__": "shop.cache"}
    exec(compile(source, "/x/shop/cache.py", "exec"), module)
    module["get"](lambda: None)
    asked: dict[str, Any] = {"__name__": "shop.orders", "get": module["get"]}
    exec(compile("def order(load):\n    return get(load)\n", "/x/shop/orders.py", "exec"), asked)
    asked["order"](_never._asked_from)
    found.append(asked["order"](_never._asked_from))
    Alone().loads()

    assert found[0] == "shop/orders.py:2"
    assert found[1]


def test_without_a_line_of_the_app_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework may ask by itself; and a stack has an end."""
    monkeypatch.setattr(_never, "call_site", lambda inner=0: None)
    assert _never._asked_from() == ""


def test_a_cache_that_is_asked_by_its_own_file_alone_has_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is nobody else."""

    def site(inner: int = 0) -> Any:
        if inner > 3:
            raise ValueError
        return {"__name__": "shop.cache"}, compile("1", "/x/shop/cache.py", "exec"), 0

    monkeypatch.setattr(_never, "call_site", site)
    assert _never._asked_from().startswith("shop/cache.py:")
