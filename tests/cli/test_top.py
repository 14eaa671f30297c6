"""``fastobs top`` shows what happened between two scrapes, and nothing that it cannot know."""

from __future__ import annotations

import math
import threading

import pytest
from rich.console import Console

from fastobs import catalogue
from fastobs.catalogue import POOL, POOL_STATE
from fastobs.cli import rows
from fastobs.cli.exposition import fallen, parse
from fastobs.cli.failure import Failed
from fastobs.cli.top import Look, screen
from tests.cli.running import complaint, fastobs
from tests.cli.test_rows import counter, requests


def shown(before: str, after: str, *, seconds: float = 2.0) -> str:
    console = Console(width=140, no_color=True)
    one, two = (Look(samples=parse(text), at=at) for text, at in ((before, 0), (after, seconds)))
    with console.capture() as capture:
        console.print(screen("http://shop/metrics", one, two))
    return capture.get()


def test_once_shows_a_service_and_ends(service):
    """What was asked between the two scrapes is there, and only that."""
    service.get("/broken")
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            service.get("/items/1")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        done = fastobs("top", service.url, "--once", "--interval", "0.5")
    finally:
        ended.set()
        thread.join()

    assert done.returncode == 0, done.stderr
    assert "1 worker" in done.stdout
    assert "/items/{item_id}" in done.stdout
    assert "prices" in done.stdout
    assert "/broken" not in done.stdout
    assert "nan" not in done.stdout


def test_rates_are_of_the_time_between_the_scrapes():
    """Ten requests in two seconds are five a second, whatever was counted before."""
    before = requests("/a", {"0.1": 90, "0.2": 90, "+Inf": 90})
    after = requests("/a", {"0.1": 95, "0.2": 100, "+Inf": 100})

    text = shown(before, after)

    assert "5.0 req/s" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("/a")]
    assert row == ["/a", "5.0", "100", "ms", "190", "ms", "198", "ms", "0", "0"]


def test_an_idle_service_says_so():
    """No table of nothing, and no number that is not one."""
    text = shown(requests("/a", {"+Inf": 9}), requests("/a", {"+Inf": 9}))

    assert "No route was asked." in text
    assert "nan" not in text


def test_a_counter_that_fell_shows_no_numbers():
    """A rate over a restart, or over workers that do not share, would be wrong."""
    with pytest.raises(Failed, match="fell between two scrapes"):
        shown(requests("/a", {"+Inf": 9}), requests("/a", {"+Inf": 4}))


def test_gauges_and_numbers_of_one_worker_may_fall():
    """A worker that is replaced takes its own numbers along."""
    before = counter(catalogue.PROCESS_CPU, 9, worker=0) + counter(catalogue.HTTP_WEBSOCKETS, 3)

    assert fallen(parse(before), {}) == []


def test_pools_are_told_fullest_first_over_all_workers():
    """Two workers with 3 of 5 each have 6 of 10; a pool without a limit has none to reach."""
    text = "".join(
        counter(catalogue.POOL_COUNT, 3, **{POOL: "db", POOL_STATE: "used", "worker": worker})
        + counter(catalogue.POOL_MAX, 5, **{POOL: "db", "worker": worker})
        + counter(catalogue.POOL_PENDING, 1, **{POOL: "db", "worker": worker})
        for worker in (0, 1)
    )
    text += counter(catalogue.POOL_COUNT, 7, **{POOL: "open", POOL_STATE: "used", "worker": 0})

    db, unlimited = rows.levels(
        parse(text), parse(counter(catalogue.POOL_TIMEOUTS, 2, **{POOL: "db"}))
    )

    assert (db.pool, db.used, db.most, db.waiting, db.timeouts) == ("db", 6, 10, 2, 2)
    assert (unlimited.pool, unlimited.used) == ("open", 7)
    assert math.isnan(unlimited.most)
    assert "6/10" in shown(text, text)
    assert "7/-" in shown(text, text)


@pytest.mark.parametrize("interval", ["0", "-1"])
def test_an_interval_that_is_none_is_refused(interval):
    """A service is not asked without a pause."""
    assert fastobs("top", "http://127.0.0.1:1", "--interval", interval).returncode == 2


def test_a_page_that_is_not_one_of_metrics_is_told(service):
    """Better than an empty table."""
    said = complaint(fastobs("top", f"{service.url}/items/1"))

    assert "/items/1 is not in the Prometheus text format" in said
