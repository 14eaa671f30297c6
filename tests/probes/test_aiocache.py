"""Caches of aiocache."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiocache import SimpleMemoryCache, cached, cached_stampede, caches, multi_cached
from aiocache.base import BaseCache
from aiocache.plugins import HitMissRatioPlugin
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastobs import catalogue, watch
from fastobs.probes import Probes
from fastobs.probes import aiocache as adapter
from tests.probes.contract import SECRET, CacheContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]
pytestmark = pytest.mark.anyio


def counts(read: Read, name: str = "c") -> tuple[float, float, float]:
    """Hits, misses and errors."""
    requests = read(catalogue.CACHE_REQUESTS)
    return requests[name, "hit"], requests[name, "miss"], requests[name, "error"]


def loads(read: Read, name: str = "c") -> tuple[float, float]:
    """Loads and stampedes."""
    return read(catalogue.CACHE_LOAD)[name,], read(catalogue.CACHE_STAMPEDES)[name,]


async def test_look_ups_by_hand_are_counted(probes: Probes, read: Read) -> None:
    """One by one and many at once, by position and by keyword; entries of memory are told."""
    cache = watch(SimpleMemoryCache(), name="c")
    assert await cache.get("a") is None
    assert await cache.get("a", 5) == 5
    assert await cache.get(key="a", default=6) == 6
    await cache.set("a", 1)
    await cache.multi_set([("b", 2)])
    assert await cache.get("a") == 1
    assert await cache.multi_get(["a", "b", "c"]) == [1, 2, None]
    assert await cache.multi_get(keys=iter(["a", "z"])) == [1, None]

    assert counts(read) == (4, 5, 0)
    assert read(catalogue.CACHE_ENTRIES)["c",] == 2
    assert "  c: aiocache SimpleMemoryCache" in probes.status()


async def test_a_value_that_is_missed_and_then_stored_was_loaded(
    probes: Probes, read: Read
) -> None:
    """What is missed and never stored was not; what is stored without a miss was not, either."""
    cache = watch(SimpleMemoryCache(), name="c")
    await cache.get("a")
    await cache.get("never")
    await cache.multi_get(["b", "never"])
    await cache.set(key="a", value=1)
    await cache.set("a", 2)
    await cache.multi_set(pairs=[("b", 2), ("x", 3)])

    assert loads(read) == (2, 0)


class Down(SimpleMemoryCache):  # type: ignore[misc]
    async def _get(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError

    _multi_get = _get


async def test_a_backend_that_fails_is_an_error(probes: Probes, read: Read) -> None:
    """Neither hit nor miss, and the app's to handle."""
    cache = watch(Down(), name="c")
    with pytest.raises(ConnectionError):
        await cache.get("a")
    with pytest.raises(ConnectionError):
        await cache.multi_get(["a", "b"])

    assert counts(read) == (0, 0, 2)


