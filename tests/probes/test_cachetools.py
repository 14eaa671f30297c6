"""Caches of cachetools."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from inspect import signature
from threading import Lock, Thread
from types import MethodType
from typing import Any

import cachetools
import pytest
from cachetools import Cache, FIFOCache, LFUCache, LRUCache, RRCache, TLRUCache, TTLCache

from fastobs import catalogue, watch
from fastobs.cells import Meters
from fastobs.probes import Kit, Probes
from fastobs.probes import cachetools as adapter
from fastobs.probes._names import Names
from tests.probes.contract import CacheContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]

KINDS: dict[str, Callable[[], Any]] = {
    "Cache": lambda: Cache(2),
    "FIFOCache": lambda: FIFOCache(2),
    "LFUCache": lambda: LFUCache(2),
    "LRUCache": lambda: LRUCache(2),
    "RRCache": lambda: RRCache(2),
    "TTLCache": lambda: TTLCache(2, ttl=60),
    "TLRUCache": lambda: TLRUCache(2, ttu=lambda key, value, now: now + 60),
}


OWN = ("c", "bytes", "endless", "cachetools LRUCache", "shop", "shop#2", "renamed")
"""What caches are called here, if not after a variable of this module."""


@pytest.fixture
def read(read: Read) -> Read:
    """Without what other modules of tests cache for themselves: that is in the process, too."""

    def own(metric: catalogue.Metric) -> dict[tuple[str, ...], float]:
        return {
            key: value
            for key, value in read(metric).items()
            if key[0] in OWN or key[0].startswith(f"{__name__}.")
        }

    return own


def counts(read: Read, name: str = "c") -> tuple[float, float, float]:
    """Hits, misses and evictions."""
    requests = read(catalogue.CACHE_REQUESTS)
    evictions = read(catalogue.CACHE_EVICTIONS).get((name,), 0)
    return requests[name, "hit"], requests[name, "miss"], evictions


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cache_is_counted(kind: str, probes: Probes, read: Read) -> None:
    """Look-ups by index and get(), what had to make room, what is in it and what fits."""
    cache = watch(KINDS[kind](), name="c")
    with pytest.raises(KeyError):
        cache["a"]
    assert cache.get("a") is None
    for key in "abc":
        cache[key] = key
    assert cache["c"] == cache.get("c") == "c"

    assert counts(read) == (2, 2, 1)
    assert read(catalogue.CACHE_ENTRIES) == {("c",): 2}
    assert read(catalogue.CACHE_MAX) == {("c",): 2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_watched_cache_is_still_what_it_was(kind: str, probes: Probes) -> None:
    """Its copies and pickles are plain, and do not count for it; detached, so is it."""
    plain = KINDS[kind]()
    base = type(plain)
    cache = watch(plain, name="c")
    cache["a"] = 1

    assert cache is plain
    assert isinstance(cache, base)
    assert repr(cache).startswith(f"{base.__name__}(")
    doubles = [copy.deepcopy(cache)]
    if hasattr(base, "__copy__"):
        # Before cachetools had it, a copy shared its entries.
        doubles.append(copy.copy(cache))
    if kind != "TLRUCache":
        doubles += [pickle.loads(pickle.dumps(cache, protocol)) for protocol in range(6)]
    for double in doubles:
        assert type(double) is base
        assert dict(double) == {"a": 1}
        double["b"] = 2
    assert "b" not in cache
    assert type(copy.copy(cache)) is base

    probes.detach()
    assert type(cache) is base
    assert cache["a"] == 1


def test_what_is_no_look_up_of_the_apps_is_not_counted(probes: Probes, read: Read) -> None:
    """Removing, setting a default, clearing and emptying are not asking."""
    cache: Any = watch(LRUCache(2), name="c")
    cache.setdefault("a", 1)
    cache.setdefault("a", 2)
    cache.setdefault("b", 2)
    cache.pop("a")
    cache.pop("z", None)
    cache.clear()

    assert counts(read) == (0, 0, 0)


def test_what_has_every_attribute_is_no_cached_function(probes: Probes) -> None:
    """As a database of pymongo has, whose attributes are its collections."""

    class Obliging:
        def __getattr__(self, name: str) -> Any:
            return self

    with pytest.raises(TypeError, match="fastobs cannot watch"):
        watch(Obliging())


@pytest.mark.parametrize("kind", KINDS)
def test_who_goes_through_all_of_it_asks_for_nothing(kind: str, probes: Probes, read: Read) -> None:
    """Its items and values are what they were, and comparing it with others takes all of them."""
    plain, cache = KINDS[kind](), watch(KINDS[kind](), name="c")
    for each in (plain, cache):
        each["a"], each["b"] = 1, 2

    for views in zip((plain.items(), plain.values()), (cache.items(), cache.values()), strict=True):
        before, after = views
        assert type(after) is type(before)
        assert (list(after), len(after), repr(after)) == (list(before), len(before), repr(before))
    assert ("a", 1) in cache.items()
    assert cache.items() & {("b", 2)} == {("b", 2)}
    assert 2 in cache.values()
    assert cache == plain == dict(cache.items())
    assert counts(read) == (0, 0, 0)


def test_items_of_its_own_are_left_to_the_cache(probes: Probes) -> None:
    """A subclass may mean something else by it."""

    class Own(LRUCache):  # type: ignore[type-arg]
        def items(self) -> Any:
            return "items"

        def values(self) -> Any:
            return "values"

    cache: Any = watch(Own(2), name="c")

    assert (cache.items(), cache.values()) == ("items", "values")


def test_caches_of_classes_and_of_their_methods_are_found(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are called after both."""
    cached: Any = cachetools.cached

    class Repository:
        names = LRUCache(2)  # type: ignore[var-annotated]

        @cached(LRUCache(2))
        def load(self, key: str) -> str:
            return key

    Repository.__qualname__ = "Repository"
    monkeypatch.setattr(sys.modules[__name__], "Repository", Repository, raising=False)
    probes.discover()
    Repository().load("a")
    Repository.names.get("a")

    assert counts(read, f"{__name__}.Repository.load") == (0, 1, 0)
    assert counts(read, f"{__name__}.Repository.names") == (0, 1, 0)


