"""Caches written by hand over redis-py, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import redis
from aiocache import RedisCache
from redis import asyncio as aio

import fastobs
from fastobs import catalogue
from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.cells.shared import SharedStore
from fastobs.probes import redis_cache as adapter
from fastobs.probes._replies import OBSERVERS
from tests.probes.contract import COUNTER, SECRET, Contract
from tests.probes.upstream import request

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.integration,
    # SETEX is, and apps use it all the same; so does aiocache.
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]

Read = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture
def read(read: Read) -> Read:
    """Without the functions that other modules here have cached, which are found as any app's."""

    def read_ours(metric: Metric) -> dict[tuple[str, ...], float]:
        return {
            values: number
            for values, number in read(metric).items()
            if not values[0].startswith(("tests.", "docs."))
        }

    return read_ours


@pytest.fixture(params=[False, True], ids=["bytes", "str"])
def client(request: Any, redis_url: str) -> Iterator[redis.Redis]:
    """Made before the probes are attached."""
    with redis.Redis.from_url(redis_url, decode_responses=request.param) as client:
        yield client


@pytest.fixture
async def async_client(redis_url: str) -> Any:
    async with aio.Redis.from_url(redis_url) as client:
        yield client


def cached(client: Any, key: str, load: Callable[[], object] = lambda: None) -> Any:
    """What everybody writes, as a request of its own."""

    def aside() -> Any:
        if (value := client.get(key)) is None:
            load()
            client.set(key, value := "value", ex=60)
        return value

    return copy_context().run(aside)


async def async_cached(client: Any, key: str, together: asyncio.Barrier | None = None) -> Any:
    if (value := await client.get(key)) is None:
        if together:
            await together.wait()
        await client.setex(key, 60, value := b"value")
    return value


def test_a_cache_is_recognised_and_shown_from_its_beginning(client, probes, read) -> None:
    """Missed, stored with an expiry, found: hits, misses and loads, under the template of its keys."""
    for key in ("user:1", "user:bob@example.com", "user:1"):
        cached(client, key)

    assert read(catalogue.CACHE_REQUESTS) == {
        ("user:*", "hit"): 1,
        ("user:*", "miss"): 2,
        ("user:*", "error"): 0,
    }
    assert read(catalogue.CACHE_LOAD) == {("user:*",): 2}
    assert read(catalogue.CACHE_STAMPEDES) == {("user:*",): 0}
    assert read(catalogue.CACHE_ENTRIES) == {}
    cached(client, "user:1")
    cached(client, "user:2")
    assert read(catalogue.CACHE_REQUESTS)["user:*", "hit"] == 2
    assert read(catalogue.CACHE_REQUESTS)["user:*", "miss"] == 3
    assert "  user:*: keys of Redis, used as a cache" in probes.status()


async def test_a_cache_with_await_is_recognised(async_client, probes, read) -> None:
    """SETEX is the same; of three that load one key at once, two are too many."""
    together = asyncio.Barrier(3)
    await asyncio.gather(*(async_cached(async_client, "user:1", together) for _ in range(3)))
    await async_cached(async_client, "user:1")

    assert read(catalogue.CACHE_REQUESTS) == {
        ("user:*", "hit"): 1,
        ("user:*", "miss"): 3,
        ("user:*", "error"): 0,
    }
    assert read(catalogue.CACHE_STAMPEDES) == {("user:*",): 2}


def test_the_time_of_a_load_is_between_the_miss_and_the_store(client, clock, meters, read) -> None:
    """Asking and storing are not part of it."""

    def load() -> None:
        clock.now += 0.25

    cached(client, "user:1", load)
    cached(client, "user:1")
    read(catalogue.CACHE_LOAD)

    (row,) = meters.rows(catalogue.CACHE_LOAD)
    assert isinstance(row, Histogram)
    assert row.sum == 0.25


