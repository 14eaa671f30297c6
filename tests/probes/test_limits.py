"""The limits library, and slowapi over it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from limits import parse, storage, strategies
from limits.aio import storage as aio_storage
from limits.aio import strategies as aio
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient

from fastobs import catalogue, watch
from fastobs.probes import Probes
from fastobs.probes import limits as adapter
from tests.probes.contract import SECRET, LimiterContract, Named

Read = Callable[..., dict[tuple[str, ...], float]]
ONE = parse("1/minute")
SYNC: list[Any] = [
    strategies.FixedWindowRateLimiter,
    strategies.MovingWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
]
ASYNC: list[Any] = [
    aio.FixedWindowRateLimiter,
    aio.MovingWindowRateLimiter,
    aio.SlidingWindowCounterRateLimiter,
]


def outcomes(read: Read, limiter: str = "p") -> dict[str, float]:
    return {
        outcome: count
        for (name, limit, route, outcome), count in read(catalogue.LIMIT_DECISIONS).items()
        if (name, limit, route) == (limiter, "1 per 1 minute", "")
    }


@pytest.mark.parametrize("strategy", SYNC)
def test_every_strategy_tells_its_decisions(strategy: Any, probes: Probes, read: Read) -> None:
    """Who calls is no label; what was allowed is."""
    limiter = watch(strategy(storage.MemoryStorage()), name="p")

    assert [limiter.hit(ONE, "192.0.2.1") for _ in range(3)] == [True, False, False]
    assert outcomes(read) == {"allowed": 1, "limited": 2}


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", ASYNC)
async def test_every_async_strategy_tells_its_decisions(
    strategy: Any, probes: Probes, read: Read
) -> None:
    """The same for those that are awaited."""
    limiter = watch(strategy(aio_storage.MemoryStorage()), name="p")

    assert [await limiter.hit(ONE, "192.0.2.1") for _ in range(3)] == [True, False, False]
    assert outcomes(read) == {"allowed": 1, "limited": 2}


class Down:
    """A storage that cannot be reached."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError


@pytest.mark.anyio
async def test_a_storage_that_fails_is_an_error_and_the_apps_to_handle(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither allowed nor limited."""
    limiter = watch(SYNC[0](storage.MemoryStorage()), name="p")
    awaited = watch(ASYNC[0](aio_storage.MemoryStorage()), name="q")
    monkeypatch.setattr(limiter.storage, "incr", Down())
    monkeypatch.setattr(awaited.storage, "incr", Down())
    with pytest.raises(ConnectionError):
        limiter.hit(ONE)
    with pytest.raises(ConnectionError):
        await awaited.hit(ONE)

    assert outcomes(read, "p") == {"error": 1}
    assert outcomes(read, "q") == {"error": 1}


def test_a_limiter_is_called_after_its_variable(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is in none is called limits; a second one is numbered."""
    module = __import__(__name__, fromlist=["x"])
    found, first, second = (SYNC[0](storage.MemoryStorage()) for _ in range(3))
    monkeypatch.setattr(module, "a_limiter", found, raising=False)
    for limiter in (found, first, second):
        limiter.hit(ONE)

    assert {name for name, *_ in read(catalogue.LIMIT_DECISIONS)} == {
        f"{__name__}.a_limiter",
        "limits",
        "limits#2",
    }
    assert "  limits#2: limits FixedWindowRateLimiter" in probes.status()


def test_watch_without_a_name_finds_it_by_itself(probes: Probes, read: Read) -> None:
    """Nothing to say but that it is there."""
    limiter = watch(SYNC[0](storage.MemoryStorage()))
    slow = watch(Limiter(key_func=get_remote_address))
    limiter.hit(ONE)
    slow.limiter.hit(ONE)
    watch(slow, name="slow").limiter.hit(ONE, "another caller")

    assert outcomes(read, "limits") == {"allowed": 1}
    assert outcomes(read, "limits#2") == {"allowed": 1}
    assert outcomes(read, "slow") == {"allowed": 1}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = __import__(__name__, fromlist=["x"])
    limiter = Limiter(
        key_func=get_remote_address,
        application_limits=["5/minute"],
        in_memory_fallback=["1/minute"],
    )
    monkeypatch.setattr(module, "slow", limiter, raising=False)
    return module


def test_slowapi_lends_its_name_to_what_decides_for_it(
    module: Any, observed: Callable[..., Any], read: Read
) -> None:
    """By decorator: the route is known. The answer with 429 is the limiter's, once."""
    app = FastAPI()
    app.state.limiter = module.slow
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]

    @app.get("/slow/{item}")
    @module.slow.limit("2/minute")
    async def slow(request: Request, item: int) -> int:
        return item

    handle = observed(app)
    with TestClient(app) as client:
        statuses = [client.get("/slow/1").status_code for _ in range(3)]

    name = f"{__name__}.slow"
    assert statuses == [200, 200, 429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        (name, "2 per 1 minute", "/slow/{item}", "allowed"): 2,
        (name, "2 per 1 minute", "/slow/{item}", "limited"): 1,
    }
    assert read(catalogue.LIMIT_REJECTED)["/slow/{item}", "limiter"] == 1
    assert f"  {name}: slowapi Limiter" in handle.status()


