"""Mixed load: people who shop, and somebody who walks into every mistake.

Headless: ``locust -f examples/shop/locustfile.py --host http://127.0.0.1:8000 --headless -u 15 -r 5 -t 30s``
"""

from __future__ import annotations

import random

from gevent.pool import Group  # type: ignore[import-untyped]
from locust import FastHttpUser, between, task

PRODUCTS = 240
POPULAR = 40
CUSTOMERS = 50
CURRENCIES = ("EUR", "USD", "GBP", "JPY")
WORDS = ("lamp", "kettle", "mug", "record", "spade")


def some_product() -> int:
    """Most people look at the same few things."""
    return random.randint(1, POPULAR if random.random() < 0.8 else PRODUCTS)


class Shopper(FastHttpUser):
    """Looks around a lot, and buys now and then."""

    weight = 4
    wait_time = between(0.1, 0.5)

    @task(12)
    def look_at_a_product(self) -> None:
        self.client.get(f"/api/v1/products/{some_product()}", name="/api/v1/products/{id}")

    @task(6)
    def leaf_through_the_list(self) -> None:
        after = random.randrange(0, PRODUCTS, 20)
        self.client.get(f"/api/v1/products?after={after}", name="/api/v1/products")

    @task(4)
    def read_reviews(self) -> None:
        self.client.get(
            f"/api/v1/products/{some_product()}/reviews", name="/api/v1/products/{id}/reviews"
        )

    @task(3)
    def ask_for_a_price(self) -> None:
        currency = random.choice(CURRENCIES)
        self.client.get(
            f"/api/v1/products/{some_product()}/price?currency={currency}",
            name="/api/v1/products/{id}/price",
        )

    @task(5)
    def search(self) -> None:
        word = random.choice(WORDS)
        path = f"/api/v1/search?q={word}"
        with self.client.get(path, name="/api/v1/search", catch_response=True) as answer:
            if answer.status_code == 429:
                answer.success()

    @task(4)
    def buy(self) -> None:
        order = {
            "customer_id": random.randint(1, CUSTOMERS),
            "lines": [{"product_id": some_product(), "quantity": random.randint(1, 3)}],
        }
        with self.client.post("/api/v1/orders", json=order, catch_response=True) as answer:
            if answer.status_code == 429:
                answer.success()

    @task(3)
    def look_up_an_order(self) -> None:
        self.client.get(f"/api/v1/orders/{random.randint(1, 400)}", name="/api/v1/orders/{id}")

    @task(1)
    def read_the_sales_report(self) -> None:
        self.client.get("/api/v1/reports/sales")


class Unlucky(FastHttpUser):
    """Uses only what was built wrong."""

    weight = 1
    wait_time = between(0.2, 0.8)

    def on_start(self) -> None:
        """Each mistake once, in any order: however short the load is, none is left out by chance."""
        mistakes = list(dict.fromkeys(self.tasks))
        for mistake in random.sample(mistakes, k=len(mistakes)):
            mistake(self)

    @task(2)
    def blocking_call(self) -> None:
        self.client.get("/mistakes/blocking-call")

    @task(3)
    def lazy_loads(self) -> None:
        self.client.get("/mistakes/lazy-loads")

    @task(2)
    def small_pool(self) -> None:
        """A page whose tiles are fetched all at once."""
        tiles = Group()
        for _ in range(8):
            tiles.spawn(self.client.get, "/mistakes/small-pool")
        tiles.join()

    @task(4)
    def cold_cache(self) -> None:
        self.client.get("/mistakes/cold-cache")

    @task(1)
    def unhandled_error(self) -> None:
        self.client.get("/mistakes/unhandled-error")

    @task(2)
    def slow_upstream(self) -> None:
        self.client.get("/mistakes/slow-upstream")

    @task(2)
    def slow_stream(self) -> None:
        self.client.get("/mistakes/slow-stream")
