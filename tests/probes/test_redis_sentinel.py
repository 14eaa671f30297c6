"""Clients that ask a sentinel which server is the master, on real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Connection, Redis, Sentinel
from redis.asyncio import Sentinel as AioSentinel
from redis.asyncio.sentinel import SentinelManagedConnection as AioManagedConnection
from redis.sentinel import SentinelManagedConnection

from fastobs import catalogue
from tests.parts import stores

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture(scope="module")
def sentinel() -> Iterator[tuple[str, int]]:
    """Where one is that watches a master."""
    with stores.redis() as master, stores.sentinel("shop", port=master.port) as server:
        yield "127.0.0.1", server.port


def test_the_pool_of_a_service_is_called_after_it(
    sentinel: tuple[str, int], probes: object, read: Read
) -> None:
    """Which server it connects to may change; to ask for that is a part of opening a connection."""
    manager = Sentinel([sentinel])
    master: Redis = manager.master_for("shop")
    replica: Redis = manager.slave_for("shop", db=3)
    for client in (master, replica):
        client.ping()
        client.ping()

    for name in ("redis:shop/0", "redis:shop replicas/3"):
        counts = read(catalogue.POOL_COUNT)
        assert (counts[name, "used"], counts[name, "idle"]) == (0, 1)
        assert read(catalogue.POOL_CREATE)[name,] == 1
        assert read(catalogue.POOL_WAIT)[name,] == read(catalogue.POOL_USE)[name,] == 2
        assert read(catalogue.POOL_PENDING)[name,] == 0
    for client in (master, replica, *manager.sentinels):
        client.close()


def test_in_an_older_release_it_is_opened_once_as_well(
    sentinel: tuple[str, int], attach: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is connected like any other, once its server is known."""

    def connect_to(connection: Any, address: tuple[str, int]) -> None:
        connection.host, connection.port = address
        Connection.connect(connection)

    monkeypatch.setattr(SentinelManagedConnection, "connect_to", connect_to)
    monkeypatch.setattr(AioManagedConnection, "connect_to", connect_to)
    attach()
    manager = Sentinel([sentinel])
    with manager.master_for("shop") as master:
        master.ping()
        master.ping()

        assert read(catalogue.POOL_CREATE)["redis:shop/0",] == 1
        assert read(catalogue.POOL_WAIT)["redis:shop/0",] == 2
    manager.sentinels[0].close()


async def test_with_asyncio_it_is_the_same(
    sentinel: tuple[str, int], probes: object, read: Read
) -> None:
    """One connection is opened, and two callers have it."""
    manager = AioSentinel([sentinel])
    async with manager.master_for("shop") as master:
        await master.ping()
        await master.ping()

        counts = read(catalogue.POOL_COUNT)
        assert (counts["redis:shop/0", "used"], counts["redis:shop/0", "idle"]) == (0, 1)
        assert read(catalogue.POOL_CREATE)["redis:shop/0",] == 1
        assert read(catalogue.POOL_WAIT)["redis:shop/0",] == 2
    for each in manager.sentinels:
        await each.aclose()
