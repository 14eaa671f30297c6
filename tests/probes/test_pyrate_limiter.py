"""Limiters of pyrate-limiter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import BucketFactory, Duration, InMemoryBucket, Limiter, Rate, RateItem
from pyrate_limiter.abstracts import BucketAsyncWrapper
from starlette.testclient import TestClient

from fastobs import catalogue, watch
from fastobs.probes import Probes
from fastobs.probes import pyrate_limiter as adapter
from tests.probes.contract import SECRET, LimiterContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]
TWO = Rate(2, Duration.MINUTE)


@pytest.fixture
def limit() -> Iterator[Callable[..., Any]]:
    """Makes limiters, and ends their threads."""
    made: list[Any] = []

    def limit(argument: Any = TWO) -> Any:
        made.append(Limiter(argument))
        return made[-1]

    yield limit
    for limiter in made:
        limiter.close()


def outcomes(read: Read, name: str = "p", rates: str = "2 per 60 s") -> dict[str, float]:
    return {
        outcome: count
        for (limiter, limit, route, outcome), count in read(catalogue.LIMIT_DECISIONS).items()
        if (limiter, limit, route) == (name, rates, "")
    }


def test_decisions_are_told(limit: Any, probes: Probes, read: Read) -> None:
    """Who calls is no label; what was allowed is."""
    limiter = watch(limit(), name="p")
    made = [limiter.try_acquire("192.0.2.1", blocking=False) for _ in range(3)]

    assert made == [True, True, False]
    assert outcomes(read) == {"allowed": 2, "limited": 1}
    assert "192.0.2.1" not in str(read(catalogue.LIMIT_DECISIONS))
    assert "  p: pyrate-limiter Limiter" in probes.status()


@pytest.mark.anyio
async def test_awaited_decisions_are_told(limit: Any, probes: Probes, read: Read) -> None:
    """Also those of an asynchronous bucket, by either method; all rates of a limiter are one limit."""
    limiter = watch(limit(), name="p")
    bucket = BucketAsyncWrapper(InMemoryBucket([Rate(1, 29_500), TWO]))
    awaited = watch(limit(bucket), name="q")
    made = [await limiter.try_acquire_async("a", blocking=False) for _ in range(3)]
    also = [await awaited.try_acquire("a", blocking=False) for _ in range(2)]

    assert (made, also) == ([True, True, False], [True, False])
    assert outcomes(read) == {"allowed": 2, "limited": 1}
    assert outcomes(read, "q", "1 per 29.5 s, 2 per 60 s") == {"allowed": 1, "limited": 1}


@pytest.mark.anyio
async def test_decorated_functions_are_limited_by_their_limiter(
    limit: Any, probes: Probes, read: Read
) -> None:
    """Of def and async def; what can never be allowed is limited."""
    limiter = watch(limit(), name="p")
    assert limiter.as_decorator(name="a")(lambda: 1)() == 1

    async def one() -> int:
        return 1

    assert await limiter.as_decorator(name="b")(one)() == 1
    with pytest.raises(RuntimeError, match="can never admit"):
        limiter.as_decorator(name="c", weight=3)(lambda: 1)()

    assert outcomes(read) == {"allowed": 2, "limited": 1}


@pytest.mark.anyio
async def test_a_bucket_that_fails_is_an_error(
    limit: Any, probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither allowed nor limited, and the app's to handle; a wait that was too long is limited."""

    def down(_: Any) -> Any:
        raise error

    limiter = watch(limit(), name="p")
    monkeypatch.setattr(limiter.bucket_factory.bucket, "put", down)
    error: Exception = ConnectionError()
    with pytest.raises(ConnectionError):
        limiter.try_acquire("a")
    with pytest.raises(ConnectionError):
        await limiter.try_acquire_async("a")
    with pytest.raises(ConnectionError):
        limiter.as_decorator(name="a")(lambda: 1)()
    error = TimeoutError()
    with pytest.raises(RuntimeError):
        limiter.as_decorator(name="a")(lambda: 1)()

    assert outcomes(read) == {"error": 3, "limited": 1}