async def test_what_one_task_of_a_request_missed_another_one_may_load(
    client, async_client, probes, read
) -> None:
    """With `gather`, `wait_for` before Python 3.12 and worker threads the question is a task's or a
    thread's of its own."""
    with request("/"):
        await asyncio.gather(*(async_client.get(f"user:{number}") for number in range(3)))
        await asyncio.ensure_future(async_client.get("user:3"))
        await asyncio.to_thread(client.get, "user:4")
        for number in range(4):
            await async_client.set(f"user:{number}", "value", ex=60)
        await asyncio.to_thread(client.setex, "user:4", 60, "value")
    with request("/"):
        await asyncio.gather(async_client.get("user:0"), async_client.get("user:5"))
    with request("/"):
        # Another request's, whose load was it?
        await async_client.set("user:5", "value", ex=60)

    assert read(catalogue.CACHE_REQUESTS) == {
        ("user:*", "hit"): 1,
        ("user:*", "miss"): 6,
        ("user:*", "error"): 0,
    }
    assert read(catalogue.CACHE_LOAD) == {("user:*",): 5}
    assert read(catalogue.CACHE_STAMPEDES) == {("user:*",): 0}


async def test_a_request_that_loads_twice_at_once_is_a_stampede(async_client, probes, read) -> None:
    """Its tasks are told apart; who asks again before it loads has loaded once."""

    async def load() -> None:
        await asyncio.ensure_future(async_client.get("user:1"))
        await asyncio.ensure_future(async_client.get("user:1"))
        await together.wait()
        await async_client.set("user:1", "value", ex=60)

    together = asyncio.Barrier(2)
    with request("/"):
        await asyncio.gather(load(), load())
        await async_client.get("user:1")

    assert read(catalogue.CACHE_LOAD) == {("user:*",): 2}
    assert read(catalogue.CACHE_STAMPEDES) == {("user:*",): 1}


def test_several_keys_are_counted_one_by_one(client, probes, read) -> None:
    """MGET answers for each."""

    def aside() -> None:
        client.mget(["item:1", "item:2", "item:3"])
        with client.pipeline() as pipeline:
            for number in (1, 2, 3):
                pipeline.psetex(f"item:{number}", 60_000, "value")
            pipeline.execute()

    copy_context().run(aside)
    client.mget("item:1", "item:2", "item:4")

    assert read(catalogue.CACHE_REQUESTS) == {
        ("item:*", "hit"): 2,
        ("item:*", "miss"): 4,
        ("item:*", "error"): 0,
    }
    assert read(catalogue.CACHE_LOAD) == {("item:*",): 3}


def test_pipelines_are_looked_into(client, probes, read) -> None:
    """What is asked and stored in one pipeline has not been loaded in between."""

    def both() -> None:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("user:1").get("user:2").execute()
            pipeline.set("user:1", "1", ex=60).set("user:2", "2", ex=60).execute()
            pipeline.get("user:1").get("user:2").execute()
            pipeline.get("odd:1").setex("odd:1", 60, "1").get("odd:1").execute()

    copy_context().run(both)

    assert read(catalogue.CACHE_REQUESTS) == {
        ("user:*", "hit"): 2,
        ("user:*", "miss"): 2,
        ("user:*", "error"): 0,
    }


def session(client: Any) -> None:
    """Stored when somebody comes, and again with each request."""
    for number in range(3):
        client.get(f"session:{number}")
        for _ in range(3):
            client.setex(f"session:{number}", 60, "data")
            client.get(f"session:{number}")


def sliding(client: Any) -> None:
    """Kept alive by asking."""
    cached(client, "sliding:1")
    cached(client, "sliding:1")
    client.getex("sliding:1", ex=60)


def kept(client: Any) -> None:
    """Kept alive in a way of its own."""
    cached(client, "kept:1")
    cached(client, "kept:1")
    client.expire("kept:1", 60)


def lock(client: Any) -> None:
    """Taken by one."""
    for _ in range(2):
        client.get("lock:1")
        client.set("lock:1", "me", nx=True, ex=60)


