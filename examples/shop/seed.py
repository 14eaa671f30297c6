"""Tables and a little data: made once, by whichever worker comes first."""

from __future__ import annotations

import fcntl
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, text

from .database import Database
from .models import Base, Category, Order, OrderLine, Product, Review

CATEGORIES = ("Books", "Coffee", "Garden", "Kitchen", "Lamps", "Music", "Paper", "Tools")
PRODUCTS = 240
CUSTOMERS = 50
ORDERS = 400

ADJECTIVES = ("Plain", "Quiet", "Sturdy", "Bright", "Folding", "Heavy", "Little", "Round")
NOUNS = ("Lamp", "Kettle", "Notebook", "Spade", "Mug", "Record", "Hammer", "Shelf", "Grinder")
ADVISORY_LOCK = 0x5409


def seed(database: Database) -> None:
    """Create what is missing; safe to call from every worker at once, and again later."""
    with _alone(database) as connection:
        Base.metadata.create_all(connection)
        if not connection.scalar(select(func.count()).select_from(Product)):
            _fill(connection)


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """One transaction that no other worker runs at the same time."""
    if not database.is_sqlite:
        with database.sync_engine.begin() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=ADVISORY_LOCK)
            )
            yield connection
        return

    file = Path(database.url.database or "shop.db")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with database.sync_engine.connect() as connection:
            # Readers do not wait for the writer; the mode is kept in the file.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        with database.sync_engine.begin() as connection:
            yield connection


def _fill(connection: Connection) -> None:
    chance = random.Random(7)
    connection.execute(
        insert(Category), [{"id": n, "name": name} for n, name in enumerate(CATEGORIES, 1)]
    )
    prices = {n: chance.randrange(300, 20_000) for n in range(1, PRODUCTS + 1)}
    connection.execute(
        insert(Product),
        [
            {
                "id": n,
                "category_id": chance.randint(1, len(CATEGORIES)),
                "name": f"{chance.choice(ADJECTIVES)} {chance.choice(NOUNS)} No. {n}",
                "cents": cents,
            }
            for n, cents in prices.items()
        ],
    )
    connection.execute(
        insert(Review),
        [
            {"product_id": product, "stars": chance.randint(1, 5), "text": "As described."}
            for product in prices
            for _ in range(chance.randint(1, 9))
        ],
    )
    _fill_orders(connection, chance, prices)
    if connection.dialect.name == "postgresql":
        for table in ("category", "product"):
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            )


def _fill_orders(connection: Connection, chance: random.Random, prices: dict[int, int]) -> None:
    now = datetime.now(UTC)
    for _ in range(ORDERS):
        lines = [(chance.choice(list(prices)), chance.randint(1, 3)) for _ in range(3)]
        order = connection.scalar(
            insert(Order)
            .values(
                customer_id=chance.randint(1, CUSTOMERS),
                placed=now - timedelta(minutes=chance.randrange(40_000)),
                cents=sum(prices[product] * quantity for product, quantity in lines),
            )
            .returning(Order.id)
        )
        connection.execute(
            insert(OrderLine),
            [
                {"order_id": order, "product_id": product, "quantity": quantity}
                for product, quantity in lines
            ],
        )
