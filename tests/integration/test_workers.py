"""Several workers of real servers, and one truth."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastobs import catalogue
from fastobs.cells.slots import numbers as slots_of
from tests import parts
from tests.integration.collector import Collector, collecting

pytestmark = pytest.mark.integration

SERVERS = ["uvicorn", "gunicorn", "granian"]
OPTIONS = {
    # The app is imported once and forked; where workers are recycled below, each imports it.
    "gunicorn": ["--preload"],
    # It replaces workers that were killed only when it is told to.
    "granian": ["--respawn-failed-workers"],
}
WORKERS = 4
REQUESTS = 1000
SCRAPES = 20
PATIENCE = 120
"""Seconds for what takes a few, on a machine that has more to do."""
RECYCLED = 6
"""Workers that are replaced; `make soak` does hundreds."""


def numbers(server: parts.Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that one scrape shows."""
    body = parts.eventually(partial(_body, server), within=PATIENCE)
    heads = [line.split()[:3] for line in body.splitlines() if line.startswith("#")]
    assert len(heads) == len({tuple(head) for head in heads}), "HELP and TYPE come once"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def _body(server: parts.Server, path: str = "/metrics") -> str:
    """Nothing while the worker that was asked is being replaced."""
    try:
        return server.get(path).body
    except OSError:
        return ""


def total(server: parts.Server, name: str, **labels: str) -> float:
    """The sum of a series over all labels but these."""
    return sum(
        value
        for (found, has), value in numbers(server).items()
        if found == name and labels.items() <= has
    )


def answered(server: parts.Server) -> float:
    return total(server, f"{catalogue.HTTP_DURATION.name}_count", http_route="/items/{i}")


def live(server: parts.Server) -> float:
    return total(server, catalogue.WORKERS.name, state="live")


def ask(server: parts.Server, number: int) -> int:
    pid: int = json.loads(server.get(f"/items/{number}").body)["pid"]
    return pid


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, collector: Collector
) -> Iterator[parts.Server]:
    """Four workers."""
    options = OPTIONS.get(request.param, [])
    with serve(request.param, tmp_path, *options, env=collector.environment) as running:
        parts.eventually(lambda: live(running) == WORKERS, within=PATIENCE)
        yield running


def serve(name: Any, directory: Path, *options: str, env: dict[str, str] | None = None) -> Any:
    return parts.serve(
        "tests.integration.many:app",
        server=name,
        workers=WORKERS,
        options=options,
        env={"MANY_FOLDER": str(directory), **(env or {})},
    )


def _is(ask: Callable[[str], set[str]], metric: str, expected: set[str]) -> bool:
    return ask(metric) == expected


def folder_of(server: parts.Server) -> Path:
    """Where the workers share."""
    line = parts.eventually(partial(_body, server, "/status"), within=PATIENCE)
    return Path(json.loads(line).split(" in ")[1].split("\n")[0])


def test_every_scrape_totals_what_was_answered(server: parts.Server) -> None:
    """Whichever worker is asked; during the load it never falls."""
    seen: list[float] = []
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set() or len(seen) < SCRAPES:
            seen.append(answered(server))

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with ThreadPoolExecutor(8) as pool:
        pids = set(pool.map(lambda number: ask(server, number), range(REQUESTS)))
    done.set()
    scraper.join()

    assert len(pids) > 1
    assert seen == sorted(seen)
    # Who has its answer may ask another worker before the one that gave it has counted.
    parts.eventually(lambda: answered(server) == REQUESTS, within=PATIENCE)
    assert [answered(server) for _ in range(SCRAPES)] == [REQUESTS] * SCRAPES