def test_a_membership_test_is_a_look_up_only_if_it_fails(probes: Probes, read: Read) -> None:
    """If it succeeds, the look-up that follows is the hit."""
    cache: Any = watch(LRUCache(2), name="c")
    cache["a"] = 1
    for key in ("a", "b"):
        if key in cache:
            cache[key]

    assert counts(read) == (1, 1, 0)


def test_reading_back_what_was_loaded_is_no_hit(probes: Probes, read: Read) -> None:
    """``if key not in cache: cache[key] = ...`` and then ``cache[key]`` is one look-up."""
    cache: Any = watch(LRUCache(9), name="c")

    def load(key: str) -> Any:
        if key not in cache:
            cache[key] = key
        return cache[key]

    assert [load(key) for key in "aab"] == ["a", "a", "b"]
    assert counts(read) == (1, 2, 0)


def test_a_cache_that_asks_itself_reads_back_all_the_same(probes: Probes, read: Read) -> None:
    """As those of cachetools 5 do in each look-up."""

    class Asking(LRUCache):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            value = super().__getitem__(key)
            assert key in self
            return value

    cache: Any = watch(Asking(9), name="c")
    for key in "aa":
        if key not in cache:
            cache[key] = key
        cache[key]

    assert counts(read) == (1, 1, 0)


def test_what_was_loaded_and_not_read_back_is_hit_by_the_next(probes: Probes, read: Read) -> None:
    """``get()`` and ``in`` begin another look-up; keys that nobody loads are not kept for ever."""
    cache: Any = watch(LRUCache(9), name="c")

    def load(key: str) -> Any:
        value = cache.get(key)
        if value is None:
            cache[key] = value = key
        return value

    assert [load(key) for key in "aab"] == ["a", "a", "b"]
    assert [key in cache for key in range(2 * adapter.REMEMBERED)].count(True) == 0
    assert load("b") == cache["b"] == "b"
    assert counts(read) == (3, 2 + 2 * adapter.REMEMBERED, 0)


def test_expired_entries_are_misses_but_no_evictions(probes: Probes, read: Read) -> None:
    """They did not make room for anything."""
    now = [0.0]
    cache: Any = watch(TTLCache(2, ttl=1, timer=lambda: now[0]), name="c")
    cache["a"] = 1
    now[0] = 5.0
    held = read(catalogue.CACHE_ENTRIES)
    cache.get("a")
    cache["b"] = 1

    assert held == {("c",): 1}
    assert counts(read) == (0, 1, 0)
    assert read(catalogue.CACHE_ENTRIES) == {("c",): 1}


def test_a_cache_that_loads_what_is_missing_misses_all_the_same(probes: Probes, read: Read) -> None:
    """With __missing__ a look-up always gives a value."""

    class Loading(LRUCache):  # type: ignore[type-arg]
        def __missing__(self, key: Any) -> Any:
            self[key] = key
            return key

    cache: Any = watch(Loading(2), name="c")

    assert [cache["a"], cache["a"], cache["b"]] == ["a", "a", "b"]
    assert counts(read) == (1, 2, 0)


