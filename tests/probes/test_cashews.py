"""Caches of cashews."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import pytest
from cashews import Cache
from cashews.wrapper.commands import CommandWrapper

from fastobs import catalogue, watch
from fastobs.probes import Probes
from fastobs.probes import cashews as adapter
from tests.probes.contract import CacheContract, Named
from tests.probes.upstream import request

Read = Callable[..., dict[tuple[str, ...], float]]
pytestmark = pytest.mark.anyio
HERE = __name__


@pytest.fixture
async def cache() -> AsyncIterator[Any]:
    cache = Cache()
    cache.setup("mem://")
    yield cache
    await cache.close()


def counts(read: Read, name: str = "c") -> tuple[float, float, float]:
    """Hits, misses and errors."""
    requests = read(catalogue.CACHE_REQUESTS)
    return requests[name, "hit"], requests[name, "miss"], requests[name, "error"]


def loads(read: Read, name: str = "c") -> tuple[float, float]:
    """Loads and stampedes."""
    return read(catalogue.CACHE_LOAD)[name,], read(catalogue.CACHE_STAMPEDES)[name,]


async def test_look_ups_by_hand_are_the_caches(cache: Any, probes: Probes, read: Read) -> None:
    """One by one and many at once; what is missed and then stored was loaded."""
    watch(cache, name="c")
    assert await cache.get("a") is None
    assert await cache.get("a", 5) == 5
    assert await cache.get("a", default=6) == 6
    await cache.set("a", 1)
    assert await cache.get("a") == 1
    assert await cache.get_many("a", "b", default=7) == (1, 7)
    assert await cache.get_or_set("z", default=9) == 9

    assert counts(read) == (2, 5, 0)
    assert loads(read) == (2, 0)
    assert "  c: cashews Cache" in probes.status()


def decorated(cache: Any, kind: str) -> Any:
    """Decorated before the probes look at it; the key has the user in it."""

    async def load(user: str) -> int:
        return len(user)

    return getattr(cache, kind)(ttl="1m", key="user:{user}")(load)


@pytest.mark.parametrize("kind", ["__call__", "early", "soft"])
async def test_a_decorated_function_is_counted_by_its_name(
    kind: str, cache: Any, attach: Callable[..., Probes], read: Read
) -> None:
    """Of one cache for all, each function is seen by itself; keys are no labels."""
    function = decorated(cache, kind)
    probes = attach()
    for user in ("bob", "bob", "alice"):
        await function(user)

    name = f"{HERE}.decorated.<locals>.load"
    assert counts(read, name) == (1, 2, 0)
    assert loads(read, name) == (2, 0)
    assert f"  {name}: function cached by cashews" in probes.status()
    assert "bob" not in str(read(catalogue.CACHE_REQUESTS))


async def test_a_function_that_looks_up_in_a_task_of_its_own_is_known(
    cache: Any, probes: Probes, read: Read
) -> None:
    """A cache that counts its hits asks for the number at the same time."""

    @cache.hit(ttl="1m", cache_hits=10, key="one")
    async def one() -> int:
        return 1

    assert [await one() for _ in range(3)] == [1, 1, 1]

    name = f"{HERE}.test_a_function_that_looks_up_in_a_task_of_its_own_is_known.<locals>.one"
    assert counts(read, name) == (2, 1, 0)


async def test_what_was_missed_in_a_task_of_its_own_is_loaded_by_its_request(
    cache: Any, probes: Probes, read: Read
) -> None:
    """As with the decorator `hit`. Outside of requests nothing leads from one to the other."""

    @cache.hit(ttl="1m", cache_hits=10, key="one:{number}")
    async def one(number: int) -> int:
        return number

    with request("/"):
        await one(1)
    await one(2)

    name = f"{HERE}.test_what_was_missed_in_a_task_of_its_own_is_loaded_by_its_request.<locals>.one"
    assert counts(read, name) == (0, 2, 0)
    assert loads(read, name) == (1, 0)


async def test_an_iterator_is_asked_for_once_however_much_it_gives(
    cache: Any, probes: Probes, read: Read
) -> None:
    """What it gave is kept piece by piece, and after the last one nothing is found."""
    # Cached functions of modules that other tests imported.
    others = {values[0] for values in read(catalogue.CACHE_REQUESTS)}

    @cache.iterator(ttl="1m", key="pages")
    async def pages() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def turn() -> list[int]:
        return [page async for page in pages()]

    assert [await turn(), await turn()] == [[1, 2]] * 2
    with request("/"):
        assert await turn() == [1, 2]

    name = f"{HERE}.test_an_iterator_is_asked_for_once_however_much_it_gives.<locals>.pages"
    assert {values[0] for values in read(catalogue.CACHE_REQUESTS)} - others == {name}
    assert counts(read, name) == (2, 1, 0)
    assert loads(read, name) == (1, 0)


async def test_many_that_are_missed_and_stored_at_once_were_loaded(
    cache: Any, probes: Probes, read: Read
) -> None:
    """Each of them; what was not missed was not."""
    watch(cache, name="c")
    await cache.get_many("a", "b")
    await cache.set_many({"a": 1, "b": 2, "c": 3}, expire=60)

    assert counts(read) == (0, 2, 0)
    assert loads(read) == (2, 0)


async def test_a_release_that_takes_something_else_is_counted_all_the_same(
    cache: Any, attach: Callable[..., Probes], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is given is handed on as it is."""
    plain = CommandWrapper.get

    async def get(self: Any, key: Any, default: Any = None, *, fresh: bool = False) -> Any:
        return await plain(self, key, default)

    monkeypatch.setattr(CommandWrapper, "get", get)
    function = decorated(cache, "__call__")
    attach()
    watch(cache, name="c")
    assert await cache.get("a", fresh=True) is None
    assert await cache.get("a", 5) == 5
    await cache.set("a", 1)
    assert await cache.get("a", default=6, fresh=True) == 1
    await function("bob")
    await function("bob")

    assert counts(read) == (1, 2, 0)
    assert counts(read, f"{HERE}.decorated.<locals>.load") == (1, 1, 0)


