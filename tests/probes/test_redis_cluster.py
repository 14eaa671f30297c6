"""Clients of a Redis cluster, on a real one of one node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import RedisCluster
from redis.asyncio import RedisCluster as AioRedisCluster

from fastobs import catalogue, watch
from fastobs.probes import _commands
from fastobs.probes._replies import OBSERVERS
from tests.parts import stores
from tests.parts.waiting import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Read = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture(scope="module")
def node() -> Iterator[stores.Redis]:
    """A node that has all keys."""
    # By itself it takes the port plus 10,000, which may be any connection's.
    settings = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with stores.redis(settings=settings) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.server.wait_until(lambda: "cluster_state:ok" in server.command("CLUSTER", "INFO"))
        yield server


@pytest.fixture
def port(node: stores.Redis) -> int:
    node.command("FLUSHALL")
    return node.port


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What an observer is told, without how long it took."""
    told: list[Any] = []
    for name in ("GET", "SET"):

        def observer(args: Any, reply: Any, _took: float, name: str = name) -> None:
            told.append((name, args, reply))

        monkeypatch.setitem(OBSERVERS, name, observer)
    return told


def test_a_cluster_is_watched_like_any_client(
    port: int, probes: Any, read: Read, told: list[Any]
) -> None:
    """Its commands are timed, and the pool of each node is counted under a name of its own."""
    with RedisCluster(host="127.0.0.1", port=port) as cluster:
        told.clear()
        cluster.set("key", "value")
        assert cluster.get("key") == b"value"
        assert cluster.pipeline().get("key").get("other").execute() == [b"value", None]
        assert cluster.pipeline().execute() == []
        names = {name for name, _ in read(catalogue.POOL_COUNT)}
        watch(cluster, name="shop")
        cluster.get("key")

        # The node was asked for the others with a pool of its own, which may be gone.
        assert f"redis:127.0.0.1:{port}/0#2" in names
        assert [(name, reply) for name, _, reply in told] == [
            ("SET", True),
            ("GET", b"value"),
            ("GET", b"value"),
            ("GET", None),
            ("GET", b"value"),
        ]
        durations = read(catalogue.DB_DURATION)
        assert durations["redis", "GET", ""] == 2
        assert durations["redis", "PIPELINE", ""] == 1
        counts = read(catalogue.POOL_COUNT)
        assert counts[f"shop 127.0.0.1:{port}", "used"] == 0
        assert counts[f"shop 127.0.0.1:{port}", "idle"] >= 1
        assert f"  shop 127.0.0.1:{port}: Redis ConnectionPool" in probes.status()


def test_the_pools_of_a_cluster_are_called_after_its_variable(
    port: int, probes: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after their nodes."""
    module = __import__(__name__, fromlist=["x"])
    with RedisCluster(host="127.0.0.1", port=port) as cluster:
        monkeypatch.setattr(module, "a_variable", cluster, raising=False)
        probes.discover()

        names = {name for name, _ in read(catalogue.POOL_COUNT)}
        assert f"{__name__}.a_variable 127.0.0.1:{port}" in names


async def test_an_asyncio_clusters_commands_are_timed(
    port: int, probes: Any, read: Read, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no pools, and status() says so."""
    async with AioRedisCluster(host="127.0.0.1", port=port) as cluster:
        module = __import__(__name__, fromlist=["x"])
        monkeypatch.setattr(module, "a_variable", cluster, raising=False)
        await cluster.set("key", "value")
        async with cluster.pipeline() as pipeline:
            pipeline.get("key")
            pipeline.get("other")
            assert await pipeline.execute() == [b"value", None]
        status = probes.status()
        watch(cluster, name="shop")

        assert [name for name, *_ in told] == ["SET", "GET", "GET"]
        assert read(catalogue.DB_DURATION) == {
            ("redis", "SET", ""): 1,
            ("redis", "PIPELINE", ""): 1,
        }
        assert read(catalogue.POOL_COUNT) == {}
        assert f"  {__name__}.a_variable: its commands are timed, its connections cannot" in status
        assert "  shop: its commands are timed" in probes.status()


def test_a_pipeline_that_hides_its_commands_is_not_timed() -> None:
    """A release that keeps them under another name."""
    assert _commands._stack_of(object()) == ()
