"""Functions that count themselves."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import cachebox
import cachetools
import pytest
from async_lru import alru_cache
from cashews import Cache

from fastobs import catalogue, watch
from fastobs.cells import Meters
from fastobs.probes import Kit, Probes
from fastobs.probes import functools as adapter
from fastobs.probes._names import Names
from tests.probes.contract import CacheContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]

SOURCE = """
import functools, json
from functools import cache, cached_property, lru_cache, wraps

@lru_cache(maxsize=2)
def double(number): return 2 * number

@cache
def endless(number): return number

class Prices:
    @lru_cache
    def of(self, item): return item

    @staticmethod
    @lru_cache
    def tax(item): return item

    @classmethod
    @lru_cache
    def all(cls): return 1

    @property
    @lru_cache
    def currency(self): return "EUR"

    class Old:
        @lru_cache
        def of(self, item): return item

    @cached_property
    @lru_cache
    def rate(self): return 1

    def __init__(self): self.mine = lru_cache(maxsize=5)(self._mine)
    def _mine(self, item): return item

prices = Prices()
loads = lru_cache(json.loads)
plain = len

def logged(function):
    @wraps(function)
    def call(*args): return function(*args)
    return call

@logged
@logged
@lru_cache
def wrapped(number): return number
"""


@pytest.fixture
def app_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """A module of the app's own."""
    module: Any = ModuleType("cached_app")
    module.__file__ = str(tmp_path / "cached_app.py")
    monkeypatch.setitem(sys.modules, "cached_app", module)
    exec(SOURCE, vars(module))
    return module


@pytest.fixture
def own(read: Read) -> Callable[..., dict[tuple[str, ...], float]]:
    """What is read of that module."""

    def own(metric: Any) -> dict[tuple[str, ...], float]:
        return {
            (key[0].removeprefix("cached_app."), *key[1:]): value
            for key, value in read(metric).items()
            if key[0].startswith("cached_app.")
        }

    return own


def test_cached_functions_of_the_apps_modules_are_found(
    app_module: Any, probes: Probes, own: Read
) -> None:
    """Functions, methods of every kind, properties, what an object holds, what is below other
    decorators, and others' functions that the app caches; each under the name that it is written with."""
    assert set(own(catalogue.CACHE_ENTRIES)) == {
        ("double",),
        ("endless",),
        ("Prices.of",),
        ("Prices.tax",),
        ("Prices.all",),
        ("Prices.currency",),
        ("Prices._mine",),
        ("Prices.Old.of",),
        ("Prices.rate",),
        ("loads",),
        ("wrapped",),
    }


def test_hits_misses_entries_and_limit_are_told(app_module: Any, probes: Probes, own: Read) -> None:
    """What the function counts. Without a limit none is told."""
    for number in (1, 1, 2, 3):
        app_module.double(number)
    app_module.endless(1)

    requests = own(catalogue.CACHE_REQUESTS)
    assert (requests["double", "hit"], requests["double", "miss"]) == (1, 3)
    assert own(catalogue.CACHE_ENTRIES)["double",] == 2
    limits = own(catalogue.CACHE_MAX)
    assert limits["double",] == 2
    assert ("endless",) not in limits


def test_what_cannot_be_known_is_absent(app_module: Any, probes: Probes, own: Read) -> None:
    """Misses are not loads: one that fails counts, too."""
    app_module.double(1)

    assert ("double", "hit") in own(catalogue.CACHE_REQUESTS)
    for metric in (catalogue.CACHE_EVICTIONS, catalogue.CACHE_LOAD, catalogue.CACHE_STAMPEDES):
        assert own(metric) == {}
    assert ("double", "error") not in own(catalogue.CACHE_REQUESTS)


def test_clearing_takes_nothing_back(app_module: Any, probes: Probes, own: Read) -> None:
    """The function begins at zero, the series goes on."""
    for _ in range(3):
        app_module.double(1)
    before = own(catalogue.CACHE_REQUESTS)["double", "hit"]
    app_module.double.cache_clear()
    cleared = own(catalogue.CACHE_REQUESTS)["double", "hit"]
    app_module.double(1)
    app_module.double(1)

    assert (before, cleared, own(catalogue.CACHE_REQUESTS)["double", "hit"]) == (2, 2, 3)


def test_what_was_cleared_and_has_counted_more_since_is_told(
    app_module: Any, probes: Probes, own: Read
) -> None:
    """One of its two numbers is less than before, and so both have begun at zero."""
    for number in (1, 2, 2):
        app_module.double(number)
    own(catalogue.CACHE_REQUESTS)
    app_module.double.cache_clear()
    for _ in range(4):
        app_module.double(1)

    requests = own(catalogue.CACHE_REQUESTS)
    assert (requests["double", "hit"], requests["double", "miss"]) == (1 + 3, 2 + 1)