def counter(client: Any) -> None:
    """A limiter by hand."""
    cached(client, "count:1", lambda: client.set("count:1", "1"))
    client.set("count:1", "1", ex=60)
    client.incr("count:1")
    client.get("count:1")


def denylist(client: Any) -> None:
    """Nearly everybody is not in it."""
    for number in range(10):
        client.get(f"revoked:{number}")
    client.setex("revoked:1", 60, "1")
    client.get("revoked:1")


def claimed(client: Any) -> None:
    """Who comes first does the work, and everybody gets its result: exactly one does it."""
    for _ in range(2):
        if client.get("payment:1") is None:
            client.set("payment:1", "begun", nx=True, ex=60)
            client.set("payment:1", "done", ex=60)


def exchanged(client: Any) -> None:
    """What is stored takes the place of something that is read with it."""
    cached(client, "turn:1")
    cached(client, "turn:1")
    client.set("turn:1", "2", get=True)


def idempotency(client: Any) -> None:
    """An answer is kept for who asks the same again, and said to be."""
    for _ in range(2):
        cached(client, "idem:1")
        cached(client, "shop:idempotency-keys:1")


def configuration(client: Any) -> None:
    """It has no expiry."""
    client.get("config:1")
    client.set("config:1", "on")
    client.get("config:1")


def foreign(client: Any) -> None:
    """Found, and never asked for in vain."""
    client.setex("mail:1", 60, "1")
    client.get("mail:1")


@pytest.mark.parametrize(
    "use",
    [
        session,
        sliding,
        kept,
        lock,
        counter,
        denylist,
        claimed,
        exchanged,
        idempotency,
        configuration,
        foreign,
    ],
)
def test_what_is_no_cache_does_not_appear(use, client, probes, read) -> None:
    """Redis is used for many things."""
    copy_context().run(use, client)

    assert read(catalogue.CACHE_REQUESTS) == {}


def test_a_forked_child_does_not_show_what_its_parent_saw(client, probes, read) -> None:
    """What is known of the keys is kept, not how often they were asked for."""
    cached(client, "user:1")
    cached(client, "user:1")
    probes.begin_anew()
    cached(client, "user:1")

    requests = read(catalogue.CACHE_REQUESTS)
    assert (requests["user:*", "hit"], requests["user:*", "miss"]) == (1, 0)


def test_what_another_worker_has_loaded_is_found(
    client, probes, read, meters: Meters, tmp_path: Path
) -> None:
    """A cache that is warm is never loaded by a worker that comes late: it goes by its siblings, if
    nothing speaks against it and nothing of its own is called so."""
    client.set("user:1", "value")
    client.set("session:1", "value")
    client.set("mine:1", "value")
    sibling = Meters(SharedStore(tmp_path, "1", print))
    meters.move(SharedStore(tmp_path, "1", print))
    mine = fastobs.cache("mine:*")
    mine.hit()
    for _ in range(2):
        client.get("user:1")
        client.get("session:1")
        client.get("mine:1")
        client.set("session:1", "value", ex=60)

    assert set(read(catalogue.CACHE_REQUESTS)) == {
        ("mine:*", result) for result in ("hit", "miss", "error")
    }
    for name in ("user:*", "session:*", "mine:*"):
        sibling.counter(catalogue.CACHE_REQUESTS, name, "hit")
    requests = read(catalogue.CACHE_REQUESTS)
    assert requests["user:*", "hit"] == 2
    assert requests["session:*", "hit"] == 0
    assert requests["mine:*", "hit"] == 1
    assert "session:*" not in probes.status()


def test_what_turns_out_to_be_state_is_not_counted_any_more(client, probes, read) -> None:
    """What was counted stays, as counters do."""
    cached(client, "user:1")
    cached(client, "user:1")
    before = read(catalogue.CACHE_REQUESTS)
    client.expire("user:1", 10)
    client.get("user:1")
    client.mget("user:1", "user:2")
    client.setex("user:1", 10, "1")

    assert read(catalogue.CACHE_REQUESTS) == before
    assert "user:*" not in probes.status()