@pytest.mark.anyio
async def test_a_release_that_takes_something_else_is_counted_all_the_same(
    limit: Any, attach: Callable[..., Probes], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is given is handed on as it is."""
    for name in ("try_acquire", "try_acquire_async", "_try_acquire"):
        monkeypatch.setattr(Limiter, name, taking_more(getattr(Limiter, name)))
    attach()
    limiter = watch(limit(), name="p")
    assert limiter.try_acquire("a", fair=True) is True
    assert await limiter.try_acquire_async(name="a", weight=1, fair=True) is True
    assert limiter.try_acquire("a", blocking=False) is False
    assert limiter.as_decorator(name="b", weight=0)(lambda: 1)() == 1
    limiter.bucket_factory.bucket.put = Down()
    with pytest.raises(ConnectionError):
        limiter.try_acquire("a")
    with pytest.raises(ConnectionError):
        await limiter.try_acquire_async("a")

    assert outcomes(read) == {"allowed": 3, "limited": 1, "error": 2}


def taking_more(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method with an argument that is not known yet."""

    def newer(limiter: Any, *args: Any, fair: bool = False, **kwargs: Any) -> Any:
        return method(limiter, *args, **kwargs)

    return newer


@pytest.mark.anyio
async def test_what_is_allowed_again_is_counted_without_a_call(
    limit: Any, probes: Probes, read: Read
) -> None:
    """By the hook itself; under the limiter's new name once it has one, and by its new rates."""
    limiter = watch(limit(Rate(1000, Duration.MINUTE)), name="p")
    for _ in range(3):
        limiter.try_acquire("a")
        await limiter.try_acquire_async("a")
    watch(limiter, name="renamed").try_acquire("a")
    before = read(catalogue.LIMIT_DECISIONS)
    limiter.bucket_factory.bucket.rates[:] = [TWO]
    await limiter.try_acquire_async("b", blocking=False)

    assert before["p", "1000 per 60 s", "", "allowed"] == 6
    assert before["renamed", "1000 per 60 s", "", "allowed"] == 1
    assert outcomes(read, "renamed") == {"limited": 1}


@pytest.mark.anyio
@pytest.mark.usefixtures("contained_errors")
async def test_an_error_where_it_is_counted_stays_ours(
    limit: Any, probes: Probes, read: Read
) -> None:
    """The decision is handed on, and the error is counted."""
    limiter = watch(limit(Rate(3, Duration.MINUTE)), name="p")
    limiter.try_acquire("a")
    probe: Any = next(p for p in probes._attached.values() if isinstance(p, adapter.PyrateLimiter))
    probe._limits[id(limiter)].row = SimpleNamespace(cells=None, at=0)

    assert limiter.try_acquire("a") is True
    assert await limiter.try_acquire_async("a") is True
    assert outcomes(read, rates="3 per 60 s") == {"allowed": 1}
    assert read(catalogue.SELF_ERRORS)["probes.pyrate_limiter",] == 2


class PerCaller(BucketFactory):
    """A bucket for each caller."""

    def __init__(self) -> None:
        self.buckets: dict[str, InMemoryBucket] = {}

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        return RateItem(name, 1, weight=weight)

    def get(self, item: RateItem) -> InMemoryBucket:
        return self.buckets.setdefault(item.name, InMemoryBucket([TWO]))


def test_a_limiter_is_called_after_its_variable(
    limit: Any, probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is in none after its library; of a factory the limits are not known."""
    module = __import__(__name__, fromlist=["x"])
    found, first, second = limit(), watch(limit()), limit(PerCaller())
    monkeypatch.setattr(module, "a_limiter", found, raising=False)
    for limiter in (found, first, second):
        limiter.try_acquire("a", blocking=False)

    assert outcomes(read, f"{__name__}.a_limiter") == {"allowed": 1}
    assert outcomes(read, "pyrate_limiter") == {"allowed": 1}
    assert outcomes(read, "pyrate_limiter#2", "") == {"allowed": 1}


def test_the_route_is_known(limit: Any, observed: Callable[..., Any], read: Read) -> None:
    """A dependency like fastapi-limiter's: its 429 is the limiter's."""
    limiter = watch(limit(), name="p")

    async def limited(request: Request) -> None:
        if not await limiter.try_acquire_async(
            request.client and request.client.host, blocking=False
        ):
            raise HTTPException(429)

    app = FastAPI()
    app.get("/items/{item}", dependencies=[Depends(limited)])(lambda item: item)
    observed(app)
    with TestClient(app) as client:
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("p", "2 per 60 s", "/items/{item}", "allowed"): 2,
        ("p", "2 per 60 s", "/items/{item}", "limited"): 1,
    }
    assert read(catalogue.LIMIT_REJECTED)["/items/{item}", "limiter"] == 1


def test_fastapi_limiter_is_counted_by_what_is_under_it(
    limit: Any, observed: Callable[..., Any], read: Read
) -> None:
    """Its dependency asks a limiter of pyrate-limiter; who calls is no label there, either."""
    dependency = RateLimiter(limiter=watch(limit(), name="p"))
    app = FastAPI()
    app.get("/items/{item}", dependencies=[Depends(dependency)])(lambda item: item)
    observed(app)
    with TestClient(app) as client:
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("p", "2 per 60 s", "/items/{item}", "allowed"): 2,
        ("p", "2 per 60 s", "/items/{item}", "limited"): 1,
    }
    assert read(catalogue.LIMIT_REJECTED)["/items/{item}", "limiter"] == 1


def hooked() -> list[Any]:
    names = ("try_acquire", "try_acquire_async", "_try_acquire")
    return [Limiter.__dict__[name] for name in names]


def test_a_release_without_the_private_method_is_counted_all_the_same(
    limit: Any, attach: Callable[..., Probes], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only decorated def functions are not seen then."""
    base = type("Base", (), {"_try_acquire": Limiter.__dict__["_try_acquire"]})
    monkeypatch.delattr(Limiter, "_try_acquire")
    limiter = limit()
    limiter._try_acquire = base._try_acquire.__get__(limiter)  # type: ignore[attr-defined]
    attach()
    watch(limiter, name="p").try_acquire("a", blocking=False)

    assert outcomes(read) == {"allowed": 1}


class TestContract(LimiterContract, Named):
    """pyrate-limiter."""

    row = ("pyrate_limiter", ".pyrate_limiter")
    limit = "1000 per 60 s"

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        with Limiter(Rate(1000, Duration.MINUTE)) as limiter:
            yield limiter

    async def use(self, it: Any) -> Any:
        return it.try_acquire(SECRET, blocking=False)

    async def exhaust(self, it: Any) -> None:
        assert not it.try_acquire(SECRET, 1000, blocking=False)

    async def fail(self, it: Any) -> None:
        bucket = it.bucket_factory.bucket
        bucket.put = Down()
        with pytest.raises(ConnectionError):
            it.try_acquire(SECRET, blocking=False)
        del bucket.put


class Down:
    """A bucket that cannot be reached."""

    def __call__(self, *_: Any) -> Any:
        raise ConnectionError