async def test_a_decorated_function_is_counted_by_its_name(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a cache of its own; five at once on a cold key are four too many."""
    go = asyncio.Event()

    @cached()
    async def double(number: int) -> int:
        await go.wait()
        return 2 * number

    module = __import__(__name__, fromlist=["x"])
    monkeypatch.setattr(module, "double", double, raising=False)
    tasks = [asyncio.ensure_future(double(1)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    assert await double(1) == 2

    assert counts(read, f"{__name__}.double") == (1, 5, 0)
    assert loads(read, f"{__name__}.double") == (5, 4)


async def test_a_store_in_the_background_is_a_load(probes: Probes, read: Read) -> None:
    """In a task of its own; and it is one load, whoever stores again."""

    @cached()
    async def double(number: int) -> int:
        return 2 * number

    watch(double, name="c")
    before = asyncio.all_tasks()
    await double(1, aiocache_wait_for_write=False)
    await asyncio.gather(*asyncio.all_tasks() - before)
    await double.cache.set("x", 1)

    assert loads(read) == (1, 0)


async def test_a_function_that_fails_was_not_loaded(probes: Probes, read: Read) -> None:
    """Nothing was stored."""

    @cached()
    async def fail() -> None:
        raise ValueError

    watch(fail, name="c")
    with pytest.raises(ValueError):
        await fail()
    with pytest.raises(ValueError):
        await fail()

    assert counts(read) == (0, 2, 0)
    assert loads(read) == (0, 0)


async def test_a_guarded_function_looks_twice_and_is_counted_once(
    probes: Probes, read: Read
) -> None:
    """@cached_stampede: one loads, the others wait and hit; look-ups within are the other cache's."""
    inner = watch(SimpleMemoryCache(), name="inner")
    go = asyncio.Event()

    @cached_stampede(lease=5)
    async def double(number: int) -> int:
        await inner.get("a")
        await double.cache.get("b")
        await go.wait()
        return 2 * number

    watch(double, name="c")
    tasks = [asyncio.ensure_future(double(1)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)

    assert counts(read) == (2, 2, 0)
    assert counts(read, "inner") == (0, 1, 0)
    assert loads(read) == (1, 0)


async def test_many_keys_of_a_decorated_function(probes: Probes, read: Read) -> None:
    """@multi_cached asks for all, loads what is missing and stores it at once."""

    @multi_cached(keys_from_attr="ids")
    async def users(ids: list[str]) -> dict[str, int]:
        return {one: len(one) for one in ids}

    watch(users, name="c")
    await users(ids=["a", "bb"])
    await users(ids=["a", "ccc"])

    assert counts(read) == (1, 3, 0)
    assert loads(read) == (3, 0)


async def test_plugins_see_what_they_always_saw(probes: Probes) -> None:
    """Arguments are handed on as they came."""
    cache = watch(SimpleMemoryCache(plugins=[HitMissRatioPlugin()]), name="c")
    await cache.get("a")
    await cache.set("a", 1)
    await cache.get("a")

    assert cache.hit_miss_ratio == {"total": 2, "hits": 1, "hit_ratio": 0.5}


async def test_a_cache_in_no_variable_has_a_name_all_the_same(probes: Probes, read: Read) -> None:
    """What it is; the name that is given later is taken up, keys are never in one."""
    cache = SimpleMemoryCache()
    await cache.get("user:bob")
    assert watch(cache) is cache
    await cache.get("user:bob")
    watch(cache, name="late")
    await cache.get("user:bob")

    assert counts(read, "aiocache SimpleMemoryCache") == (0, 2, 0)
    assert counts(read, "late") == (0, 1, 0)
    assert "bob" not in str(read(catalogue.CACHE_REQUESTS))


async def test_a_cache_with_an_alias_is_called_so(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no variable, and also behind functions, of which several may share it."""
    before = caches.get_config()
    caches.set_config(
        {alias: {"cache": "aiocache.SimpleMemoryCache"} for alias in ("default", "prices")}
    )

    @cached(alias="prices")
    async def price(item: int) -> int:
        return item

    module = __import__(__name__, fromlist=["x"])
    monkeypatch.setattr(module, "price", price, raising=False)
    probes.discover()
    await price(1)
    await caches.get("default").get("key")

    assert counts(read, "prices") == counts(read, "default") == (0, 1, 0)
    assert "\n  prices: aiocache SimpleMemoryCache" in probes.status()
    caches.set_config(before)


def test_its_time_is_a_part_of_the_request(observed: Callable[..., Any], read: Read) -> None:
    """And what is in app.state has a name from there."""
    app = FastAPI()
    app.state.cache = SimpleMemoryCache()
    module: Any = __import__(__name__, fromlist=["x"])
    module.app = app

    @app.get("/items")
    async def items() -> Any:
        return await app.state.cache.get("a")

    observed(app)
    with TestClient(app) as client:
        client.get("/items")
    del module.app

    assert read(catalogue.HTTP_PART)["/items", "cache"] > 0
    assert counts(read, f"{__name__}.app.state.cache") == (0, 1, 0)


@pytest.mark.usefixtures("contained_errors")
async def test_an_error_of_ours_stays_ours(probes: Probes, read: Read) -> None:
    """The value is handed on, and the error is counted."""
    probe: Any = next(p for p in probes._attached.values() if isinstance(p, adapter.AioCache))
    probe._caches.tally = probe._loads.stored = None
    cache = SimpleMemoryCache()
    assert await cache.set("a", 1) is True
    assert await cache.get("a") == 1
    with pytest.raises(ConnectionError):
        await Down().get("a")

    assert read(catalogue.SELF_ERRORS)["probes.aiocache",] == 3


async def test_only_so_many_loads_are_remembered(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ever new keys the oldest are forgotten."""
    monkeypatch.setattr("fastobs.probes._caches.REMEMBERED", 2)
    probe: Any = next(p for p in probes._attached.values() if isinstance(p, adapter.AioCache))
    cache = watch(SimpleMemoryCache(), name="c")
    for key in "abcd":
        await cache.get(key)
        await cache.set(key, 1)

    assert len(probe._loads._ended) == 2
    assert loads(read) == (4, 0)


async def test_a_cache_that_is_gone_is_not_kept(probes: Probes) -> None:
    """Counting keeps nothing alive; it may even go while it is asked."""
    probe: Any = next(p for p in probes._attached.values() if isinstance(p, adapter.AioCache))
    cache = watch(SimpleMemoryCache(), name="gone")
    entry = probe._caches._entries[id(cache)]
    del cache
    gc.collect()

    assert "gone" not in probes.status()
    probe._caches._entries[0] = entry
    assert list(probe.status()) == []


async def test_how_many_entries_a_server_has_is_not_known(probes: Probes, read: Read) -> None:
    """Then there is no such series, and it is not 0."""

    class Elsewhere(BaseCache):  # type: ignore[misc]
        async def _get(self, *_: Any, **__: Any) -> Any:
            return 1

    cache = watch(watch(Elsewhere(), name="c"), name="c")
    await cache.get("a")

    assert counts(read) == (1, 0, 0)
    assert ("c",) not in read(catalogue.CACHE_ENTRIES)


class TestContract(CacheContract, Named):
    """aiocache."""

    row = ("aiocache", ".aiocache")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield SimpleMemoryCache()

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        if (value := await it.get(key)) is None:
            load()
            await it.set(key, value := "value")
        return value

    async def fail(self, it: Any) -> None:
        await super().fail(it)
        with pytest.raises(ConnectionError):
            await Down().get(SECRET)
