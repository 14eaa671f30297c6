"""What an event costs, by counting our calls: a count is the same on every machine, a time is not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from cachetools import LRUCache
from cashews import Cache
from limits import parse, storage, strategies
from pyrate_limiter import Duration, Limiter, Rate
from sqlalchemy import QueuePool, create_engine, text

import fastobs
from fastobs import watch
from tests.probes.upstream import request, upstream

OURS = str(Path(fastobs.__file__).parent)


def check(event: Callable[[], object], *, outside: int, inside: int) -> None:
    """So many calls of our functions at most are made for one event, once all is known.

    Who needs more has to say what each event gets for it.
    """
    for _ in range(3):
        event()
    counted = _counted(event)
    with request("/"):
        event()
        within = _counted(event)

    assert (counted <= outside, within <= inside) == (True, True), (counted, within)


def _counted(event: Callable[[], object]) -> int:
    calls = []

    def called(frame: Any, kind: str, _: object) -> None:
        if kind == "call" and frame.f_code.co_filename.startswith(OURS):
            calls.append(frame.f_code.co_name)

    # That the collector runs is an event of its own.
    gc.disable()
    sys.setprofile(called)
    try:
        event()
    finally:
        sys.setprofile(None)
        gc.enable()
    return len(calls)


@pytest.mark.usefixtures("probes")
def test_a_hit_in_memory_takes_one_call() -> None:
    """As many as the library needs itself."""
    cache: LRUCache[str, int] = watch(LRUCache(10), name="c")
    cache["key"] = 1

    check(lambda: cache["key"], outside=1, inside=1)


@pytest.mark.usefixtures("probes")
def test_a_decision_takes_three_calls() -> None:
    """Within a request it is kept until the route is known."""
    limiter, item = strategies.FixedWindowRateLimiter(storage.MemoryStorage()), parse("9/day")

    check(lambda: limiter.hit(item, "somebody"), outside=3, inside=3)


@pytest.mark.usefixtures("probes")
def test_a_decision_of_pyrate_limiter_takes_two_calls() -> None:
    """Its own and the one that decorated functions go by, too; two more where it is kept until the
    route is known."""
    with Limiter(Rate(1000, Duration.MINUTE)) as limiter:
        check(lambda: limiter.try_acquire("somebody"), outside=2, inside=4)


@pytest.mark.anyio
@pytest.mark.usefixtures("probes")
async def test_a_look_up_of_cashews_takes_two_calls() -> None:
    """A coroutine, and who makes it; four more where its time is a part of a request."""
    cache = Cache()
    cache.setup("mem://")
    await cache.set("key", 1)

    def look_up() -> None:
        # What is in memory is there at once.
        with pytest.raises(StopIteration, match="1"):
            cache.get("key").send(None)

    check(look_up, outside=2, inside=6)
    await cache.close()


@pytest.mark.usefixtures("probes")
def test_a_checkout_of_sqlalchemy_takes_five_calls() -> None:
    """With the checkin; two more where the wait is a part of a request."""
    engine = create_engine("sqlite://", poolclass=QueuePool)

    check(lambda: engine.raw_connection().close(), outside=5, inside=7)
    engine.dispose()


@pytest.mark.usefixtures("probes")
def test_a_statement_of_sqlalchemy_takes_four_calls() -> None:
    """Its repetition is looked for only within a request."""
    statement = text("SELECT 1")
    engine = create_engine("sqlite://", poolclass=QueuePool)
    with engine.connect() as connection:
        check(lambda: connection.execute(statement), outside=4, inside=7)
    engine.dispose()


@pytest.mark.usefixtures("probes")
def test_a_request_of_httpx_takes_four_calls() -> None:
    """Around the client, its pool, what waits there and what gives back; two more where it is a part
    of a request."""
    with upstream() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        check(lambda: client.get("/"), outside=4, inside=6)


@pytest.mark.integration
@pytest.mark.usefixtures("probes")
def test_a_command_of_redis_takes_seven_calls(redis_url: str) -> None:
    """With its checkout, its checkin and the look-up of a cache that it may be; two more where its time
    is a part of a request."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("key:1", "value")

        check(lambda: client.get("key:1"), outside=7, inside=9)


@pytest.mark.integration
@pytest.mark.usefixtures("probes")
def test_a_command_through_a_pool_that_blocks_takes_14_calls(redis_url: str) -> None:
    """Who waits is found in the context; within a request the wait is a part of it, too."""
    pool = redis.BlockingConnectionPool.from_url(redis_url)
    with redis.Redis.from_pool(pool) as client:
        client.set("key:1", "value")

        check(lambda: client.get("key:1"), outside=14, inside=18)