def test_what_a_middleware_decides_is_counted_for_the_route(
    module: Any, observed: Callable[..., Any], read: Read
) -> None:
    """What it let pass, and what it stopped before routing."""
    app = FastAPI()
    app.state.limiter = module.slow
    app.add_middleware(SlowAPIMiddleware)
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    app.get("/items/{item}")(lambda item: item)
    observed(app)
    watch(module.slow, name="front")
    with TestClient(app) as client:
        statuses = [client.get("/items/1").status_code for _ in range(6)]

    assert statuses == [200] * 5 + [429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("front", "5 per 1 minute", "/items/{item}", "allowed"): 5,
        ("front", "5 per 1 minute", "/items/{item}", "limited"): 1,
    }
    assert read(catalogue.LIMIT_REJECTED)["/items/{item}", "limiter"] == 1


def test_routes_that_slowapi_passes_over_are_told(
    module: Any, observed: Callable[..., Any]
) -> None:
    """Its middleware does not see what include_router() adds, and lets it pass without a word."""
    app, router = FastAPI(), APIRouter(prefix="/v1")
    app.state.limiter = module.slow
    app.add_middleware(SlowAPIMiddleware)
    app.get("/direct")(lambda: 1)
    router.get("/items/{item}")(lambda item: item)
    app.include_router(router)
    handle = observed(app)
    with TestClient(app) as client:
        for path in ("/direct", "/v1/items/1", "/v1/items/2"):
            client.get(path)

    status = handle.status()
    assert (
        "routes that no limiter decided on\n  /v1/items/{item}: 2 requests, no decision" in status
    )
    assert '@limiter.limit("5/minute")' in status
    assert "/direct" not in status


def test_a_429_without_a_limiter_is_the_apps_or_a_middlewares(
    observed: Callable[..., Any], read: Read
) -> None:
    """Whose it is shows in whether routing had found an endpoint."""
    app = FastAPI()
    app.get("/full")(lambda: PlainTextResponse("later", 429))

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        if request.url.path == "/guarded":
            return PlainTextResponse("no", 429)
        return await call_next(request)

    observed(app)
    with TestClient(app) as client:
        client.get("/full")
        client.get("/guarded")

    assert {key: n for key, n in read(catalogue.LIMIT_REJECTED).items() if n} == {
        ("/full", "app"): 1,
        ("", "middleware"): 1,
    }


