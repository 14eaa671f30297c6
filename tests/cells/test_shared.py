"""Rows in a segment that several workers map."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastobs import catalogue
from fastobs.cells import Meters, slots
from fastobs.cells.keys import Damaged, Keys
from fastobs.cells.shared import SharedStore
from fastobs.cells.slots import HEAD, count
from fastobs.cells.store import NUMBERS, Key
from tests.driving import text_of

VERSION = "test"


class Worker:
    """Meters on a slot of their own, as a worker process has them."""

    def __init__(self, folder: Path) -> None:
        self.alive = True
        self.left_out: list[str] = []
        self.store = SharedStore(folder, VERSION, self.left_out.append)
        self.meters = Meters(self.store)

    def shows(self) -> dict[str, float]:
        lines = [line for line in text_of(self.meters).splitlines() if line[0] != "#"]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def slow(self, route: str, amount: float = 1.0) -> None:
        self.meters.counter(catalogue.HTTP_SLOW, route).add(amount)

    def dies(self) -> None:
        if self.alive:
            self.alive = False
            self.store.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Starts workers that share a folder."""
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker(tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.dies()


SLOW_A = 'fastobs_slow_requests_total{http_route="/a"}'
SLOW_B = 'fastobs_slow_requests_total{http_route="/b"}'


def test_any_worker_shows_the_sum_of_all(worker: Callable[[], Worker]) -> None:
    """Also of rows that it never had itself."""
    one, two = worker(), worker()
    one.slow("/a", 2)
    two.slow("/a", 3)
    two.slow("/b", 5)
    two.meters.histogram(catalogue.POOL_WAIT, "p").observe(0.02)

    for each in (one, two):
        shown = each.shows()
        assert (shown[SLOW_A], shown[SLOW_B]) == (5, 5)
        assert (
            shown[
                'db_client_connection_wait_time_seconds_count{db_client_connection_pool_name="p"}'
            ]
            == 1
        )


def test_a_row_that_a_sibling_made_while_we_made_one_is_shown(
    worker: Callable[[], Worker],
) -> None:
    """It is read together with the place of ours, and must not be forgotten over that."""
    one, other = worker(), worker()
    one.slow("/theirs", 3)
    other.slow("/ours")

    assert other.shows() == one.shows()


def test_gauges_of_a_worker_carry_its_slot(worker: Callable[[], Worker]) -> None:
    """And only workers that measured something have one."""
    one, two, _ = worker(), worker(), worker()
    one.meters.gauge(catalogue.TASKS).set(3)
    two.meters.gauge(catalogue.TASKS).set(4)

    shown = {name: value for name, value in one.shows().items() if "asyncio_tasks" in name}

    assert shown == {'fastobs_asyncio_tasks{worker="0"}': 3, 'fastobs_asyncio_tasks{worker="1"}': 4}


def test_gauges_of_the_service_are_summed_or_the_largest(worker: Callable[[], Worker]) -> None:
    """Requests in flight add up; the version of the build does not."""
    for number in (1, 2):
        each = worker()
        each.meters.gauge(catalogue.HTTP_ACTIVE, "GET").add(number)
        each.meters.gauge(catalogue.BUILD_INFO, "1", "3", "0", "1").set(1)

    shown = each.shows()

    assert shown['http_server_active_requests{http_request_method="GET"}'] == 3
    assert [value for name, value in shown.items() if "build_info" in name] == [1]


def test_a_slot_that_is_free_again_goes_on_with_its_counters_and_forgets_its_gauges(
    worker: Callable[[], Worker],
) -> None:
    """Whatever ended its owner, and even if the next one has the same pid, as here."""
    one, two = worker(), worker()
    two.slow("/a", 7)
    two.meters.gauge(catalogue.HTTP_ACTIVE, "GET").add(5)
    two.meters.gauge(catalogue.TASKS).set(9)
    two.dies()

    shown = one.shows()
    assert shown[SLOW_A] == 7
    assert not [name for name in shown if "active_requests" in name or "asyncio_tasks" in name]

    three = worker()
    assert three.store.slot.number == two.store.slot.number
    three.slow("/a")
    shown = one.shows()
    assert shown[SLOW_A] == 8
    assert not [name for name in shown if "active_requests" in name or "asyncio_tasks" in name]


def test_the_number_of_files_is_bounded_by_the_workers_at_one_time(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """However many are recycled."""
    first = worker()
    for _ in range(50):
        recycled = worker()
        recycled.slow("/a")
        recycled.dies()

    assert first.shows()[SLOW_A] == 50
    assert len(list(tmp_path.iterdir())) == 1 + 2
    assert count(tmp_path) == (1, 1)


def test_what_was_counted_before_joining_is_taken_along(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """A process counts from its first import, and joins when it begins to serve."""
    other = worker()
    other.slow("/a", 10)
    meters = Meters()
    counter = meters.counter(catalogue.HTTP_SLOW, "/a")
    counter.add(2)
    meters.gauge(catalogue.TASKS).set(6)
    histogram = meters.histogram(catalogue.POOL_WAIT, "p")
    histogram.observe(0.02)

    meters.move(SharedStore(tmp_path, VERSION, lambda what: None))
    counter.add(1)
    histogram.observe(0.02)

    shown = other.shows()
    assert shown[SLOW_A] == 13
    assert shown['fastobs_asyncio_tasks{worker="1"}'] == 6
    assert (
        shown['db_client_connection_wait_time_seconds_count{db_client_connection_pool_name="p"}']
        == 2
    )


def test_what_was_counted_together_stays_when_a_worker_leaves(
    worker: Callable[[], Worker],
) -> None:
    """uninstrument() gives back the slot; the process keeps its own numbers."""
    from fastobs.cells.store import MemoryStore

    one, two = worker(), worker()
    two.slow("/a", 4)

    two.meters.move(MemoryStore())
    two.dies()

    assert two.shows()[SLOW_A] == 4
    assert one.shows()[SLOW_A] == 4


def test_exemplars_of_all_workers_are_shown_the_latest_of_each_bucket(
    worker: Callable[[], Worker],
) -> None:
    """Also by a worker that has none itself."""
    one, two, three = worker(), worker(), worker()
    for number, each in enumerate((one, two), 1):
        row = each.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
        row.observe(0.02)
        row.remember(0.02, number, number)

    for _ in range(2):
        text = text_of(three.meters, openmetrics=True)
        assert text.count("trace_id=") == 1
        assert f'trace_id="{2:032x}"' in text

    row.remember(0.03, 3, 3)
    row.remember(0.02, 4, 4)
    text = text_of(three.meters, openmetrics=True)
    assert text.count("trace_id=") == 2
    assert f'trace_id="{3:032x}"' in text
    assert f'trace_id="{4:032x}"' in text


def test_an_exemplar_that_was_being_written_is_shown_by_the_next_scrape(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """And one whose file is gone is not shown at all."""
    one, two = worker(), worker()
    row = one.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
    row.remember(0.02, 1, 1)
    place = row.exemplar_place
    assert place is not None
    at = next(at for at, cell in enumerate(place.cells) if at > HEAD and cell == 1.0)
    place.cells[at] = 7.0

    assert "trace_id=" not in text_of(two.meters, openmetrics=True)
    place.cells[at] = 1.0
    assert "trace_id=" in text_of(two.meters, openmetrics=True)

    three = worker()
    three.meters.view()
    view = three.meters.view()
    assert list(filter(None, view.exemplar_times(row)))
    (tmp_path / "0.exemplars").unlink()
    assert list(view.exemplar(row, 3)) == []


def test_no_sibling_sees_a_column_that_is_only_half_made(
    worker: Callable[[], Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take it for damaged."""
    one = worker()
    allocate = os.posix_fallocate

    def allocated(file: int, offset: int, length: int) -> None:
        assert one.shows()
        allocate(file, offset, length)
        assert one.shows()

    monkeypatch.setattr(os, "posix_fallocate", allocated)
    two = worker()
    two.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "").remember(0.02, 1, 1)

    assert one.left_out == []
    assert {path.name for path in tmp_path.iterdir()} == {
        "keys",
        "0.cells",
        "1.cells",
        "1.exemplars",
    }


def test_of_two_workers_that_make_a_column_at_the_same_time_one_takes_the_next(
    worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there once."""
    allocate = os.posix_fallocate
    others: list[Worker] = []

    def allocated(file: int, offset: int, length: int) -> None:
        allocate(file, offset, length)
        if not others:
            monkeypatch.undo()
            others.append(worker())

    monkeypatch.setattr(os, "posix_fallocate", allocated)

    assert worker().store.slot.number == 1
    assert others[0].store.slot.number == 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that are soon too short."""
    monkeypatch.setattr(slots, "CHUNK", 256)


@pytest.mark.usefixtures("small")
def test_a_column_grows_when_there_are_many_rows(worker: Callable[[], Worker]) -> None:
    """What was handed out before stays where it is."""
    one, two = worker(), worker()
    first = one.meters.counter(catalogue.HTTP_SLOW, "/first")
    for number in range(100):
        one.meters.histogram(catalogue.HTTP_DURATION, "GET", f"/{number}", "200", "")
    first.add(2)
    one.slow("/last")

    shown = two.shows()

    assert shown['fastobs_slow_requests_total{http_route="/first"}'] == 2
    assert shown['fastobs_slow_requests_total{http_route="/last"}'] == 1


def test_a_row_that_is_made_during_a_scrape_is_shown_by_the_next(
    worker: Callable[[], Worker],
) -> None:
    """What was read before it was made has no room for it."""
    one, two = worker(), worker()
    one.slow("/a")
    view = one.meters.view()
    two.slow("/b", 2)
    counter = one.meters.counter(catalogue.HTTP_SLOW, "/b")
    gauge = one.meters.gauge(catalogue.TASKS)
    gauge.set(1)
    histogram = one.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
    histogram.remember(0.1, 1, 1)

    assert [list(view.numbers(row)) for row in (counter, gauge, histogram)] == [[], [], []]
    assert one.shows()[SLOW_B] == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", b"garbage!" * 100, b"\0" * 64],
    ids=["empty", "truncated", "garbage", "zeros"],
)
def test_a_damaged_column_is_left_out_and_said(
    damage: bytes, worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """The others are still worth showing."""
    one, two = worker(), worker()
    one.slow("/a", 1)
    two.slow("/a", 2)
    (tmp_path / "1.cells").write_bytes(damage)

    assert one.shows()[SLOW_A] == 1
    assert one.left_out == ["1.cells is damaged"]


def test_a_damaged_column_begins_anew_with_its_next_owner(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """And says so."""
    one, two = worker(), worker()
    two.dies()
    (tmp_path / "1.cells").write_bytes(b"garbage!" * 100)

    three = worker()
    three.slow("/a", 2)

    assert one.shows()[SLOW_A] == 2
    assert three.left_out == ["slot 1 was damaged and begins anew"]


def test_a_worker_killed_while_writing_a_key_does_no_harm(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Half a line is no line; the next writer drops it."""
    one = worker()
    one.slow("/a")
    with (tmp_path / "keys").open("ab") as keys:
        keys.write(b'["cells", "fastobs_slow_req')

    two = worker()
    two.slow("/b", 2)

    assert (one.shows()[SLOW_A], one.shows()[SLOW_B]) == (1, 2)


def test_a_line_that_is_none_is_left_out(worker: Callable[[], Worker], tmp_path: Path) -> None:
    """What was known before it stays known."""
    one = worker()
    one.slow("/a")
    with (tmp_path / "keys").open("ab") as keys:
        keys.write(b"[1]\n")

    assert one.shows()[SLOW_A] == 1
    assert "the key table has a line that is none" in one.left_out[0]


def test_what_comes_behind_a_line_that_is_none_has_one_place_for_all(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """However much of the table each of them reads at a time."""
    one, two = worker(), worker()
    one.slow("/a", 1)
    with (tmp_path / "keys").open("ab") as keys:
        keys.write(b"[1]\n")
    one.slow("/lost", 5)
    one.slow("/b", 2)

    two.slow("/b", 20)
    two.slow("/a", 10)
    three = worker()
    three.slow("/c", 300)

    for each in (one, two, three):
        shown = each.shows()
        assert (shown[SLOW_A], shown[SLOW_B]) == (11, 22)
        assert shown['fastobs_slow_requests_total{http_route="/c"}'] == 300


@pytest.mark.parametrize("head", [b'{"fastobs": "other"}\n', b"garbage\n"])
def test_a_key_table_of_another_version_is_not_read(head: bytes, tmp_path: Path) -> None:
    """Its places would be other places."""
    (tmp_path / "keys").write_bytes(head)

    with pytest.raises(Damaged, match="of another version"):
        SharedStore(tmp_path, VERSION, lambda what: None)


def test_a_key_table_that_was_emptied_is_not_begun_anew(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Places would be given away a second time; those who know them go on."""
    one = worker()
    one.slow("/a")
    (tmp_path / "keys").write_bytes(b"")

    with pytest.raises(Damaged):
        worker()
    assert one.shows()[SLOW_A] == 1
    assert one.left_out


def test_a_key_table_that_lost_rows_is_not_gone_on_with(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Their places would be given away a second time."""
    one = worker()
    one.slow("/a")
    one.slow("/b")
    lines = (tmp_path / "keys").read_bytes().splitlines(keepends=True)
    (tmp_path / "keys").write_bytes(b"".join(lines[:-1]))

    with pytest.raises(Damaged, match="lost rows"):
        worker()


def test_keys_of_metrics_that_we_do_not_know_are_passed_over(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """They take their place all the same."""
    keys = Keys(tmp_path / "keys", VERSION, print)
    keys.place(NUMBERS, Key("fastobs_from_the_future_total", ("x",)), 3)
    keys.place(NUMBERS, Key(catalogue.HTTP_SLOW.name, ("too", "many")), 1)
    one, two = worker(), worker()
    one.slow("/a", 2)

    assert two.shows()[SLOW_A] == 2


def test_a_full_disk_makes_a_row_private_and_is_said(
    worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a request that fails, and never a SIGBUS."""
    one, two = worker(), worker()

    def full(file: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    one.slow("/a", 2)
    monkeypatch.undo()

    assert one.shows()[SLOW_A] == 2
    assert SLOW_A not in two.shows()
    assert "No space left on device" in one.left_out[0]


def test_a_disk_that_is_full_in_the_middle_of_a_line_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the line went in; it is taken out again."""
    keys = Keys(tmp_path / "keys", VERSION, print)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:5]))

    with pytest.raises(OSError, match="No space left"):
        keys.place(NUMBERS, Key("m", ()), 1)
    monkeypatch.undo()

    assert keys.place(NUMBERS, Key("m", ()), 1) == HEAD


@pytest.fixture
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST", 2)


@pytest.mark.usefixtures("two_slots")
def test_workers_above_the_most_share_a_column_and_sums_stay_whole(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Whoever is asked; what a worker has not told yet, it tells when it is asked itself."""
    workers = [worker() for _ in range(4)]
    for number, each in enumerate(workers, 1):
        each.slow("/a", 10**number)
        each.meters.histogram(catalogue.POOL_WAIT, "p").observe(0.02)
    assert workers[0].shows()[SLOW_A] == 110

    for each in workers[2:]:
        assert each.shows()[SLOW_A] >= 1110
    for each in workers:
        each.store.tell()
        shown = each.shows()
        assert shown[SLOW_A] == 11110
        name = catalogue.POOL_WAIT.name
        assert shown[f'{name}_count{{db_client_connection_pool_name="p"}}'] == 4
    assert [each.store.slot.worker for each in workers] == ["0", "1", "overflow", "overflow"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "keys",
        "0.cells",
        "1.cells",
        "overflow.cells",
    }


@pytest.mark.usefixtures("two_slots")
def test_gauges_and_exemplars_of_workers_above_the_most_are_not_shown(
    worker: Callable[[], Worker],
) -> None:
    """A sum of them would have no owner to end with; what such a worker counts by itself says whose it is."""
    first, _, above = worker(), worker(), worker()
    above.meters.gauge(catalogue.TASKS).set(3)
    above.meters.gauge(catalogue.HTTP_ACTIVE, "GET").add(1)
    above.meters.histogram(catalogue.GC_PAUSE, "0").observe(0.02)
    row = above.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
    row.remember(0.02, 1, 1)

    for each in (above, first):
        shown = each.shows()
        assert not [name for name in shown if "asyncio_tasks" in name or "active_req" in name]
        assert shown[f'{catalogue.GC_PAUSE.name}_count{{generation="0",worker="overflow"}}'] == 1
        assert "trace_id" not in text_of(each.meters, openmetrics=True)


@pytest.mark.usefixtures("two_slots")
def test_what_workers_above_the_most_have_told_outlives_them(worker: Callable[[], Worker]) -> None:
    """And the next one goes on with it."""
    first, _, above = worker(), worker(), worker()
    above.slow("/a", 3)
    above.store.tell()
    above.dies()

    next_one = worker()
    next_one.slow("/a", 4)
    next_one.store.tell()

    assert first.shows()[SLOW_A] == 7


@pytest.mark.usefixtures("two_slots")
def test_a_common_column_without_room_is_left_out_and_said(
    worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as soon as there is some."""
    first, _, above = worker(), worker(), worker()
    above.slow("/a", 3)

    def full(file: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert above.shows()[SLOW_A] == 0
    assert above.left_out == ["[Errno 28] No space left on device"]
    monkeypatch.undo()
    above.store.tell()

    assert first.shows()[SLOW_A] == 3


@pytest.mark.usefixtures("small")
def test_a_column_that_cannot_grow_is_shown_as_far_as_it_goes(
    worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling has made rows that this worker has no room for: a scrape is no reason to need it."""
    one, two = worker(), worker()
    one.slow("/a", 1)
    two.slow("/a", 2)
    for number in range(100):
        two.meters.histogram(catalogue.HTTP_DURATION, "GET", f"/{number}", "200", "")

    def full(file: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    assert one.shows()[SLOW_A] == 3
    row = one.meters.histogram(catalogue.HTTP_DURATION, "GET", "/99", "200", "")
    assert not row.shared
    assert "No space left on device" in one.left_out[-1]


def test_a_worker_without_traces_has_one_file(worker: Callable[[], Worker], tmp_path: Path) -> None:
    """The one for exemplars is made with the first of them."""
    one = worker()
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "0.cells"}

    row = one.meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
    row.remember(0.02, 1, 1)

    assert {path.name for path in tmp_path.iterdir()} == {"keys", "0.cells", "0.exemplars"}


def test_a_slot_that_is_gone_has_no_owner(tmp_path: Path) -> None:
    """Somebody may tidy up the folder of a server that is running."""
    assert not slots.is_live(tmp_path, 3)


def test_a_slot_that_is_looked_at_all_the_time_is_not_claimed(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Its last owner is dead; the next slot is as good."""
    one = worker()
    one.store.slot.sheet(NUMBERS).reach(2)[1] = 0.0
    one.dies()
    with (tmp_path / "0.cells").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        assert worker().store.slot.number == 1


def test_a_slot_says_who_has_it(worker: Callable[[], Worker], tmp_path: Path) -> None:
    """Or had it; nobody is 0, and so is what cannot be read."""
    worker()
    (tmp_path / "1.cells").write_bytes(b"garbage!" * 100)

    assert [slots.owner(tmp_path, number) for number in range(3)] == [os.getpid(), 0, 0]


def _count(folder: str, route: str, times: int) -> None:
    worker = Worker(Path(folder))
    for number in range(times):
        worker.slow(route)
        worker.slow(f"/{number % 50}")


def test_processes_that_count_at_the_same_time_lose_nothing(
    worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """Each has its own column, and rows are made under a lock."""
    one = worker()
    context: Any = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(str(tmp_path), "/a", 2000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    shown = one.shows()

    assert shown[SLOW_A] == 6000
    assert sum(v for n, v in shown.items() if n.startswith("fastobs_slow_requests_total")) == 12000
