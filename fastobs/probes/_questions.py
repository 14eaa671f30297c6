"""What is asked of a database on our own account, which is no statement of the app's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ask", "ask_awaited", "most", "most_awaited"]

MOST = "SHOW max_connections"


def ask(connect: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Whether a server answers, on a connection of a pool."""
    with connect(*args, **options) as connection:
        connection.execute("SELECT 1")


async def ask_awaited(connect: Callable[..., Any], *args: Any, **options: Any) -> None:
    """The same with await."""
    async with connect(*args, **options) as connection:
        await connection.execute("SELECT 1")


def most(connect: Callable[..., Any], *args: Any, **options: Any) -> int:
    """The most connections that a server of PostgreSQL takes, by psycopg."""
    with connect(*args, **options) as connection:
        (value,) = connection.execute(MOST).fetchone()
    return int(value)


async def most_awaited(connect: Callable[..., Any], *args: Any, **options: Any) -> int:
    """The same by asyncpg."""
    connection = await connect(*args, **options)
    try:
        return int(await connection.fetchval(MOST))
    finally:
        await connection.close()