def test_a_429_of_a_mounted_apps_middleware_is_a_middlewares(
    observed: Callable[..., Any], read: Read
) -> None:
    """Routing has found the app, which is no endpoint; also if it is within a middleware."""

    async def guard(request: Request, call_next: Any) -> Any:
        if request.url.path.endswith("/guarded"):
            return PlainTextResponse("no", 429)
        return await call_next(request)

    guarded = [Middleware(BaseHTTPMiddleware, dispatch=guard)]
    sub = FastAPI(middleware=guarded)
    sub.get("/guarded")(lambda: None)
    sub.get("/full")(lambda: PlainTextResponse("later", 429))
    app = FastAPI()
    app.mount("/sub", sub)
    app.router.routes.append(Mount("/within", routes=sub.routes, middleware=guarded))
    observed(app)
    with TestClient(app) as client:
        for path in ("/sub/full", "/sub/guarded", "/within/full", "/within/guarded"):
            client.get(path)

    assert {key: n for key, n in read(catalogue.LIMIT_REJECTED).items() if n} == {
        ("/sub/full", "app"): 1,
        ("/sub/guarded", "middleware"): 1,
        ("/within/full", "app"): 1,
        ("/within/guarded", "middleware"): 1,
    }


def test_a_429_may_say_when_to_come_back(observed: Callable[..., Any], read: Read) -> None:
    """Those that do not are counted, too; what others are told of is not ours."""
    app = FastAPI()

    @app.get("/full")
    def full(*, told: bool = False, status: int = 429) -> PlainTextResponse:
        return PlainTextResponse("later", status, {"Retry-After": "60"} if told else {})

    observed(app)
    with TestClient(app) as client:
        for query in ("", "?told=1", "?told=1", "?told=1&status=503"):
            client.get(f"/full{query}")

    assert read(catalogue.LIMIT_RETRY_AFTER) == {("/full", "no"): 1, ("/full", "yes"): 2}


def test_limits_can_be_switched_off(observed: Callable[..., Any], read: Read) -> None:
    """Then nothing is counted for this app."""
    app = FastAPI()
    app.get("/full")(lambda: PlainTextResponse("later", 429))
    observed(app, limits=None)
    with TestClient(app) as client:
        client.get("/full")

    assert not any(read(catalogue.LIMIT_REJECTED).values())


def _hits() -> list[Any]:
    return [strategy.__dict__["hit"] for strategy in (*SYNC, *ASYNC)]


@pytest.fixture
def collected() -> Iterator[None]:
    """Classes of the test's own are gone after it, and hooked no more."""
    yield
    gc.collect()


@pytest.mark.usefixtures("collected")
def test_a_strategy_of_the_apps_own_counts_once(attach: Callable[..., Probes], read: Read) -> None:
    """One that leaves the decision to its base class is not hooked twice."""

    class Own(strategies.FixedWindowRateLimiter):
        pass

    attach()
    watch(Own(storage.MemoryStorage()), name="p").hit(ONE)

    assert outcomes(read) == {"allowed": 1}


OWN: list[tuple[Any, Any]] = [
    (strategies.FixedWindowRateLimiter, storage.MemoryStorage),
    (aio.FixedWindowRateLimiter, aio_storage.MemoryStorage),
]


@pytest.mark.anyio
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("base", "store"), OWN)
async def test_a_strategy_that_asks_another_one_counts_once(
    base: Any, store: Any, attach: Callable[..., Probes], read: Read
) -> None:
    """By super(): who is asked decides."""

    class Own(base):  # type: ignore[misc]
        def hit(self, item: Any, *identifiers: str, cost: int = 1) -> Any:
            return super().hit(item, "mine", *identifiers, cost=cost)

    attach()
    allowed = watch(Own(store()), name="p").hit(ONE)

    assert (await allowed if isawaitable(allowed) else allowed) is True
    assert outcomes(read) == {"allowed": 1}


