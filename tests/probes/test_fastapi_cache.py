"""What fastapi-cache2 caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi_cache import Backend, FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache
from redis.asyncio import Redis
from starlette.testclient import TestClient

from fastobs import catalogue
from fastobs.probes import Probes
from tests.probes.contract import CacheContract

Read = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture(autouse=True)
def backend() -> Iterator[Any]:
    """Initialised before the probes look at it."""
    backend = InMemoryBackend()
    # Its store and its lock are of the class.
    InMemoryBackend._store.clear()
    InMemoryBackend._lock = asyncio.Lock()
    FastAPICache.init(backend, expire=60)
    yield backend
    FastAPICache.reset()
    InMemoryBackend._store.clear()


def counts(read: Read, name: str) -> tuple[float, float, float]:
    """Hits, misses and errors."""
    name = name if name == "fastapi-cache" else f"{__name__}.{name}"
    requests = read(catalogue.CACHE_REQUESTS)
    return requests[name, "hit"], requests[name, "miss"], requests[name, "error"]


def loads(read: Read, name: str) -> tuple[float, float]:
    """Loads and stampedes."""
    name = f"{__name__}.{name}"
    return read(catalogue.CACHE_LOAD)[name,], read(catalogue.CACHE_STAMPEDES)[name,]


@cache()
async def double(number: int) -> int:
    return 2 * number


@cache(namespace="reports")
async def report(user: str) -> str:
    return user


def test_every_cached_endpoint_is_a_cache_of_its_own(
    observed: Callable[..., Any], read: Read
) -> None:
    """With def and async def; the time of the cache is a part of the request."""
    app = FastAPI()

    @app.get("/quick/{item}")
    @cache()
    async def quick(item: int) -> int:
        return item

    @app.get("/plain")
    @cache()
    def plain() -> Any:
        return 1

    handle = observed(app)
    with TestClient(app) as client:
        headers = [
            client.get(path).headers["x-fastapi-cache"]
            for path in ("/quick/1", "/quick/1", "/quick/2", "/plain")
        ]

    here = "test_every_cached_endpoint_is_a_cache_of_its_own.<locals>"
    assert headers == ["MISS", "HIT", "MISS", "MISS"]
    assert counts(read, f"{here}.quick") == (1, 2, 0)
    assert counts(read, f"{here}.plain") == (0, 1, 0)
    assert loads(read, f"{here}.quick") == (2, 0)
    assert read(catalogue.HTTP_PART)["/quick/{item}", "cache"] > 0
    assert f"  {__name__}.{here}.quick: cached by fastapi-cache2" in handle.status()


@pytest.mark.anyio
async def test_cached_functions_are_counted_and_their_arguments_are_no_labels(
    probes: Probes, read: Read
) -> None:
    """Also those that no request calls."""
    await double(1)
    await double(1)
    await report("bob")

    assert counts(read, "double") == (1, 1, 0)
    assert counts(read, "report") == (0, 1, 0)
    assert "bob" not in str(read(catalogue.CACHE_REQUESTS))


@pytest.mark.anyio
async def test_several_that_load_the_same_at_once_are_a_stampede(
    probes: Probes, read: Read
) -> None:
    """There is no lock around a cold key."""
    go = asyncio.Event()

    @cache()
    async def slow() -> int:
        await go.wait()
        return 1

    tasks = [asyncio.ensure_future(slow()) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)

    here = "test_several_that_load_the_same_at_once_are_a_stampede.<locals>.slow"
    assert loads(read, here) == (3, 2)


@pytest.mark.anyio
async def test_look_ups_by_hand_have_a_name_of_their_own(probes: Probes, read: Read) -> None:
    """What no decorator asks for."""
    await FastAPICache.get_backend().get_with_ttl("a")

    assert counts(read, "fastapi-cache") == (0, 1, 0)


class Down(InMemoryBackend):
    async def get_with_ttl(self, key: str) -> Any:
        raise ConnectionError


@pytest.mark.anyio
async def test_a_backend_that_fails_is_an_error(probes: Probes, read: Read) -> None:
    """The decorator goes on without it; such a backend may be the app's own class."""
    FastAPICache.reset()
    FastAPICache.init(Down())

    assert await double(3) == 6
    assert counts(read, "double") == (0, 0, 1)


@pytest.mark.anyio
async def test_a_backend_over_redis(probes: Probes, read: Read, redis_url: str) -> None:
    """Whichever backend it is."""
    FastAPICache.reset()
    async with Redis.from_url(redis_url) as redis:
        FastAPICache.init(RedisBackend(redis), expire=60)
        await double(4)
        await double(4)

    assert counts(read, "double") == (1, 1, 0)
    assert loads(read, "double") == (1, 0)


def hooked() -> list[Any]:
    classes: list[Any] = [InMemoryBackend, Down, Backend]
    names = ("get_with_ttl", "set")
    methods = [cls.__dict__.get(name) for cls in classes for name in names]
    return [FastAPICache.__dict__["get_backend"], *methods]


def test_a_hook_of_somebody_elses_stays(attach: Callable[..., Probes]) -> None:
    """What was put over ours is not taken out with it."""
    before = FastAPICache.__dict__["get_backend"]
    probes = attach()
    theirs = classmethod(lambda cls: None)
    FastAPICache.get_backend = theirs  # type: ignore[assignment, method-assign]
    probes.detach()
    kept = FastAPICache.__dict__["get_backend"]
    FastAPICache.get_backend = before  # type: ignore[method-assign]

    assert kept is theirs


loading: list[Callable[[], Any]] = []


@cache()
async def looked_up(key: str) -> str:
    loading[-1]()
    return key


class TestContract(CacheContract):
    """fastapi-cache2."""

    row = ("fastapi_cache", ".fastapi_cache")
    name = f"{__name__}.looked_up"

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield looked_up

    def call(self, it: Any, name: str) -> None:
        """It is called after the function."""

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        loading.append(load)
        return await it(key)
