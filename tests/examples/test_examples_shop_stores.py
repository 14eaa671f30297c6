"""The shop with PostgreSQL and Redis: every family moves, for all workers together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastobs import catalogue
from tests import parts
from tests.integration.test_workers import numbers

pytestmark = pytest.mark.integration

PATHS = (
    "/api/v1/products/1",
    "/api/v1/products/1",
    "/api/v1/products",
    "/api/v1/orders/1",
    "/api/v1/search?q=lamp",
    "/api/v1/reports/sales",
    "/mistakes/small-pool",
    "/mistakes/lazy-loads",
    "/mistakes/blocking-call",
    "/mistakes/unhandled-error",
    "/upstream/suppliers/3",
    "/mistakes/slow-upstream",
)


@pytest.fixture(scope="module")
def seen(postgresql, redis_server) -> Iterator[dict[str, dict[str, float]]]:
    """What was counted, by series and by its labels."""
    with postgresql.database() as url:
        environment = {"SHOP_DATABASE_URL": url, "SHOP_REDIS_URL": redis_server.url}
        with parts.serve(
            "examples.shop.app:app", workers=2, env=environment, ready="/healthz"
        ) as shop:
            for path in PATHS:
                shop.get(path)
            for _ in range(60):
                shop.get("/api/v1/search?q=lamp")

            def found() -> dict[str, dict[str, float]]:
                series: dict[str, dict[str, float]] = {}
                for (name, labels), value in numbers(shop).items():
                    series.setdefault(name, {})[str(sorted(labels))] = value
                return series

            # Asked of the server at a slow tick, and told by each worker at its own.
            parts.eventually(lambda: catalogue.DB_SERVER_MAX.name in found(), within=60)
            yield found()


@pytest.mark.parametrize(
    ("series", "label"),
    [
        (f"{catalogue.HTTP_DURATION.name}_count", "/api/v1/products/{product_id}"),
        (catalogue.HTTP_PART.name, "pool_wait"),
        (f"{catalogue.POOL_WAIT.name}_count", "shop-cramped"),
        (catalogue.POOL_MAX.name, "shop-threads"),
        (catalogue.POOL_MAX.name, "redis"),
        (f"{catalogue.DB_DURATION.name}_count", "postgresql"),
        (f"{catalogue.DB_DURATION.name}_count", "redis"),
        (catalogue.DB_SERVER_MAX.name, ""),
        (catalogue.CACHE_REQUESTS.name, "products"),
        (catalogue.LIMIT_DECISIONS.name, "limited"),
        (catalogue.DB_REPEATED.name, "/mistakes/lazy-loads"),
        (catalogue.LOOP_BLOCKS.name, "/mistakes/blocking-call"),
        (catalogue.PROCESS_CPU.name, ""),
        (f"{catalogue.CLIENT_QUEUE.name}_count", ""),
    ],
)
def test_each_family_moves(seen, series, label):
    """Pools and statements by both drivers, caches in Redis, limits, the loop, the process."""
    assert sum(value for labels, value in seen[series].items() if label in labels) > 0