async def test_a_library_with_an_adapter_of_its_own_is_not_counted_twice(
    redis_url: str, redis_server: Any, probes: Any, read: Read
) -> None:
    """Its keys look the same."""
    async with RedisCache(endpoint="127.0.0.1", port=redis_server.port) as cache:
        for _ in range(3):
            if await cache.get("user:1") is None:
                await cache.set("user:1", "value", ttl=60)

    assert {name for name, _ in read(catalogue.CACHE_REQUESTS)} == {"aiocache RedisCache"}


def test_ten_thousand_mail_addresses_are_one_name(client, probes, read) -> None:
    """Wherever they are in the key."""
    with client.pipeline(transaction=False) as pipeline:
        for number in range(10_000):
            pipeline.get(f"user:somebody.{number}@example.com:profile")
            pipeline.get(f"somebody{number}@example.com")
        pipeline.execute()
    cached(client, "x@example.com")

    assert len(probes_of(probes)._suspects) == 2


def test_further_names_share_one_and_are_counted(
    redis_url: str, probes: Any, meters: Meters, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost but the name."""
    monkeypatch.setattr(adapter, "NAMES", 2)
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):
            for name in ("aa", "bb", "cc", "dd"):
                cached(client, f"{name}:1")
        names = {name for name, _ in read(catalogue.CACHE_REQUESTS)}
        overflowed = read(catalogue.SELF_OVERFLOW)
        cached(client, "dd:1")
        client.mget("cc:1", "cc:2")

    assert names == {"aa:*", "bb:*", "_other"}
    assert overflowed == {(catalogue.CACHE_REQUESTS.name,): 4}
    assert read(catalogue.SELF_OVERFLOW) == {(catalogue.CACHE_REQUESTS.name,): 7}
    assert read(catalogue.CACHE_REQUESTS)["_other", "hit"] == 4
    assert read(catalogue.CACHE_LOAD)["_other",] == 2


def test_keys_beyond_all_templates_are_not_looked_at(
    client, attach, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are unknown, and take no memory."""
    suspects = probes_of(attach())
    monkeypatch.setattr(suspects._templates, "_limit", 1)
    monkeypatch.setattr(adapter, "REMEMBERED", 1)
    for _ in range(2):
        for key in ("aa:1", "bb:1", "cc:1"):
            cached(client, key)

    assert {name for name, _ in read(catalogue.CACHE_REQUESTS)} == {"aa:*"}
    assert len(suspects._by_key) == 1


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("shop/user:1/a", "shop/user:2/a"), "shop/user:*/a"),
        ((b"user|1", b"shop:user|2"), "user|*"),
        ((7,), "*"),
    ],
)
def test_keys_may_look_otherwise(keys, name, client, probes, read) -> None:
    """Other separators, bytes and numbers."""
    for key in (*keys, keys[0]):
        cached(client, key)

    assert read(catalogue.CACHE_REQUESTS)[name, "hit"] == 1


def test_only_so_many_loads_are_remembered(client, probes, read, monkeypatch) -> None:
    """Memory has an end."""
    monkeypatch.setattr(adapter, "LOADED", 2)
    for number in range(5):
        cached(client, f"user:{number}")

    assert len(probes_of(probes)._ended) == 2


def test_names_that_look_like_words_become_one(client, probes, read) -> None:
    """What was remembered of their keys is forgotten."""
    words = [f"{a}{b}x" for a in "ghijk" for b in "ghijk"]
    for word in words:
        client.get(f"user:{word}:profile")
    cached(client, f"user:{words[0]}:profile")
    cached(client, f"user:{words[0]}:profile")

    suspects = probes_of(probes)._suspects
    assert suspects["user:*:profile"].tally.hits.value == 1


