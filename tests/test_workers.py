"""A worker among its siblings."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from fastobs import _siblings, _workers, catalogue
from fastobs._endpoint import exposition
from fastobs._farewell import say_farewell
from fastobs._process import Process
from fastobs._service import Identity
from fastobs._workers import Workers
from fastobs.cells import Meters, slots
from fastobs.cells.shared import SharedStore
from fastobs.cells.slots import count
from fastobs.config import Workers as Settings
from tests import parts
from tests.driving import text_of, values

WHO = Identity("shop", "1", "")


@pytest.fixture
def workers(shared: Process) -> Iterator[Workers]:
    yield shared.workers
    shared.workers.close()


def folder_of(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def test_a_process_that_is_alone_is_one_worker(shared: Process, workers: Workers) -> None:
    """It starts no thread and makes no file."""
    workers.join(Settings(), WHO)
    workers.tell()

    assert values(shared.meters, catalogue.WORKERS) == {("live",): 1.0}
    assert values(shared.meters, catalogue.WORKER_STARTS) == {(): 1.0}
    assert "alone" in workers.status()


def test_switched_off_it_stays_alone(workers: Workers) -> None:
    """workers=None."""
    workers.join(None, WHO)

    assert "alone" in workers.status()


def test_a_worker_joins_once_and_tells_what_only_it_can_measure(
    shared: Process, workers: Workers, tmp_path: Path
) -> None:
    """A sibling shows it without asking."""
    for _ in range(2):
        workers.join(Settings(directory=tmp_path), WHO)
    workers.tell()
    folder = folder_of(tmp_path)

    assert f"slot 0 in {folder}" in workers.status()
    assert count(folder) == (1, 0)
    assert values(shared.meters, catalogue.WORKERS) == {("live",): 1.0}
    sibling = SharedStore(folder, _workers.version(), lambda what: None)
    assert count(folder) == (2, 0)
    sibling.close()
    assert (folder / "0.users").exists()


def test_a_worker_that_lets_go_frees_its_slot_and_keeps_its_numbers(
    shared: Process, workers: Workers, tmp_path: Path
) -> None:
    """As uninstrument() does."""
    workers.join(Settings(directory=tmp_path), WHO)
    shared.meters.counter(catalogue.HTTP_SLOW, "/").add(3)

    workers.close()

    assert count(folder_of(tmp_path)) == (0, 1)
    assert values(shared.meters, catalogue.HTTP_SLOW) == {("/",): 3.0}


def test_what_came_after_the_last_tick_is_told_when_the_process_ends(
    shared: Process, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recycled worker loses nothing of the users' own metrics either."""
    monkeypatch.setattr(_workers, "TICK", 3600)
    workers.join(Settings(directory=tmp_path), WHO)
    path = folder_of(tmp_path) / "0.users"
    parts.eventually(path.exists)
    path.unlink()

    say_farewell()

    assert path.exists()


def test_when_it_cannot_be_told_the_process_ends_all_the_same(
    shared: Process,
    workers: Workers,
    tmp_path: Path,
    contained_errors: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is there any more to whom an error would say something."""
    workers.join(Settings(directory=tmp_path), WHO)

    def tell() -> None:
        raise OSError

    monkeypatch.setattr(workers, "tell", tell)

    workers.close()

    assert "alone" in workers.status()


def test_a_worker_without_a_slot_of_its_own_is_counted_and_warned_of(
    shared: Process,
    workers: Workers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it counts is in the sum; what is not is said."""
    monkeypatch.setattr(slots, "MOST", 1)
    folder = _siblings.shared_folder(tmp_path, WHO, _workers.version())
    assert folder is not None
    first = SharedStore(folder, _workers.version(), lambda what: None)
    sibling = Meters(first)

    with caplog.at_level(logging.WARNING):
        workers.join(Settings(directory=tmp_path), WHO)
    shared.meters.counter(catalogue.HTTP_SLOW, "/").add(3)
    workers.tell()

    (record,) = caplog.records
    assert "more workers than slots" in record.getMessage()
    assert "gauges and your own prometheus_client metrics are not shown" in workers.status()
    assert 'fastobs_slow_requests_total{http_route="/"} 3.0' in text_of(sibling)
    assert 'fastobs_label_overflow_total{metric="fastobs_workers"} 1.0' in text_of(sibling)
    first.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_anew_and_leaves_the_slot_to_its_parent(
    shared: Process, workers: Workers, tmp_path: Path
) -> None:
    """It neither counts into it nor keeps it alive."""
    workers.join(Settings(directory=tmp_path), WHO)
    counter = shared.meters.counter(catalogue.HTTP_SLOW, "/")
    counter.add(3)
    read, write = os.pipe()

    if (pid := os.fork()) == 0:
        seen = counter.value
        counter.add(100)
        shared.meters.refresh()
        text = text_of(shared.meters)
        shows = all(line in text for line in ("fastobs_build_info{", "websocket_connections 0.0"))
        os.write(write, f"{seen} {'alone' in workers.status()} {shows}".encode())
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 50) == b"0.0 True True"
    assert counter.value == 3.0
    workers.close()
    assert count(folder_of(tmp_path)) == (0, 1)