def test_clearing_an_old_kind_of_cache_evicts_nothing(probes: Probes, read: Read) -> None:
    """Before cachetools 8 a cache was cleared by taking out one entry after the other."""

    class Old(LRUCache):  # type: ignore[type-arg]
        clear = MutableMapping.clear

    cache: Any = watch(Old(2), name="c")
    for key in "abc":
        cache[key] = key
    cache.clear()

    assert counts(read) == (0, 0, 1)
    assert len(cache) == 0


def test_sizes_of_entries_are_no_number_of_entries(probes: Probes, read: Read) -> None:
    """A limit in bytes, or none at all, is not shown as one."""
    weighed: Any = watch(LRUCache(1000, getsizeof=len), name="bytes")
    endless: Any = watch(LRUCache(float("inf")), name="endless")
    endless["a"] = 1

    assert read(catalogue.CACHE_MAX) == {}
    assert read(catalogue.CACHE_ENTRIES) == {("bytes",): 0, ("endless",): 1}
    del weighed


@pytest.mark.parametrize("lock", [None, Lock()])
@pytest.mark.parametrize("info", [False, True])
def test_a_cached_function_is_counted(lock: Any, info: bool, probes: Probes, read: Read) -> None:
    """With or without a lock, which makes cachetools look twice, and whether or not it counts itself."""

    cached: Any = cachetools.cached

    @cached(LRUCache(2), lock=lock, info=info)
    def double(number: int) -> int:
        return 2 * number

    watch(double, name="c")
    for number in (1, 1, 2, 3):
        double(number)

    assert counts(read) == (1, 3, 1)


def test_a_function_over_a_plain_mapping_counts_itself(probes: Probes, read: Read) -> None:
    """If it was told to. Clearing it does not take back what was counted."""
    cached: Any = cachetools.cached

    @cached({}, info=True)
    def double(number: int) -> int:
        return 2 * number

    watch(double, name="c")
    for number in (1, 1, 2):
        double(number)
    before = counts(read)
    double.cache_clear()
    double(1)

    assert (before, counts(read)) == ((1, 2, 0), (1, 3, 0))
    assert read(catalogue.CACHE_ENTRIES) == {("c",): 1}
    assert read(catalogue.CACHE_MAX) == {}


TOLD = {"info": True} if "info" in signature(cachetools.cachedmethod).parameters else {}
"""Of methods only newer releases count themselves."""
cachedmethod: Any = cachetools.cachedmethod


class Shelf:
    """Its methods are cached in what it is given."""

    def __init__(self, cache: Any) -> None:
        self.store = cache

    @cachedmethod(lambda shelf: shelf.store)
    def plain(self, number: int) -> int:
        return 2 * number

    @cachedmethod(lambda shelf: shelf.store, **TOLD)
    def counting(self, number: int) -> int:
        return 2 * number


@pytest.mark.parametrize("method", ["plain", "counting"])
def test_a_cached_method_is_counted(method: str, probes: Probes, read: Read) -> None:
    """By the cache of its object, whether or not it counts itself; all methods over it are one cache."""
    shelf = Shelf(LRUCache(2))
    watch(getattr(shelf, method), name="c")
    for number in (1, 1, 2, 3):
        getattr(shelf, method)(number)
    shelf.plain(3)

    assert counts(read) == (2, 3, 1)
    assert read(catalogue.CACHE_MAX) == {("c",): 2}


def test_an_old_kind_of_cached_method_is_counted(probes: Probes, read: Read) -> None:
    """It was a function that asked for the cache of its object; a plain mapping told nothing."""

    def get(shelf: Shelf) -> Any:
        return shelf.store.get(1)

    old: Any = get
    old.cache, old.cache_key = (lambda shelf: shelf.store), str
    shelf = Shelf(LRUCache(2))
    watch(MethodType(old, shelf), name="c")
    old(shelf)

    assert counts(read) == (0, 1, 0)
    with pytest.raises(TypeError, match="cannot watch"):
        watch(MethodType(old, Shelf({})))


@pytest.mark.skipif(not TOLD, reason="this release counts no methods")
def test_a_method_over_a_plain_mapping_counts_itself(
    module: Any, probes: Probes, read: Read
) -> None:
    """If it was told to; it is found after its first use, and goes with its object."""
    module.a_shelf = Shelf({})
    for number in (1, 1, 2):
        module.a_shelf.counting(number)
    module.a_shelf.plain(1)
    status = probes.status()

    name = f"{__name__}.a_shelf"
    requests = read(catalogue.CACHE_REQUESTS)
    assert (requests[f"{name}.counting", "hit"], requests[f"{name}.counting", "miss"]) == (1, 2)
    assert f"  {name}.plain: write @cachedmethod(..., info=True), then it counts" in status

    del module.a_shelf
    gc.collect()
    assert read(catalogue.CACHE_ENTRIES) == {}