def test_who_is_called_like_one_that_is_gone_counts_for_itself(probes: Probes, read: Read) -> None:
    """The series goes on with all that the new one has counted."""
    for _ in range(2):
        function = watch(functools.lru_cache(lambda: 1), name="c")
        for _ in range(5):
            function()
        read(catalogue.CACHE_REQUESTS)
        del function
        gc.collect()

    assert read(catalogue.CACHE_REQUESTS)["c", "hit"] == 8


def test_a_function_that_comes_later_is_found(app_module: Any, probes: Probes, own: Read) -> None:
    """In a module that was looked at before."""
    own(catalogue.CACHE_ENTRIES)
    exec("later = lru_cache(print)\n@cache\ndef last(): ...", vars(app_module))

    assert {("later",), ("last",)} <= set(own(catalogue.CACHE_ENTRIES))


def test_an_imported_cached_function_is_not_the_apps(
    app_module: Any, probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an installed library caches for itself is not shown because the app imports it."""
    monkeypatch.setattr(json, "cached", functools.lru_cache(json.dumps), raising=False)
    json.cached.__qualname__ = "cached"  # type: ignore[attr-defined]
    app_module.cached = json.cached  # type: ignore[attr-defined]

    assert not {key for key in read(catalogue.CACHE_ENTRIES) if "cached_app.cached" in key[0]}


@pytest.mark.anyio
async def test_async_lru_is_asked_like_it(probes: Probes, read: Read) -> None:
    """Without a task of ours."""

    @alru_cache(maxsize=3)
    async def double(number: int) -> int:
        return 2 * number

    watch(double, name="a")
    for number in (1, 1, 2):
        await double(number)

    requests = read(catalogue.CACHE_REQUESTS)
    assert (requests["a", "hit"], requests["a", "miss"]) == (1, 2)
    assert read(catalogue.CACHE_ENTRIES)["a",] == 2
    assert read(catalogue.CACHE_MAX)["a",] == 3
    assert "  a: cached function (async_lru)" in probes.status()


@pytest.mark.anyio
async def test_a_forked_child_asks_nobody_who_may_have_a_lock(probes: Probes, read: Read) -> None:
    """A thread of its parent may hold that for ever; so what such a function has counted before is told."""

    @alru_cache
    async def double(number: int) -> int:
        return 2 * number

    watch(double, name="a")
    await double(1)
    probes.begin_anew()
    await double(1)

    requests = read(catalogue.CACHE_REQUESTS)
    assert (requests["a", "hit"], requests["a", "miss"]) == (1, 1)


def test_cachebox_is_asked_like_it(probes: Probes, read: Read) -> None:
    """A limit that may be one of bytes, or is none, is not told as one of entries."""

    def cached(cache: Any, name: str) -> Any:
        return watch(cachebox.cached(cache)(lambda number: number), name=name)

    sized: Any = cachebox.LRUCache(100, getsizeof=lambda key, value: 10)
    plain, endless, heavy = (
        cached(cache, name)
        for cache, name in (
            (cachebox.LRUCache(2), "plain"),
            (cachebox.Cache(0), "endless"),
            (sized, "heavy"),
        )
    )
    for number in (1, 1, 2):
        for function in (plain, endless, heavy):
            function(number)

    requests = read(catalogue.CACHE_REQUESTS)
    assert (requests["plain", "hit"], requests["plain", "miss"]) == (1, 2)
    assert {
        key: n for key, n in read(catalogue.CACHE_MAX).items() if key[0] in "plain endless heavy"
    } == {("plain",): 2}
    assert read(catalogue.CACHE_ENTRIES)["heavy",] == 2
    assert "  plain: cached function (cachebox)" in probes.status()


def test_a_cache_of_cachebox_that_is_used_by_hand_has_a_line(
    app_module: Any, probes: Probes
) -> None:
    """It cannot be watched; one behind a cached function is."""
    app_module.users, app_module.prices = cachebox.LRUCache(2), cachebox.LRUCache(2)
    app_module.price = cachebox.cached(app_module.prices)(lambda number: number)
    watch(app_module.price, name="price")

    _, _, missing = probes.status().partition("found, but not watched")
    assert 'probe = fastobs.cache("cached_app.users")' in missing
    assert "cached_app.prices" not in missing


def test_a_closure_is_watched_by_hand(probes: Probes, read: Read) -> None:
    """It is called as it is written, or as the user says; gone, it is not shown."""

    def make() -> Any:
        return functools.lru_cache(lambda: 1)

    function, unnamed = make(), make()
    watch(function, name="c")
    watch(function, name="c")
    watch(unnamed)
    names = {key[0] for key in read(catalogue.CACHE_ENTRIES)}
    written = f"{__name__}.test_a_closure_is_watched_by_hand.<locals>.make.<locals>.<lambda>"
    assert {"c", written} <= names

    del function, unnamed
    gc.collect()
    assert not {"c", written} & {key[0] for key in read(catalogue.CACHE_ENTRIES)}


def test_functions_of_cachetools_are_its_adapters(probes: Probes, read: Read) -> None:
    """They count in the same way, and are counted once."""
    cached: Any = cachetools.cached
    function = watch(cached({}, info=True)(str), name="t")
    function(1)

    names = {key[0] for key in read(catalogue.CACHE_ENTRIES)}
    assert {name for name in names if name.partition("#")[0] == "t"} == {"t"}
    assert "  t: cachetools" in probes.status()


class Shy:
    """A proxy that fails when it is asked anything, like those of Werkzeug outside of a request."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_proxies_in_modules_and_classes_are_not_asked(
    app_module: Any, probes: Probes, own: Read
) -> None:
    """Then the functions beside them are found all the same."""
    app_module.shy = app_module.Prices.shy = Shy()

    assert ("double",) in own(catalogue.CACHE_ENTRIES)


