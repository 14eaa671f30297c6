"""fastapi-guard, whose middleware limits, bans and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from guard import SecurityConfig, SecurityMiddleware
from guard_core.exceptions import GuardRedisError
from guard_core.handlers.ratelimit_handler import RateLimitManager
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fastobs import catalogue
from fastobs.probes import Probes
from fastobs.probes import fastapi_guard as adapter

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
        ("fastapi-guard", "2 per 60 s", "", "limited"): 1,
    }
    assert {key: n for key, n in read(catalogue.LIMIT_REJECTED).items() if n} == {
        ("", "limiter"): 1
    }


def test_a_path_may_have_a_limit_of_its_own(guarded: Callable[..., TestClient], read: Read) -> None:
    """It is asked first; the path is no label."""
    with guarded(rate_limit=9, endpoint_rate_limits={"/items/1": (1, 30)}) as client:
        statuses = [client.get("/items/1").status_code for _ in range(2)]

    assert statuses == [200, 429]
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("fastapi-guard", "1 per 30 s", ROUTE, "allowed"): 1,
        ("fastapi-guard", "9 per 60 s", ROUTE, "allowed"): 1,
        ("fastapi-guard", "1 per 30 s", "", "limited"): 1,
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


@pytest.mark.anyio
async def test_a_store_that_fails_is_an_error_and_the_librarys_to_handle(
    probes: Probes, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither allowed nor limited."""

    async def down(*_: Any, **__: Any) -> Any:
        raise GuardRedisError(503, "down")

    manager = RateLimitManager(SecurityConfig(enable_redis=True, rate_limit=2))
    monkeypatch.setattr(manager, "redis_handler", object())
    monkeypatch.setattr(manager, "_get_redis_request_count", down)
    request: Any = None
    with pytest.raises(GuardRedisError):
        await manager.check_rate_limit(request, "192.0.2.9", down)

    assert read(catalogue.LIMIT_DECISIONS) == {("fastapi-guard", "2 per 60 s", "", "error"): 1}
    assert "  fastapi-guard: fastapi-guard's rate limits" in probes.status()


def test_every_hook_comes_out_again(attach: Callable[..., Probes]) -> None:
    """After detaching, the check is the library's own."""
    before = RateLimitManager.__dict__["check_rate_limit"]
    probes = attach()
    hooked = RateLimitManager.__dict__["check_rate_limit"]
    probes.detach()

    assert hooked is not before
    assert RateLimitManager.__dict__["check_rate_limit"] is before


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
