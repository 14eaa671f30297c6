"""Probes for caches and limiters written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cachetools import LRUCache
from fastapi import FastAPI, HTTPException
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.testclient import TestClient

import fastobs
from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes import Probes, hand

Read = Callable[..., dict[tuple[str, ...], float]]


def test_a_look_up_passes_its_value_on(read: Read) -> None:
    """None is a miss, anything else a hit, also what is false."""
    probe = fastobs.cache("users")
    store = {"a": 0}

    assert probe(store.get("a")) == 0
    assert probe(store.get("b")) is None
    assert read(catalogue.CACHE_REQUESTS) == {
        ("users", "hit"): 1,
        ("users", "miss"): 1,
        ("users", "error"): 0,
    }


def test_no_two_have_one_name_by_accident(probes: Probes, read: Read) -> None:
    """What is given one name twice is one; something else that is called so is another."""
    watched: Any = fastobs.watch(LRUCache(3), name="users")
    limiter: Any = fastobs.watch(FixedWindowRateLimiter(MemoryStorage()), name="users")
    read(catalogue.CACHE_REQUESTS)
    first, again, limits = fastobs.cache("users"), fastobs.cache("users"), fastobs.limiter("users")
    watched.get("a")
    limiter.hit(parse("1/hour"), "a")
    for probe in (first, again):
        probe(1)
    limits.decision(True)

    assert read(catalogue.CACHE_REQUESTS)["users#2", "hit"] == 2
    assert read(catalogue.CACHE_REQUESTS)["users", "miss"] == 1
    assert {key[0] for key in read(catalogue.LIMIT_DECISIONS)} == {"users", "users#2"}


def test_the_http_cache_is_no_other(read: Read) -> None:
    """What is answered with 304 is counted under its name."""
    fastobs.cache("http")(1)

    assert read(catalogue.CACHE_REQUESTS)["http#2", "hit"] == 1


def test_the_status_has_a_line_for_them(probes: Probes) -> None:
    """As long as there is one of that name."""
    users, logins = fastobs.cache("users"), fastobs.limiter("logins")
    both = probes.status()
    del users

    assert "\n  users: written by hand\n" in both
    assert "\n  logins: written by hand" in both
    assert "\n  users: written by hand" not in probes.status()
    del logins


def test_what_is_missing_can_be_another_value(read: Read) -> None:
    """For stores in which None is a value."""
    probe, missing = fastobs.cache("users"), object()
    probe(missing, missing=missing)
    probe(None, missing=missing)

    assert read(catalogue.CACHE_REQUESTS)["users", "hit"] == 1
    assert read(catalogue.CACHE_REQUESTS)["users", "miss"] == 1


def test_events_can_be_told_one_by_one(read: Read) -> None:
    """Hits, misses, errors and evictions, one or many."""
    probe = fastobs.cache("users")
    probe.hit()
    probe.miss(2)
    probe.error(3)
    probe.evict(4)

    assert list(read(catalogue.CACHE_REQUESTS).values()) == [1, 2, 3]
    assert read(catalogue.CACHE_EVICTIONS) == {("users",): 4}


def test_loads_of_one_key_at_once_are_a_stampede(read: Read) -> None:
    """Loads of other keys, one after the other, or without a key are none."""
    probe = fastobs.cache("users")
    with probe.load("a"), probe.load("b"), probe.load(), probe.load():
        pass
    with probe.load("a"):
        assert read(catalogue.CACHE_STAMPEDES) == {("users",): 0}
        with probe.load("a"), probe.load("a"):
            pass

    assert read(catalogue.CACHE_STAMPEDES) == {("users",): 2}
    assert read(catalogue.CACHE_LOAD) == {("users",): 7}
    assert probe._loading == {}


def test_probes_of_one_name_know_of_each_others_loads(read: Read) -> None:
    """Also if each request asks for one of its own."""
    with fastobs.cache("users").load("a"), fastobs.cache("users").load("a"):
        pass

    assert read(catalogue.CACHE_STAMPEDES) == {("users",): 1}


def test_two_loads_that_end_at_once_are_both_over(read: Read) -> None:
    """Otherwise every further load of that key would seem to be a stampede."""
    probe = fastobs.cache("users")
    first, second = probe.load("a"), probe.load("a")

    class Interrupted(dict[Any, Any]):
        def pop(self, *args: Any) -> Any:
            taken = super().pop(*args)
            if pending:
                pending.pop().__exit__()
            return taken

    probe._loading = Interrupted()
    pending = [second]
    for load in (first, second):
        load.__enter__()
    first.__exit__()
    if pending:
        pending.pop().__exit__()
    with probe.load("a"):
        pass

    assert read(catalogue.CACHE_STAMPEDES) == {("users",): 1}
    assert probe._loading == {}


@pytest.mark.anyio
async def test_a_load_may_be_async_and_may_fail(read: Read) -> None:
    """It took its time all the same, and is going on no more."""
    probe = fastobs.cache("users")
    with pytest.raises(KeyError):
        async with probe.load("a"):
            raise KeyError

    assert read(catalogue.CACHE_LOAD) == {("users",): 1}
    assert probe._loading == {}


def test_a_decision_passes_on(read: Read) -> None:
    """Counted by limiter, limit and outcome; outside of a request there is no route."""
    probe = fastobs.limiter("checkout")

    assert probe.decision(True, limit="3 per minute", remaining=2) is True
    assert probe.decision(0, limit=3) == 0
    assert probe.decision(True) is True
    assert read(catalogue.LIMIT_DECISIONS) == {
        ("checkout", "3 per minute", "", "allowed"): 1,
        ("checkout", "3", "", "limited"): 1,
        ("checkout", "", "", "allowed"): 1,
    }


def test_limits_that_are_made_from_data_are_not_all_remembered(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted all the same, each as what it says."""
    monkeypatch.setattr(hand, "LIMITS", 2)
    probe = fastobs.limiter("checkout")
    for number in range(5):
        probe.decision(True, limit=number)

    assert len(read(catalogue.LIMIT_DECISIONS)) == 5
    assert len(probe._limits) == 2


