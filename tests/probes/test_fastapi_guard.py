"""fastapi-guard, which tells whom it turns away if it is asked to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from guard import SecurityConfig, SecurityMiddleware
from starlette.testclient import TestClient

import fastobs
from fastobs import catalogue

Read = Callable[..., dict[tuple[str, ...], float]]


def test_its_429_is_a_limiters_if_it_tells(observed: Callable[..., Any], read: Read) -> None:
    """What it blocks for other reasons is no decision of a limiter."""
    guard = fastobs.limiter("guard")

    def tell(_: object, block: dict[str, Any]) -> None:
        if block["status_code"] == 429:
            guard.decision(False)

    config = SecurityConfig(
        rate_limit=2,
        rate_limit_window=60,
        blocked_user_agents=["scraper"],
        enable_redis=False,
        enable_penetration_detection=False,
        log_suspicious_level=None,
        on_block=tell,
    )
    app = FastAPI()
    app.add_middleware(SecurityMiddleware, config=config)
    app.get("/items/{item}")(lambda item: item)
    observed(app)
    with TestClient(app, client=("192.0.2.9", 1)) as client:
        scraped = client.get("/items/1", headers={"User-Agent": "scraper"}).status_code
        statuses = [client.get("/items/1").status_code for _ in range(3)]

    assert (scraped, statuses) == (403, [200, 200, 429])
    assert read(catalogue.LIMIT_DECISIONS) == {("guard", "", "", "limited"): 1}
    assert {key: n for key, n in read(catalogue.LIMIT_REJECTED).items() if n} == {
        ("", "limiter"): 1
    }