@pytest.mark.anyio
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("base", "store"), OWN)
async def test_a_strategy_may_decide_in_a_way_of_its_own(
    base: Any, store: Any, attach: Callable[..., Probes], read: Read
) -> None:
    """With other arguments; also one that was defined when the library was hooked already."""
    attach()
    awaited = base is aio.FixedWindowRateLimiter

    def decide(strategy: Any, item: Any, caller: str, allowed: bool | None) -> bool:
        if allowed is None:
            raise ConnectionError
        return allowed

    async def decide_later(*args: Any, **options: Any) -> bool:
        return decide(*args, **options)

    own = type("Own", (base,), {"hit": decide_later if awaited else decide})
    limiter = watch(own(store()), name="p")
    for allowed in (True, True, False, None):
        with suppress(ConnectionError):
            decided = limiter.hit(ONE, caller="me", allowed=allowed)
            assert (await decided if awaited else decided) is allowed

    assert outcomes(read) == {"allowed": 2, "limited": 1, "error": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("who", [(), ("a",), ("a", "b"), ("a", "b", "c")])
async def test_what_a_limiter_is_asked_reaches_it_as_it_was_asked(
    who: tuple[str, ...], awaited: bool, probes: Probes, read: Read
) -> None:
    """However many say who calls, and whatever it costs."""
    limit = parse("7/minute")
    limiter: Any
    if awaited:
        limiter = watch(aio.FixedWindowRateLimiter(aio_storage.MemoryStorage()), name="p")
    else:
        limiter = watch(strategies.FixedWindowRateLimiter(storage.MemoryStorage()), name="p")
    asked = [limiter.hit(limit, *who), limiter.hit(item=limit, cost=2) if not who else None]
    asked += [limiter.hit(limit, *who, cost=4), limiter.hit(limit, *who, cost=9)]
    decided = [await one if isawaitable(one) else one for one in asked]
    left = limiter.get_window_stats(limit, *who)
    left = await left if awaited else left

    assert decided == [True, None if who else True, True, False]
    assert left.remaining <= (2 if who else 0)
    counts = read(catalogue.LIMIT_DECISIONS)
    assert counts["p", "7 per 1 minute", "", "allowed"] == (2 if who else 3)
    assert counts["p", "7 per 1 minute", "", "limited"] == 1


def test_limits_that_are_made_for_each_call_are_not_all_remembered(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted all the same, each as what it says."""
    monkeypatch.setattr(adapter, "LIMITS", 2)
    limiter = watch(SYNC[0](storage.MemoryStorage()), name="p")
    for number in range(1, 6):
        limiter.hit(parse(f"{number}/minute"))

    assert {limit for _, limit, *_ in read(catalogue.LIMIT_DECISIONS)} == {
        f"{number} per 1 minute" for number in range(1, 6)
    }


class TestContract(LimiterContract, Named):
    """limits."""

    row = ("limits", ".limits")
    limit = "1000 per 1 minute"
    item = parse("1000/minute")

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield strategies.MovingWindowRateLimiter(storage.MemoryStorage())

    async def use(self, it: Any) -> Any:
        return it.hit(self.item, SECRET)

    async def exhaust(self, it: Any) -> None:
        assert not it.hit(self.item, SECRET, cost=1001)

    async def fail(self, it: Any) -> None:
        down = type("Down", (storage.MemoryStorage,), {"acquire_entry": Down()})
        before, it.storage = it.storage, down()
        with pytest.raises(ConnectionError):
            it.hit(self.item, SECRET)
        it.storage = before


class TestAsyncContract(TestContract):
    """limits, with await."""

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield aio.MovingWindowRateLimiter(aio_storage.MemoryStorage())

    async def use(self, it: Any) -> Any:
        return await it.hit(self.item, SECRET)

    async def exhaust(self, it: Any) -> None:
        assert not await it.hit(self.item, SECRET, cost=1001)

    async def fail(self, it: Any) -> None:
        down = type("Down", (aio_storage.MemoryStorage,), {"acquire_entry": Down()})
        before, it.storage = it.storage, down()
        with pytest.raises(ConnectionError):
            await it.hit(self.item, SECRET)
        it.storage = before


class TestSlowAPI(TestContract):
    """slowapi, for which limits decides."""

    row = ("slowapi", ".slowapi")
    hooks = False

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        yield Limiter(key_func=get_remote_address, strategy="moving-window")

    async def use(self, it: Any) -> Any:
        return await super().use(it.limiter)

    async def exhaust(self, it: Any) -> None:
        await super().exhaust(it.limiter)

    async def fail(self, it: Any) -> None:
        await super().fail(it.limiter)
