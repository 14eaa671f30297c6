"""Repeated queries: what is found in a request, what is not, and what people are told of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from anyio.to_thread import run_sync
from fastapi import FastAPI
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    Table,
    create_engine,
    make_url,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    immediateload,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
)

from fastobs import _exchange, allow_repeats
from fastobs._exchange import Exchange
from fastobs._repeats import DISTINCT, repeated
from fastobs._routes import Routes
from tests.driving import scope

ORDERS = 6


class Base(AsyncAttrs, DeclarativeBase):
    """Of these tables."""


class Order(Base):
    """With items, and a note that is loaded when it is asked for."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="", deferred=True)
    items: Mapped[list[Item]] = relationship(back_populates="order")


class Item(Base):
    """Of an order."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order] = relationship(back_populates="items")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with some orders of one item each."""
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    fill(engine)
    yield engine
    engine.dispose()


def fill(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Order(items=[Item()]) for _ in range(ORDERS))


@contextmanager
def request() -> Iterator[Exchange]:
    """What the middleware does around a request."""
    exchange = Exchange(scope("/"), Routes(FastAPI()), 0.0)
    token = _exchange.CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        exchange.closed = True
        _exchange.CURRENT.reset(token)


def found(exchange: Exchange) -> list[dict[str, Any]]:
    return [each.finding() for each in repeated(exchange)]


def line_of(function: Callable[..., Any], more: int) -> str:
    return f"tests/probes/test_sqlalchemy_repeats.py:{function.__code__.co_firstlineno + more}"


def lazily(session: Session) -> None:
    for order in session.scalars(select(Order)):
        order.items  # noqa: B018 - it is loaded by being looked at


def upwards(session: Session) -> None:
    for item in session.scalars(select(Item)):
        item.order  # noqa: B018


def at_once(session: Session) -> None:
    session.scalars(select(Order).options(immediateload(Order.items))).all()


@pytest.mark.parametrize(
    ("load", "relation", "line"),
    [(lazily, "Order.items", 2), (upwards, "Item.order", 2), (at_once, "Order.items", 1)],
)
def test_what_the_orm_loads_one_by_one_is_a_finding(engine, probes, load, relation, line):
    """With its relation, how often, and the line of the app that caused it."""
    with request() as exchange, Session(engine) as session:
        load(session)

    assert found(exchange) == [
        {
            "kind": "repeated_query",
            "relation": relation,
            "count": ORDERS,
            "at": line_of(load, line),
        }
    ]


@pytest.mark.parametrize("load", [selectinload, subqueryload, joinedload])
def test_what_the_orm_loads_together_is_none(engine, probes, load):
    """However many batches it takes: selectinload asks for 500 parents at once."""
    with Session(engine) as session, session.begin():
        session.add_all(Order() for _ in range(3000))
    with request() as exchange, Session(engine) as session:
        session.scalars(select(Order).options(load(Order.items))).unique().all()

    assert found(exchange) == []


def unlabelled(statement: str) -> str:
    """SQLAlchemy 2.0 gives the columns of entities names of its own."""
    return re.sub(r" AS \w+", "", statement)


def test_a_look_up_by_key_is_not_the_relation_that_reads_the_same(engine, probes):
    """Item.order and get(Order) send the same text, and are counted apart."""
    with request() as exchange:
        with Session(engine) as session:
            upwards(session)
        for key in range(1, 6):
            with Session(engine) as session:
                session.get(Order, key)

    first, second = found(exchange)
    assert (first["relation"], first["count"]) == ("Item.order", ORDERS)
    assert (unlabelled(second["statement"]), second["count"]) == (
        "SELECT orders.id FROM orders WHERE orders.id = ?",
        5,
    )


def deferred_columns(session: Session) -> None:
    for order in session.scalars(select(Order)):
        order.note  # noqa: B018


def lists(session: Session) -> None:
    for length in range(1, 7):
        session.execute(select(Order.id).where(Order.id.in_(range(length))))


def literals(session: Session) -> None:
    for number in range(6):
        session.execute(
            text(f"SELECT id FROM orders WHERE id = {number} OR note = 'it''s {number}'")
        )


def by_driver(session: Session) -> None:
    for length in range(1, 7):
        sql = f"SELECT id FROM orders WHERE id IN ({', '.join('7' * length)})"
        session.connection().exec_driver_sql(sql)


def writing(session: Session) -> None:
    for _ in range(6):
        session.add(Order())
        session.flush()


