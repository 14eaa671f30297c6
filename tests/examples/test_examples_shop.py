"""The shop is a shop: it sells, it limits, and every mistake does what its docstring says."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from examples.shop.app import create_app
from examples.shop.database import Database
from examples.shop.limits import limiter
from examples.shop.models import Order, Product
from examples.shop.routes import mistakes
from examples.shop.seed import ORDERS, PRODUCTS, seed
from examples.shop.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path):
    return Settings(database_url=f"sqlite:///{tmp_path}/shop.db")


@pytest.fixture
def client(settings):
    limiter.reset()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_products_come_in_pages(client):
    """The next page begins after the last key of this one."""
    first = client.get("/api/v1/products?limit=3").json()
    second = client.get(f"/api/v1/products?limit=3&after={first[-1]['id']}").json()

    assert [product["id"] for product in first + second] == [1, 2, 3, 4, 5, 6]


def test_a_product_is_the_same_from_the_database_and_from_the_cache(client):
    """The second answer comes from the cache and is byte for byte the first."""
    first, second = (client.get("/api/v1/products/3") for _ in range(2))

    assert first.json()["product"]["id"] == 3
    assert second.content == first.content


def test_a_product_that_does_not_exist_is_not_cached(client):
    """404 each time."""
    statuses = [client.get("/api/v1/products/999999").status_code for _ in range(2)]

    assert statuses == [404, 404]


def test_reviews_live_below_their_product(client):
    """A router in a router in a router."""
    product = client.get("/api/v1/products/3").json()
    reviews = client.get("/api/v1/products/3/reviews").json()

    assert len(reviews) == product["reviews"] > 0


def test_an_order_can_be_read_after_it_was_placed(client):
    """Written through the asynchronous engine, read through the other one."""
    price = client.get("/api/v1/products/3").json()["product"]["cents"]
    placed = client.post(
        "/api/v1/orders",
        json={"customer_id": 1, "lines": [{"product_id": 3, "quantity": 2}]},
    )
    read = client.get(f"/api/v1/orders/{placed.json()['id']}")

    assert placed.status_code == 201
    assert read.json()["cents"] == placed.json()["cents"] == 2 * price


def test_a_customer_who_orders_too_often_is_turned_away(client):
    """The fourth order of one customer in a window is a 429; the next customer is served."""
    order = {"customer_id": 1, "lines": [{"product_id": 3}]}
    # A window may end between two of them.
    statuses = [client.post("/api/v1/orders", json=order).status_code for _ in range(7)]
    other = client.post("/api/v1/orders", json={**order, "customer_id": 2})

    assert set(statuses) == {201, 429}
    assert other.status_code == 201


def test_search_is_limited_although_its_router_is_included(client):
    """slowapi's decorator counts on nested routers; the 429 says when to come back."""
    answers = [client.get("/api/v1/search?q=lamp") for _ in range(60)]
    limited = [answer for answer in answers if answer.status_code == 429]

    assert {answer.status_code for answer in answers} == {200, 429}
    assert all("Retry-After" in answer.headers for answer in limited)


def test_the_sales_report_counts_every_order(client):
    """No category is missing, the best comes first."""
    sales = client.get("/api/v1/reports/sales").json()

    assert len(sales) == 8
    assert sales == sorted(sales, key=lambda row: -row["cents"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("blocking-call", 200),
        ("lazy-loads", 200),
        ("small-pool", 200),
        ("cold-cache", 200),
        ("unhandled-error", 500),
        ("slow-stream", 200),
    ],
)
def test_a_mistake_is_slow_or_fails_but_answers(client, path, status):
    """One caller alone gets an answer from each of them."""
    assert client.get(f"/mistakes/{path}").status_code == status


def test_a_pool_that_is_too_small_turns_callers_away(client):
    """Of many callers at once some run into the pool's timeout, and get a 500."""
    with ThreadPoolExecutor(8) as callers:
        paths = ["/mistakes/small-pool"] * 8
        statuses = [answer.status_code for answer in callers.map(client.get, paths)]

    assert set(statuses) == {200, 500}


@pytest.mark.parametrize("route", mistakes.routes, ids=lambda route: route.name)
def test_every_mistake_says_what_is_wrong_and_what_would_be_right(route):
    """The docstrings are the lesson."""
    lesson = route.endpoint.__doc__ or ""

    assert "Wrong: " in lesson
    assert "Right: " in lesson


def test_workers_that_start_together_seed_once(settings):
    """Whoever comes first fills the tables; the others wait, and find them full."""
    together = Barrier(4)

    def start(_worker: int) -> None:
        database = Database(settings.database_url)
        together.wait()
        seed(database)
        database.sync_engine.dispose()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(start, range(4)))

    database = Database(settings.database_url)
    with database.sync_session() as session:
        counts = [
            session.scalar(select(func.count()).select_from(model)) for model in (Product, Order)
        ]
    database.sync_engine.dispose()
    assert counts == [PRODUCTS, ORDERS]


def test_a_shop_that_starts_again_keeps_its_orders(settings):
    """Seeding does not touch what is there."""
    order = {"customer_id": 1, "lines": [{"product_id": 3}]}
    with TestClient(create_app(settings)) as client:
        placed = client.post("/api/v1/orders", json=order).json()
    with TestClient(create_app(settings)) as client:
        read = client.get(f"/api/v1/orders/{placed['id']}").json()

    assert read == {**placed, "placed": read["placed"]}


@pytest.mark.parametrize(
    ("url", "asynchronous", "synchronous"),
    [
        ("postgresql://u:p@h/d", "postgresql+asyncpg", "postgresql+psycopg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+asyncpg", "postgresql+psycopg"),
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite", "sqlite+pysqlite"),
    ],
)
def test_the_drivers_are_chosen_for_the_reader(url, asynchronous, synchronous):
    """One URL is enough for both engines."""
    database = Database(url)

    assert database.engine.url.drivername == asynchronous
    assert database.sync_engine.url.drivername == synchronous
    assert database.engine.url.database == database.sync_engine.url.database


def test_a_database_that_the_shop_cannot_use_is_named_with_the_remedy():
    """The message says what to write instead."""
    with pytest.raises(ValueError, match=r"begins with 'mysql'.*postgresql://"):
        Database("mysql://h/d")


def test_locust_finds_the_shopper_and_the_unlucky():
    """The file loads in Locust, in a process of its own since Locust patches the interpreter."""
    listed = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "examples/shop/locustfile.py", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"Shopper", "Unlucky"} <= set(listed.stdout.split())
