"""Regions of dogpile.cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event, Thread
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastobs import catalogue, watch
from fastobs.probes import Probes
from tests.parts import PATIENCE
from tests.probes.contract import CacheContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]


def memory(name: str | None = None, **options: Any) -> Any:
    return make_region(name, **options).configure("dogpile.cache.memory")


def counts(read: Read, name: str = "c") -> tuple[float, float, float]:
    """Hits, misses and errors."""
    requests = read(catalogue.CACHE_REQUESTS)
    return requests[name, "hit"], requests[name, "miss"], requests[name, "error"]


def loads(read: Read, name: str = "c") -> tuple[float, float]:
    """Loads and stampedes."""
    return read(catalogue.CACHE_LOAD)[name,], read(catalogue.CACHE_STAMPEDES)[name,]


def test_look_ups_by_hand_are_counted(probes: Probes, read: Read) -> None:
    """One by one and many at once."""
    region = watch(memory(), name="c")
    assert region.get("a") is NO_VALUE
    region.set("a", None)
    assert region.get("a") is None
    assert region.get_multi(["a", "b"]) == [None, NO_VALUE]

    assert counts(read) == (2, 2, 0)


def test_what_had_to_be_created_was_a_miss(probes: Probes, read: Read) -> None:
    """Once, although the backend is asked twice for it; and it is a load."""
    region = watch(memory(), name="c")
    values = [region.get_or_create(key, lambda: 1) for key in ("a", "a", "b")]
    many = region.get_or_create_multi(["a", "x", "y"], lambda *keys: list(keys))

    assert (values, many) == ([1, 1, 1], [1, "x", "y"])
    assert counts(read) == (2, 4, 0)
    assert loads(read) == (3, 0)


def test_functions_that_were_decorated_before_are_counted(
    attach: Callable[..., Probes], read: Read
) -> None:
    """By their region, which may have a name of its own; they are called as always."""
    region = memory("prices")

    @region.cache_on_arguments()  # type: ignore[untyped-decorator, unused-ignore]
    def double(number: int) -> int:
        return 2 * number

    @region.cache_multi_on_arguments()  # type: ignore[untyped-decorator, unused-ignore]
    def halves(*numbers: int) -> list[float]:
        return [number / 2 for number in numbers]

    probes = attach()
    assert [double(1), double(1), double(2)] == [2, 2, 4]
    assert halves(1, 2) == [0.5, 1]

    assert counts(read, "prices") == (1, 4, 0)
    assert "  prices: dogpile CacheRegion" in probes.status()


def test_a_region_is_called_after_its_variable(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is in none after what it is."""
    module = __import__(__name__, fromlist=["x"])
    monkeypatch.setattr(module, "region", memory(), raising=False)
    other = watch(memory())
    module.region.get("a")
    other.get("a")

    assert counts(read, f"{__name__}.region") == (0, 1, 0)
    assert counts(read, "dogpile region") == (0, 1, 0)


def test_a_backend_that_fails_is_an_error_and_a_creator_that_fails_is_not(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a miss: the function's failure is none of the cache's, and nothing was loaded."""

    def fail(*_: Any) -> Any:
        raise ConnectionError

    region = watch(memory(), name="c")
    with pytest.raises(ConnectionError):
        region.get_or_create("a", fail)
    with pytest.raises(ConnectionError):
        region.get_or_create_multi(["a", "b"], fail)
    monkeypatch.setattr(region.backend, "get_serialized", fail)
    monkeypatch.setattr(region.backend, "get", fail)
    with pytest.raises(ConnectionError):
        region.get("a")
    with pytest.raises(ConnectionError):
        region.get_or_create("a", lambda: 1)

    assert counts(read) == (0, 3, 2)
    assert loads(read) == (0, 0)


def test_callers_that_wait_for_the_one_that_loads_hit(probes: Probes, read: Read) -> None:
    """The lock of dogpile lets one create at a time: there is no stampede."""
    region = watch(memory(), name="c")
    started, go_on = Event(), Event()

    def create() -> int:
        started.set()
        go_on.wait(PATIENCE)
        return 1

    threads = [Thread(target=region.get_or_create, args=("a", create)) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(PATIENCE)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert counts(read) == (2, 1, 0)
    assert loads(read) == (1, 0)


def test_a_value_that_is_renewed_in_the_background_is_a_hit_and_a_load(
    probes: Probes, read: Read
) -> None:
    """With a runner the old value is the answer; the new one is loaded by and by."""
    waiting: list[tuple[Any, Any, Any]] = []
    runner = lambda region, key, creator, mutex: waiting.append((key, creator, mutex))  # noqa: E731
    region = watch(memory(async_creation_runner=runner), name="c")
    region.get_or_create("a", lambda: 1)
    answer = region.get_or_create("a", lambda: 2, expiration_time=-0.5)
    ((key, creator, mutex),) = waiting
    region.set(key, creator())
    mutex.release()

    assert (answer, region.get("a")) == (1, 2)
    assert counts(read) == (2, 1, 0)
    assert loads(read) == (2, 0)


def test_two_that_create_the_same_at_once_are_a_stampede(probes: Probes, read: Read) -> None:
    """Where the app's own lock lets them."""

    class NoLock:
        def acquire(self, *, wait: bool = True) -> bool:
            return True

        def release(self) -> None:
            pass

    region = make_region().configure("dogpile.cache.memory")
    region._mutex = lambda key: NoLock()  # type: ignore[method-assign]
    watch(region, name="c")
    inner: list[int] = []

    def create() -> int:
        if not inner:
            inner.append(1)
            thread = Thread(target=region.get_or_create, args=("a", create))
            thread.start()
            thread.join(PATIENCE)
        return 1

    region.get_or_create("a", create)

    assert loads(read) == (2, 1)


def test_its_time_is_a_part_of_the_request_and_the_functions_is_not(
    observed: Callable[..., Any], read: Read
) -> None:
    """What is created is the app's work."""
    region = watch(memory(), name="c")
    app = FastAPI()

    @app.get("/items")
    def items() -> Any:
        return region.get_or_create("a", lambda: 1)

    observed(app)
    with TestClient(app) as client:
        client.get("/items")

    assert read(catalogue.HTTP_PART)["/items", "cache"] > 0


NAMES = ("get", "get_multi", "get_or_create", "get_or_create_multi")


def hooked() -> list[Any]:
    return [CacheRegion.__dict__[name] for name in NAMES]


class TestContract(CacheContract, Named):
    """dogpile.cache."""

    row = ("dogpile.cache", ".dogpile")
    packages = ("dogpile",)
    plain = frozenset({"Created"})

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield memory()

    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        return it.get_or_create(key, lambda: (load(), "value")[1])