@pytest.mark.parametrize(
    ("send", "statement"),
    [
        (deferred_columns, "SELECT orders.note FROM orders WHERE orders.id = ?"),
        (lists, "SELECT orders.id FROM orders WHERE orders.id IN (?)"),
        (literals, "SELECT id FROM orders WHERE id = ? OR note = ?"),
        (by_driver, "SELECT id FROM orders WHERE id IN (?)"),
        (writing, "INSERT INTO orders (note) VALUES (?)"),
    ],
)
def test_what_has_one_shape_is_one_statement(engine, probes, send, statement):
    """Literals and the length of lists make no difference, and are not told."""
    with request() as exchange, Session(engine) as session:
        send(session)

    (finding,) = found(exchange)
    assert (unlabelled(finding["statement"]), finding["count"]) == (statement, 6)
    assert "relation" not in finding


def together(session: Session) -> None:
    session.add_all(Order() for _ in range(6000))
    session.flush()


def executemany(session: Session) -> None:
    connection = session.connection()
    for _ in range(5):
        connection.execute(text("INSERT INTO orders (note) VALUES (:note)"), [{"note": ""}] * 2)


def framed(session: Session) -> None:
    for _ in range(6):
        with session.begin_nested():
            pass


def few(session: Session) -> None:
    for key in range(4):
        session.execute(select(Order).where(Order.id == key))


@pytest.mark.parametrize("send", [together, executemany, framed, few])
def test_batches_frames_and_a_few_are_no_finding(engine, probes, send):
    """Nor is what the library itself divides."""
    with request() as exchange, Session(engine) as session:
        send(session)

    assert found(exchange) == []


def test_what_is_meant_is_no_finding(engine, probes):
    """Nor within another such block, nor after it; the next statement counts again."""
    with request() as exchange, Session(engine) as session:
        polling = allow_repeats("waits for the order")
        with polling:
            few(session)
            with polling:
                few(session)
            few(session)
        few(session)
        assert found(exchange) == []
        session.execute(select(Order).where(Order.id == 1))

    assert [finding["count"] for finding in found(exchange)] == [5]


@pytest.mark.anyio
async def test_a_block_may_end_in_another_context_than_it_began_in():
    """As in a dependency whose two halves run on threads."""
    block = allow_repeats()

    await run_sync(block.__enter__)
    await run_sync(block.__exit__)


def test_outside_a_request_and_after_it_nothing_is_noted(engine, probes):
    """A background task may repeat what it wants."""
    with Session(engine) as session:
        lazily(session)
    with request() as exchange, Session(engine) as session:
        exchange.closed = True
        lazily(session)

    assert exchange.notes is None


def test_statements_made_from_data_are_not_all_remembered(engine, probes):
    """Nor is one of 100 kB, which nobody could read anyway."""
    with request() as exchange, engine.connect() as connection:
        for number in range(DISTINCT + 5):
            connection.exec_driver_sql(f"SELECT 1 AS c{number}")
        for _ in range(6):
            connection.exec_driver_sql(f"SELECT '{'x' * 100_000}'")
            connection.exec_driver_sql("SELECT 1 AS too_many")

    assert exchange.notes is not None
    assert len(exchange.notes["statements"]) == DISTINCT
    assert found(exchange) == []


def test_a_statement_of_nobody_has_no_line(engine, probes):
    """What a library sends on its own account has no line of the app."""
    code = compile("for _ in range(5): connection.exec_driver_sql('SELECT 1')", "<lib>", "exec")
    with request() as exchange, engine.connect() as connection:
        thread = Thread(target=copy_context().run, args=(exec, code, {"connection": connection}))
        thread.start()
        thread.join()

    assert found(exchange) == [{"kind": "repeated_query", "statement": "SELECT ?", "count": 5}]


async def per_order(session: AsyncSession) -> None:
    for order in await session.scalars(select(Order)):
        await order.awaitable_attrs.items


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[AsyncSession]:
    """A session on a real server."""
    url = make_url(database_url)
    sync = create_engine(url.set(drivername="postgresql+psycopg"))
    fill(sync)
    sync.dispose()
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_async_app_is_told_its_own_line_as_well(shop, probes):
    """The statement is sent from a greenlet; the line is that of the task."""
    with request() as exchange:
        await per_order(shop)

    assert found(exchange) == [
        {
            "kind": "repeated_query",
            "relation": "Order.items",
            "count": ORDERS,
            "at": line_of(per_order, 2),
        }
    ]


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_sequence_is_part_of_the_statement_it_is_for(shop, probes):
    """Each insert asks the sequence first: that makes not two of it."""

    def insert(connection: Connection) -> None:
        rows = Table(
            "numbered", MetaData(), Column("id", Integer, Sequence("numbers"), primary_key=True)
        )
        rows.metadata.create_all(connection)
        rows.implicit_returning = False
        for _ in range(5):
            connection.execute(rows.insert())

    with request() as exchange:
        await (await shop.connection()).run_sync(insert)

    assert [finding["count"] for finding in found(exchange)] == [5]