def test_a_decision_within_a_request_is_its_routes(
    observed: Callable[..., Any], meters: Meters, read: Read
) -> None:
    """And its 429 is the limiter's, counted once however many limiters said no."""
    probe = fastobs.limiter("checkout")
    app = FastAPI()

    @app.get("/orders/{order}")
    def orders(order: int) -> int:
        if not probe.decision(order < 2, limit="2"):
            probe.decision(False, limit="1")
            raise HTTPException(429)
        return order

    observed(app)
    with TestClient(app) as client:
        for order in (1, 2, 3):
            client.get(f"/orders/{order}")

    assert read(catalogue.LIMIT_DECISIONS) == {
        ("checkout", "2", "/orders/{order}", "allowed"): 1,
        ("checkout", "2", "/orders/{order}", "limited"): 2,
        ("checkout", "1", "/orders/{order}", "limited"): 2,
    }
    assert read(catalogue.LIMIT_REJECTED)["/orders/{order}", "limiter"] == 2


@pytest.mark.parametrize("family", ["caches", "limits"])
def test_a_family_that_is_switched_off_is_not_shown(
    family: str, attach: Callable[..., Any], read: Read
) -> None:
    """The probe works as before; what it counts is seen by nobody."""
    attach(**{family: None})
    fastobs.cache("users")(None)
    fastobs.limiter("checkout").decision(True)

    assert (read(catalogue.CACHE_REQUESTS) == {}) == (family == "caches")
    assert (read(catalogue.LIMIT_DECISIONS) == {}) == (family == "limits")


@pytest.mark.usefixtures("contained_errors")
def test_an_error_of_ours_stays_ours(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and decisions are handed on, and the error is counted."""

    def broken(*_: Any) -> None:
        raise RuntimeError

    for name in ("_Rows", "Limit"):
        monkeypatch.setattr(hand, name, broken)
    probe = fastobs.cache("users")

    assert probe(1) == 1
    probe.evict()
    with probe.load(key=[]):  # type: ignore[arg-type] # unhashable
        pass
    assert fastobs.limiter("checkout").decision(True) is True
    assert read(catalogue.SELF_ERRORS)["probes.hand",] >= 4
