"""PostgreSQL and Redis, empty and fast."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis as redis_client
from psycopg import sql

from .process import PartFailed, Running, own_folder, running
from .programs import find
from .waiting import free_port

__all__ = ["PostgreSQL", "Redis", "postgresql", "redis", "sentinel"]

CARELESS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}
"""Nothing in a test needs to survive a power cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQL:
    """A PostgreSQL server; its superuser is ``postgres``, without a password."""

    port: int
    server: Running

    def url(self, database: str = "postgres", *, driver: str = "") -> str:
        """For psycopg and asyncpg; with a driver's name, for SQLAlchemy."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside of a transaction and return its rows."""
        url = self.url(database)
        with psycopg.connect(url, autocommit=True, connect_timeout=60) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh database that is dropped in the end, open connections or not."""
        name = f"test_{secrets.token_hex(6)}"
        quoted = sql.Identifier(name).as_string(None)
        self.execute(f"CREATE DATABASE {quoted}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {quoted} WITH (FORCE)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """A Redis server without persistence."""

    port: int
    server: Running

    @property
    def url(self) -> str:
        """For any client."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str) -> Any:
        """Send one command on a connection of its own."""
        with redis_client.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)


@contextmanager
def postgresql(*, settings: Mapping[str, str] | None = None) -> Iterator[PostgreSQL]:
    """Run a PostgreSQL server of its own.

    Args:
        settings: Lines of postgresql.conf, for example ``{"max_connections": "20"}``.
    """
    initdb, postgres = find("initdb"), find("postgres")
    user = _not_root()
    with own_folder("postgresql", user=user) as folder:
        data = folder / "data"
        _create_cluster(initdb, data, user=user)
        port = free_port()
        chosen = {**CARELESS, "port": str(port), **(settings or {})}
        options = [word for item in chosen.items() for word in ("-c", "=".join(item))]

        def accepts() -> bool:
            with suppress(psycopg.OperationalError):
                return bool(part.execute("SELECT 1"))
            return False

        command = [postgres, "-D", str(data), *options]
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM waits for the clients to leave.
        with running(
            command,
            name="postgresql",
            folder=folder,
            user=user,
            stop_with=signal.SIGINT,
        ) as server:
            part = PostgreSQL(port=port, server=server)
            server.wait_until(accepts)
            yield part


@contextmanager
def redis(*, settings: Mapping[str, str] | None = None) -> Iterator[Redis]:
    """Run a Redis server of its own.

    Args:
        settings: Lines of redis.conf, for example ``{"maxmemory": "1mb"}``.
    """
    port = free_port()
    chosen = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        **(settings or {}),
    }
    options = [word for name, value in chosen.items() for word in (f"--{name}", value)]

    with own_folder("redis") as folder, _redis(port, options, folder) as part:
        yield part


@contextmanager
def sentinel(service: str, *, port: int) -> Iterator[Redis]:
    """Run a sentinel for a Redis server.

    Args:
        service: What it calls the server.
        port: Of the server.
    """
    own = free_port()
    with own_folder("sentinel") as folder:
        # It writes down there what it finds out.
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"bind 127.0.0.1\nport {own}\nsentinel monitor {service} 127.0.0.1 {port} 1\n"
        )
        with _redis(own, [str(settings), "--sentinel"], folder) as part:
            yield part


@contextmanager
def _redis(port: int, options: Sequence[str], folder: Path) -> Iterator[Redis]:
    def answers() -> bool:
        with suppress(redis_client.RedisError):
            return bool(part.command("PING"))
        return False

    with running([find("redis-server"), *options], name="redis", folder=folder) as server:
        part = Redis(port=port, server=server)
        server.wait_until(answers)
        yield part


def _not_root() -> str | None:
    """Who runs PostgreSQL, which refuses to be root; nothing when we are somebody else anyway."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    msg = "PostgreSQL does not run as root, and there is no user postgres or nobody to run it."
    raise PartFailed(msg)


def _create_cluster(initdb: str, data: Path, *, user: str | None) -> None:
    done = subprocess.run(
        [
            initdb,
            "--pgdata",
            str(data),
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ],
        check=False,
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
    )
    if done.returncode:
        msg = f"initdb ended with {done.returncode}.\n{done.stdout}"
        raise PartFailed(msg)