@pytest.mark.anyio
async def test_a_cache_within_another_librarys_cache_is_the_second_of_that_name(
    app_module: Any, probes: Probes, own: Read
) -> None:
    """As of memory before Redis; who is asked first has the name, in every worker."""
    cache = Cache()
    cache.setup("mem://")

    @app_module.logged
    @cache(ttl="1m", key="{number}")
    @alru_cache
    async def both(number: int) -> int:
        return number

    layer: Any = both
    while layer is not None:
        layer.__module__, layer.__qualname__ = "cached_app", "both"
        layer = getattr(layer, "__wrapped__", None)
    app_module.both = both
    requests = own(catalogue.CACHE_REQUESTS)
    assert ("both", "hit") not in requests
    for _ in range(3):
        await both(1)

    requests = own(catalogue.CACHE_REQUESTS)
    assert (requests["both", "hit"], requests["both", "miss"]) == (2, 1)
    assert (requests["both#2", "hit"], requests["both#2", "miss"]) == (0, 1)
    await cache.close()


def test_what_is_none_is_no_cache(app_module: Any, meters: Meters) -> None:
    """Every module has something that is None."""
    for name in [*vars(app_module)]:
        if not name.startswith("__"):
            delattr(app_module, name)
    app_module.unset = None
    one = adapter.CachedFunctions(Kit(meters=meters, names=Names(), look=lambda: None))
    list(one.status())

    assert not [name for name in one._mute if name.startswith("cached_app.")]


def test_what_is_below_a_decorator_can_be_watched(
    app_module: Any, probes: Probes, read: Read
) -> None:
    """Handed over as the app has it. An import that hides a cached function is not the app's."""
    watch(app_module.wrapped, name="below")
    hidden = app_module.logged(functools.lru_cache(json.dumps))
    hidden.__module__ = hidden.__wrapped__.__module__
    app_module.hidden = hidden

    found = read(catalogue.CACHE_ENTRIES)
    assert ("below",) in found
    assert not [key for key in found if "hidden" in key[0] or "dumps" in key[0]]


def test_a_function_that_says_to_be_around_itself_is_none_of_ours(probes: Probes) -> None:
    """Nobody looks for ever."""

    def endless() -> None: ...

    endless.__wrapped__ = endless  # type: ignore[attr-defined]

    with pytest.raises(TypeError, match="cannot watch"):
        watch(endless)


def test_what_does_not_count_is_none_of_ours(probes: Probes) -> None:
    """Not a plain function, nor one that says yes to everything."""
    assert not adapter._counts_itself(Mock())
    for obj in (len, test_what_does_not_count_is_none_of_ours, 1):
        with pytest.raises(TypeError, match="a function with lru_cache"):
            watch(obj)


def test_a_function_may_go_while_it_is_asked() -> None:
    """Then there is nothing to tell."""
    cached = adapter.CachedFunctions(Kit(meters=Meters(), names=Names(), look=lambda: None))
    entry = cached._entry(functools.lru_cache(lambda: 1), "x")
    gc.collect()
    cached._entries[1] = entry

    assert list(cached._readings(entry)) == []
    assert "x" not in dict(cached.status())


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    gc.collect()


loading: list[Callable[[], Any]] = []


class TestContract(CacheContract, Named):
    """lru_cache, which counts itself, and has done so before."""

    row = ("functools", ".functools")
    part = ""
    hooks = loads = False
    since = 1

    def found(self, variable: str) -> str:
        """It is called as it is declared."""
        return f"{__name__}.TestContract.made.<locals>.function"

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        @functools.lru_cache
        def function(key: str) -> str:
            loading[-1]()
            return "value"

        yield function

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        loading.append(load)
        return it(key)