def test_keys_that_turn_out_to_be_data_are_no_names(client, probes, read) -> None:
    """The first ones looked like words, and were counted as such; who is called so is told nobody."""
    people = [f"{a}{b}x" for a in "ghijk" for b in "ghijk"]
    for person in people:
        cached(client, person)
        cached(client, person)

    requests = read(catalogue.CACHE_REQUESTS)
    assert {name for name, _ in requests} == {"*"}
    assert (requests["*", "hit"], requests["*", "miss"]) == (len(people), len(people))
    assert read(catalogue.CACHE_LOAD)["*",] == len(people)
    assert set(probes_of(probes)._suspects) == {"*"}


def test_what_is_no_cache_stays_none_when_its_key_turns_out_to_be_data(
    client, probes, read
) -> None:
    """And what turns out to be of it is none, either."""
    people = [f"{a}{b}x" for a in "ghijk" for b in "ghijk"]
    cached(client, people[0])
    cached(client, people[0])
    client.incr("counter:1")
    for person in people[1:]:
        client.set(person, 1)
        client.incr(person)

    assert {name for name, _ in read(catalogue.CACHE_REQUESTS)} == set()


def test_a_cache_that_cannot_be_asked_has_errors(client, probes, read) -> None:
    """What is wrong with a command is no error of the cache."""
    cached(client, "user:1")
    cached(client, "user:1")
    client.lpush("user:list", "1")
    for command in (("GET", "user:list"), ("GET",), ("SETEX", "user:list", "soon", "1")):
        with pytest.raises(redis.ResponseError):
            client.execute_command(*command)
    before = read(catalogue.CACHE_REQUESTS)["user:*", "error"]
    with redis.Redis.from_url("redis://127.0.0.1:1", retry=None) as lost:
        with pytest.raises(redis.ConnectionError):
            lost.get("user:1")
        with pytest.raises(redis.ConnectionError):
            lost.mget("user:1", "user:2")

    assert before == 0
    assert read(catalogue.CACHE_REQUESTS)["user:*", "error"] == 3


def probes_of(probes: Any) -> Any:
    """The adapter that recognises caches."""
    (row,) = [row for row in probes._attached if row.module == ".redis_cache"]
    return probes._attached[row]


def test_without_the_pools_there_is_nothing_to_hear(client, attach, read) -> None:
    """status() says what to change."""
    probes = attach(pools=None)
    cached(client, "user:1")
    cached(client, "user:1")

    assert read(catalogue.CACHE_REQUESTS) == {}
    assert "only seen without pools=None" in probes.status()


def test_nothing_is_heard_after_detaching(client, attach, read) -> None:
    """What was learned is kept for the next time."""
    probes = attach()
    cached(client, "user:1")
    probes.detach()
    cached(client, "user:1")
    attach()
    attach()
    assert read(catalogue.CACHE_REQUESTS) == {}
    cached(client, "user:1")

    assert read(catalogue.CACHE_REQUESTS)["user:*", "hit"] == 1


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_stays_ours(client, attach, read, monkeypatch) -> None:
    """The app has its value, and the command is timed."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(adapter, "Suspect", fail)
    attach()

    assert cached(client, "user:1") == "value"
    assert read(catalogue.DB_DURATION)["redis", "GET", ""] == 1


class TestContract(Contract):
    """Caches by hand over redis-py."""

    row = ("redis", ".redis_cache")
    packages = ()
    name = "user:*"
    part = "cache"

    @pytest.fixture
    def place(self, redis_url: str) -> str:
        return redis_url

    @asynccontextmanager
    async def made(self, place: str) -> AsyncIterator[Any]:
        async with aio.Redis.from_url(place) as client:
            yield client

    def call(self, it: Any, name: str) -> None:
        """It is called after its keys."""

    def marks(self, it: Any) -> object:
        return len(OBSERVERS)

    async def use(self, it: Any) -> Any:
        # Missed, stored and found: one hit.
        key = f"user:{SECRET}{next(COUNTER)}@example.com"
        return [await async_cached(it, key) for _ in range(2)]

    def events(self, read: Read, name: str) -> float:
        return read(catalogue.CACHE_REQUESTS).get((name, "hit"), 0)
