"""fastapi-guard, whose middleware limits, bans and blocks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from guard import SecurityConfig, SecurityMiddleware
from guard.adapters import StarletteGuardRequest
from guard_core.exceptions import GuardRedisError
from guard_core.handlers.ratelimit_handler import RateLimitManager
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fastobs import catalogue
from fastobs.probes import fastapi_guard as adapter
from tests.driving import scope
from tests.probes.contract import SECRET, LimiterContract

Read = Callable[..., dict[tuple[str, ...], float]]
ROUTE = "/items/{item}"
BANNED = "192.0.2.66"


@pytest.fixture(autouse=True)
def manager() -> Iterator[None]:
    """The process has one manager: it is a new one for each test."""
    RateLimitManager._instance = None
    yield
    RateLimitManager._instance = None


@pytest.fixture
def guarded(observed: Callable[..., Any]) -> Callable[..., TestClient]:
    """An app with two requests a minute, seen by its client."""

    def guarded(**settings: Any) -> TestClient:
        config = SecurityConfig(
            **{
                "rate_limit": 2,
                "rate_limit_window": 60,
                "blacklist": [BANNED],
                "enable_redis": False,
                "enable_penetration_detection": False,
                "log_suspicious_level": None,
                **settings,
            }
        )
        app = FastAPI()
        app.add_middleware(SecurityMiddleware, config=config)
        app.get(ROUTE)(lambda item: item)
        observed(app)

        async def with_an_address(scope: Scope, receive: Receive, send: Send) -> None:
            host = dict(scope.get("headers", ())).get(b"from", b"192.0.2.9").decode()
            await app({**scope, "client": (host, 1)}, receive, send)

        return TestClient(with_an_address)

    return guarded


def test_its_limits_tell_their_decisions(guarded: Callable[..., TestClient], read: Read) -> None:
    """A 429 of its is a limiter's; what it blocks for other reasons is no decision of a limiter."""
    with guarded() as client:
        banned = client.get("/items/1", headers={"From": BANNED}).status_code
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert (banned, statuses) == (403, [200, 200, 429])
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("fastapi-guard", "2 per 60 s", ROUTE, "allowed"): 2,
        ("fastapi-guard", "2 per 60 s", ROUTE, "limited"): 1,
    }
    assert {key: n for key, n in read(catalogue.LIMIT_REJECTED).items() if n} == {
        (ROUTE, "limiter"): 1
    }


def test_a_path_may_have_a_limit_of_its_own(guarded: Callable[..., TestClient], read: Read) -> None:
    """It is asked first; the path is no label."""
    with guarded(rate_limit=9, endpoint_rate_limits={"/items/1": (1, 30)}) as client:
        statuses = [client.get("/items/1").status_code for _ in range(2)]

    assert statuses == [200, 429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("fastapi-guard", "1 per 30 s", ROUTE, "allowed"): 1,
        ("fastapi-guard", "9 per 60 s", ROUTE, "allowed"): 1,
        ("fastapi-guard", "1 per 30 s", ROUTE, "limited"): 1,
    }


def test_passive_mode_turns_nobody_away(guarded: Callable[..., TestClient], read: Read) -> None:
    """It only logs, so everything was allowed."""
    with guarded(passive_mode=True) as client:
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert read(catalogue.LIMIT_DECISIONS) == {("fastapi-guard", "2 per 60 s", ROUTE, "allowed"): 3}


def test_what_is_switched_off_decides_nothing(
    guarded: Callable[..., TestClient], read: Read
) -> None:
    """It is asked all the same."""
    with guarded(enable_rate_limiting=False) as client:
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert read(catalogue.LIMIT_DECISIONS) == {}


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_stays_ours(
    guarded: Callable[..., TestClient], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision stands, and the error is counted."""

    def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(adapter, "decide", broken)
    with guarded() as client:
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert read(catalogue.SELF_ERRORS)["probes.fastapi_guard",] == 3


async def refused(status: int, message: str) -> Response:
    """The answer to who is turned away."""
    return Response(message, status)


class TestContract(LimiterContract):
    """fastapi-guard."""

    row = ("guard_core", ".fastapi_guard")
    name = "fastapi-guard"
    limit = "1000 per 60 s"
    asked: Any = None

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        RateLimitManager._instance = None
        # No Redis has been found yet, so it counts in memory.
        config = SecurityConfig(rate_limit=1000, rate_limit_window=60, log_suspicious_level=None)
        yield RateLimitManager(config)

    def call(self, it: Any, name: str) -> None:
        """There is one for a process."""

    async def use(self, it: Any) -> Any:
        return await it.check_rate_limit(self.asked, SECRET, refused)

    async def exhaust(self, it: Any) -> None:
        now = time.time()
        for _ in range(1000):
            it._get_in_memory_request_count(SECRET, now - 60, now)
        request = StarletteGuardRequest(Request({**scope("/"), "app": None}))
        assert await it.check_rate_limit(request, SECRET, refused) is not None

    async def fail(self, it: Any) -> None:
        async def down(*_: Any, **__: Any) -> Any:
            raise GuardRedisError(503, "down")

        it.redis_handler, it._get_redis_request_count = object(), down
        with pytest.raises(GuardRedisError):
            await self.use(it)
        it.redis_handler = None
        del it._get_redis_request_count