async def test_a_look_up_within_a_request_is_counted_like_any_other(
    cache: Any, probes: Probes, read: Read
) -> None:
    """And one that was looked up outside before; the request has its time."""
    watch(cache, name="c")
    with request("/") as first:
        assert await cache.get("a") is None
    await cache.set("a", 1)
    for _ in range(2):
        assert await cache.get("a") == 1
    with request("/") as second:
        assert await cache.get("a") == await cache.get("a", 5) == 1

    assert counts(read) == (4, 1, 0)
    assert loads(read) == (1, 0)
    assert "cache" in first.parts
    assert "cache" in second.parts


@pytest.mark.usefixtures("contained_errors")
async def test_an_error_of_ours_stays_ours(cache: Any, probes: Probes, read: Read) -> None:
    """The value is handed on, and the error is counted."""
    watch(cache, name="c")
    await cache.set("a", 1)
    await cache.get("a")
    probe: Any = next(p for p in probes._attached.values() if isinstance(p, adapter.Cashews))
    probe._caches.tallies[id(cache)] = probe._loads = SimpleNamespace()
    assert await cache.get("a") == 1
    assert await cache.get("b") is None
    assert await cache.get_many("a", "b") == (1, None)
    assert await cache.set("a", 2) is True

    assert counts(read) == (1, 0, 0)
    assert read(catalogue.SELF_ERRORS)["probes.cashews",] == 4


async def test_callers_that_cashews_lets_wait_are_one_load(
    cache: Any, probes: Probes, read: Read
) -> None:
    """Five at once are one look-up."""
    go = asyncio.Event()

    @cache(ttl="1m", key="one")
    async def one() -> int:
        await go.wait()
        return 1

    tasks = [asyncio.ensure_future(one()) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*tasks) == [1] * 5

    name = f"{HERE}.test_callers_that_cashews_lets_wait_are_one_load.<locals>.one"
    assert loads(read, name) == (1, 0)


async def test_a_cached_none_is_a_hit_for_a_decorator(
    cache: Any, probes: Probes, read: Read
) -> None:
    """The decorators have a default of their own."""

    @cache(ttl="1m", key="one", condition=lambda *_, **__: True)
    async def one() -> None:
        return None

    await one()
    await one()

    name = f"{HERE}.test_a_cached_none_is_a_hit_for_a_decorator.<locals>.one"
    assert counts(read, name) == (1, 1, 0)


async def test_a_backend_that_fails_is_an_error(cache: Any, probes: Probes, read: Read) -> None:
    """Neither hit nor miss, and the app's to handle."""

    async def down(*_: Any, **__: Any) -> None:
        raise ConnectionError

    watch(cache, name="c")
    cache.add_middleware(down)
    with pytest.raises(ConnectionError):
        await cache.get("a")
    with pytest.raises(ConnectionError):
        await cache.get_many("a")
    with request("/"), pytest.raises(ConnectionError):
        await cache.get("a")

    assert counts(read) == (0, 0, 3)


async def test_a_hook_that_cannot_come_out_only_passes_on(
    cache: Any, attach: Callable[..., Probes], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has wrapped it: hits, misses and errors are as they were."""
    names = ("get", "get_many", "set")
    for name in names:
        # What is there in the end.
        monkeypatch.setattr(CommandWrapper, name, vars(CommandWrapper)[name])
    probes = attach()
    for name in names:
        monkeypatch.setattr(CommandWrapper, name, partialmethod(vars(CommandWrapper)[name]))

    async def down(*_: Any, **__: Any) -> None:
        raise ConnectionError

    watch(cache, name="c")
    await cache.set("a", 1)
    assert await cache.get("a") == 1
    probes.detach()
    assert await cache.get("a") == 1
    assert await cache.get("b") is None
    assert await cache.get_many("a", "b") == (1, None)
    cache.add_middleware(down)
    with pytest.raises(ConnectionError):
        await cache.get("a")

    assert counts(read) == (1, 0, 0)


async def test_a_cache_is_called_after_its_variable(
    cache: Any, probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is in none after what it is."""
    module = __import__(HERE, fromlist=["x"])
    monkeypatch.setattr(module, "a_cache", cache, raising=False)
    other = watch(Cache())
    other.setup("mem://")
    await cache.get("a")
    await other.get("a")
    await other.close()

    assert counts(read, f"{HERE}.a_cache") == (0, 1, 0)
    assert counts(read, "cashews Cache") == (0, 1, 0)


class TestContract(CacheContract, Named):
    """cashews."""

    row = ("cashews", ".cashews")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        cache = Cache()
        cache.setup("mem://")
        yield cache
        await cache.close()

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        if (value := await it.get(key)) is None:
            load()
            await it.set(key, value := "value")
        return value