def test_each_worker_is_seen_in_what_only_it_can_measure(
    server: parts.Server, collector: Collector
) -> None:
    """Process, probes and the users' own metrics have the slot as label; traces are of an instance each.

    Spans are sent by a thread that each worker started itself: threads do not survive a fork.
    """
    pids: dict[str, int] = {}

    def ask_and_note(number: int) -> None:
        answer = server.get(f"/items/{number}")
        pids[answer.headers["x-trace-id"]] = json.loads(answer.body)["pid"]

    with ThreadPoolExecutor(8) as pool:
        while len(set(pids.values())) < 2:
            list(pool.map(ask_and_note, range(100)))

    def workers(metric: str) -> set[str]:
        return {dict(labels)["worker"] for (name, labels) in numbers(server) if name == metric}

    slots = {str(number) for number in range(WORKERS)}
    for metric in (catalogue.PROCESS_RSS.name, catalogue.TASKS.name, "last_pid"):
        parts.eventually(partial(_is, workers, metric, slots), within=PATIENCE)
    parts.eventually(lambda: total(server, "orders_total") == len(pids), within=PATIENCE)
    assert total(server, catalogue.BUILD_INFO.name) == 1
    assert total(server, catalogue.WORKER_STARTS.name) == WORKERS

    parts.eventually(lambda: pids.keys() <= collector.instances.keys(), within=PATIENCE)
    pairs = {(pid, collector.instances[trace]) for trace, pid in pids.items()}
    assert len(pairs) == len({pid for pid, _ in pairs}) == len({name for _, name in pairs})


def test_a_killed_worker_takes_its_gauges_and_leaves_its_counters(
    server: parts.Server, tmp_path: Path
) -> None:
    """SIGKILL, with five requests in flight."""
    for number in range(50):
        ask(server, number)
    with ThreadPoolExecutor(5) as pool:
        stuck = [pool.submit(server.get, f"/stuck/{number}") for number in range(5)]
        parts.eventually(lambda: total(server, catalogue.HTTP_ACTIVE.name) == 5, within=PATIENCE)
        parts.eventually(lambda: answered(server) == 50, within=PATIENCE)
        parts.eventually(lambda: len(list(tmp_path.glob("[0-4]"))) == 5, within=PATIENCE)

        for pid in {int(path.read_text()) for path in tmp_path.glob("[0-4]")}:
            os.kill(pid, signal.SIGKILL)
        for one in stuck:
            assert one.exception(timeout=PATIENCE) is not None

    parts.eventually(lambda: total(server, catalogue.HTTP_ACTIVE.name) == 0, within=PATIENCE)
    assert answered(server) == 50
    if server.server.name == "granian":
        # It would wait for its dead, until it is killed.
        server.server.kill()


@pytest.mark.parametrize(
    ("name", "option"), [("uvicorn", "--limit-max-requests"), ("gunicorn", "--max-requests")]
)
def test_recycled_workers_lose_nothing_and_leave_nothing(
    name: Any, option: str, tmp_path: Path
) -> None:
    """The count stays exact, and files are bounded by the workers of one time."""
    with serve(name, tmp_path, option, "40") as server:
        parts.eventually(lambda: live(server) == WORKERS, within=PATIENCE)
        folder = folder_of(server)
        asked = got = 0
        while total(server, catalogue.WORKER_STARTS.name) < WORKERS + RECYCLED:
            for _ in range(10):
                asked += 1
                got += is_answered(server, asked)

        if name == "gunicorn":
            # A rolling restart: the new workers start while the old ones still answer.
            started = total(server, catalogue.WORKER_STARTS.name)
            os.kill(server.server.pid, signal.SIGHUP)
            parts.eventually(
                lambda: total(server, catalogue.WORKER_STARTS.name) >= started + WORKERS,
                within=PATIENCE,
            )

        # A worker that ends may refuse a connection, or cut one that it has served already; and
        # another one may show the sum before it has counted what is answered.
        parts.eventually(lambda: got <= answered(server) <= asked, within=PATIENCE)
        assert got > 40
        # The users' own metrics are told once a second, and when a worker ends.
        parts.eventually(lambda: got <= total(server, "orders_total") <= asked, within=PATIENCE)
        assert len(list(slots_of(folder))) <= 2 * WORKERS


def is_answered(server: parts.Server, number: int) -> bool:
    try:
        ask(server, number)
    except (OSError, HTTPException):
        return False
    return True


def test_two_services_under_one_shell_are_strangers(tmp_path: Path) -> None:
    """They share a parent, but it is no server of theirs."""
    with (
        parts.serve("tests.integration.many:app", env={"MANY_FOLDER": str(tmp_path)}) as one,
        parts.serve("tests.integration.many:app", env={"MANY_FOLDER": str(tmp_path)}) as two,
    ):
        ask(one, 1)

        assert (answered(one), answered(two)) == (1, 0)
        assert "alone" in one.get("/status").body