@pytest.mark.parametrize("how", ["no directory", "garbage", "no room"])
def test_what_cannot_be_shared_is_one_warning_and_metrics_of_its_own(
    how: str,
    shared: Process,
    workers: Workers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never a start that fails."""
    directory = tmp_path / "d"
    if how == "no directory":
        directory.touch()
    elif how == "garbage":
        folder = _siblings.shared_folder(directory, WHO, _workers.version())
        assert folder is not None
        (folder / "keys").write_text("garbage\n")
    else:

        def full(file: int, offset: int, length: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)

    with caplog.at_level(logging.WARNING):
        workers.join(Settings(directory=directory), WHO)

    assert "alone" in workers.status()
    (record,) = caplog.records
    assert "FASTOBS_WORKERS_DIRECTORY" in record.getMessage()
    assert values(shared.meters, catalogue.SELF_ERRORS) == {("workers",): 1.0}


@pytest.mark.parametrize("damage", [b"", b"x", b"garbage!" * 100], ids=["empty", "cut", "garbage"])
@pytest.mark.parametrize("name", ["keys", "1.cells", "1.exemplars", "1.users"])
def test_whatever_is_damaged_the_rest_is_shown_and_the_damage_counted(
    name: str, damage: bytes, shared: Process, workers: Workers, tmp_path: Path
) -> None:
    """A scrape never fails, and the next one says that something was left out."""
    workers.join(Settings(directory=tmp_path), WHO)
    folder = folder_of(tmp_path)
    sibling = Meters(SharedStore(folder, _workers.version(), lambda what: None))
    for each in (shared.meters, sibling):
        row = each.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
        row.observe(0.02)
        row.remember(0.02, 1, 1)
    (folder / name).write_bytes(damage)

    for _ in range(2):
        page = exposition(shared.meters, shared.carry.families, openmetrics=True)
        families = {one.name: one for one in parse_openmetrics(b"".join(page).decode())}

    errors = {
        sample.labels["component"]: sample.value
        for sample in families[catalogue.SELF_ERRORS.name.removesuffix("_total")].samples
    }
    assert errors["workers"] >= 1
    assert families[catalogue.HTTP_DURATION.name].samples


def test_what_is_left_out_is_said_once_and_counted_each_time(
    shared: Process, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged file is met by every scrape."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            workers._left_out("1.cells is damaged")

    assert len(caplog.records) == 1
    assert values(shared.meters, catalogue.SELF_ERRORS) == {("workers",): 3.0}


def test_a_tick_that_fails_is_contained_and_the_next_one_comes(
    shared: Process,
    workers: Workers,
    tmp_path: Path,
    contained_errors: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Siblings go on showing the last one."""
    told = threading.Event()
    tries: list[int] = []

    def tell() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        told.set()

    monkeypatch.setattr(_workers, "TICK", 0.01)
    monkeypatch.setattr(workers, "tell", tell)

    workers.join(Settings(directory=tmp_path), WHO)

    assert told.wait(parts.PATIENCE)
    assert values(shared.meters, catalogue.SELF_ERRORS) == {("workers",): 1.0}