def test_status_says_what_to_write(probes: Probes, read: Read) -> None:
    """For what was found and cannot be watched as it is."""

    @cachetools.cached({})
    def double(number: int) -> int:
        return 2 * number

    class Final(LRUCache):  # type: ignore[type-arg]
        def __init_subclass__(cls) -> None:
            raise TypeError

    watch(double, name="doubles")
    final: Any = watch(Final(2), name="final")
    good: Any = watch(LRUCache(2), name="good")

    status = probes.status()
    assert "  good: cachetools LRUCache" in status
    assert "  doubles: write @cached(..., info=True), then it counts" in status
    assert "  final: its class cannot be extended; use fastobs.cache(name) around it" in status
    assert ("final", "hit") not in read(catalogue.CACHE_REQUESTS)
    del final, good


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module: Any = sys.modules[__name__]
    yield module
    for name in ("a_cache", "a_function", "another", "a_shelf"):
        if hasattr(module, name):
            delattr(module, name)


def test_variables_are_found_with_their_names(module: Any, probes: Probes, read: Read) -> None:
    """A cache that is in a variable and behind a function is one cache."""
    module.a_cache = LRUCache(2)
    module.a_function = cachetools.cached(module.a_cache)(str)
    module.another = cachetools.cached(LRUCache(3))(str)
    probes.discover()
    module.a_function(1)

    assert set(read(catalogue.CACHE_MAX)) == {
        (f"{__name__}.a_cache",),
        (f"{__name__}.another",),
    }
    assert counts(read, f"{__name__}.a_cache") == (0, 1, 0)


def test_what_was_handed_over_before_an_app_is_counted_once_there_is_one(
    attach: Callable[..., Probes], read: Read
) -> None:
    """watch() may come first; a name that is taken later is taken up."""
    cache: Any = watch(LRUCache(2))
    cache.get("a")
    assert type(cache) is LRUCache
    attach()
    cache.get("a")

    assert counts(read, "cachetools LRUCache") == (0, 1, 0)
    watch(cache, name="c")
    watch(cache, name="c")
    assert set(read(catalogue.CACHE_MAX)) == {("c",)}


def test_a_cache_that_is_gone_is_not_shown(probes: Probes, read: Read) -> None:
    """Watching keeps nothing alive."""
    cache: Any = watch(LRUCache(2), name="c")
    assert read(catalogue.CACHE_MAX) == {("c",): 2}
    del cache
    gc.collect()

    assert read(catalogue.CACHE_MAX) == {}
    probes.detach()


def test_a_cache_may_go_while_it_is_asked(probes: Probes) -> None:
    """Then there is nothing to tell, and nothing to restore."""
    entry = adapter.Entry(LRUCache(2))
    gc.collect()
    tools = adapter.CacheTools(Kit(meters=Meters(), names=Names(), look=lambda: None))
    entry.swap()
    entry.base = LRUCache
    entry.restore()

    assert list(tools._readings(entry)) == []


def test_threads_do_not_disturb_each_others_counts(probes: Probes, read: Read) -> None:
    """What one thread does quietly is not another one's silence."""
    cache: Any = watch(LRUCache(10), name="c")
    inside, go_on = Lock(), Lock()
    inside.acquire()
    go_on.acquire()

    class Key:
        def __hash__(self) -> int:
            if inside.locked():
                inside.release()
                go_on.acquire()
            return 1

    thread = Thread(target=cache.setdefault, args=(Key(), 1))
    thread.start()
    inside.acquire()
    cache.get("a")
    inside.acquire(blocking=False)
    inside.release()
    go_on.release()
    thread.join()

    assert counts(read) == (0, 1, 0)


def test_a_function_that_is_not_cached_is_none_of_ours(probes: Probes) -> None:
    """Functions are looked at, since before cachetools 8 a cached one is a function."""
    probe = adapter.probe(Kit(meters=Meters(), names=Names(), look=lambda: None))
    probe.found(counts, "counts")

    assert not probe.watch(counts, None)
    assert list(probe.status()) == []


class TestContract(CacheContract, Named):
    """cachetools."""

    row = ("cachetools", ".cachetools")
    part = ""
    loads = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield TTLCache(10, 60)

    def marks(self, it: Any) -> object:
        return type(it)

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        try:
            return it[key]
        except KeyError:
            load()
            it[key] = "value"
            return "value"
