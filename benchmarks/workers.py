"""`python -m benchmarks.workers`: many workers, ours against prometheus_client's multiprocess mode.

Both are given the same kind of observations by the same number of workers, in one run, and both are
asked in turn. Workers are slots and file sets in one process: what a scrape costs depends on the files, not on
who wrote them. Recycling gives every worker a successor again and again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from fastobs import __version__, catalogue
from fastobs._endpoint import exposition, zipped
from fastobs.cells import Meters
from fastobs.cells.shared import SharedStore
from fastobs.cells.store import MemoryStore

from . import fresh, sharing

METRIC = catalogue.HTTP_DURATION
VARIANTS = {"fastobs-1": "everything on, traces at 1 %", "fastobs-metrics": "metrics only"}
WAYS = {
    sharing.ALONE: "ours, alone",
    sharing.SHARED: "ours, sharing with siblings",
    sharing.THEIRS: "prometheus-fastapi-instrumentator, prometheus_client multiprocess",
}
OBSERVATIONS = 10
chance = random.Random(1)
console = Console(stderr=True, highlight=False)


class Row(NamedTuple):
    """Milliseconds of a scrape, and what is on disk: files and bytes."""

    title: str
    ours: float
    zipped: float
    openmetrics: float
    theirs: float
    our_files: tuple[int, int]
    their_files: tuple[int, int]


class Ours:
    """Workers with a slot each."""

    def __init__(self, folder: Path, workers: int, label_sets: int) -> None:
        self._folder = folder
        self._label_sets = label_sets
        self._workers = [self._start() for _ in range(workers)]

    def recycle(self) -> None:
        meters, store = self._workers.pop(0)
        store.close()
        del meters
        self._workers.append(self._start())

    def scrape(self) -> bytes:
        return b"".join(exposition(self._workers[0][0], list, openmetrics=False))

    def zipped(self) -> bytes:
        return zipped(exposition(self._workers[0][0], list, openmetrics=False))

    def openmetrics(self) -> bytes:
        """As Prometheus asks for it, if it keeps exemplars."""
        return zipped(exposition(self._workers[0][0], list, openmetrics=True))

    def files(self) -> tuple[int, int]:
        found = list(self._folder.iterdir())
        return len(found), sum(path.stat().st_size for path in found)

    def _start(self) -> tuple[Meters, SharedStore]:
        store = SharedStore(self._folder, "bench", lambda what: None)
        meters = Meters(store)
        for number in range(self._label_sets):
            row = meters.histogram(METRIC, "GET", f"/items/{{id}}/{number}", "200", "")
            for seconds in some_durations():
                row.observe(seconds)
            row.remember(seconds, chance.getrandbits(128), chance.getrandbits(64))
        return meters, store


class Theirs:
    """Processes with files of their own, told apart by the pid that each pretends to have."""

    def __init__(self, folder: Path, workers: int, label_sets: int) -> None:
        from prometheus_client import Histogram, values

        self._folder = folder
        self._pid = 0
        values.ValueClass = values.MultiProcessValue(lambda: self._pid)
        self._histogram: Any = Histogram(
            METRIC.name, METRIC.help, METRIC.labels, buckets=METRIC.buckets, registry=None
        )
        self._label_sets = label_sets
        for _ in range(workers):
            self.recycle()

    def recycle(self) -> None:
        self._pid += 1
        for number in range(self._label_sets):
            child = self._histogram.labels("GET", f"/items/{{id}}/{number}", "200", "")
            for seconds in some_durations():
                child.observe(seconds)

    def child(self) -> Any:
        return self._histogram.labels("GET", "/items/{id}/0", "200", "")

    def scrape(self) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        collector: Any = MultiProcessCollector
        collector(registry, path=str(self._folder))
        return bytes(generate_latest(registry))

    def files(self) -> tuple[int, int]:
        found = list(self._folder.iterdir())
        return len(found), sum(path.stat().st_size for path in found)


def some_durations() -> list[float]:
    """What a worker sees of a route in its life."""
    return [chance.lognormvariate(-3, 1.5) for _ in range(OBSERVATIONS)]


def took(act: Callable[[], object]) -> float:
    """Milliseconds of CPU."""
    started = process_time()
    act()
    return (process_time() - started) * 1e3


def observe_costs(folder: Path, theirs: Theirs, times: int = 200_000) -> dict[str, float]:
    """Nanoseconds of one observation, in turn."""
    alone = Meters(MemoryStore()).histogram(METRIC, "GET", "/", "200", "").observe
    shared = Meters(SharedStore(folder, "bench", lambda what: None))
    ways: dict[str, Callable[[float], object]] = {
        "ours, alone": alone,
        "ours, in a shared column": shared.histogram(METRIC, "GET", "/", "200", "").observe,
        "prometheus_client multiprocess, labels kept": theirs.child().observe,
        "the same, labels looked up each time": lambda seconds: theirs.child().observe(seconds),
    }
    costs: dict[str, list[float]] = {way: [] for way in ways}
    durations = [random.lognormvariate(-3, 1.5) for _ in range(1000)]
    for _ in range(times // 1000):
        for way, observe in ways.items():
            started = perf_counter()
            for duration in durations:
                observe(duration)
            costs[way].append((perf_counter() - started) * 1e6)
    return {way: median(cost) for way, cost in costs.items()}


def main(
    *,
    workers: int = 8,
    label_sets: int = 600,
    recycles: Annotated[
        int, typer.Option(help="Of ours; theirs gets a fifth, it takes long.")
    ] = 500,
    rounds: Annotated[int, typer.Option(help="Of requests, each with all ways.")] = 150,
    output: Path = Path(__file__).parent / "workers.md",
) -> None:
    """Measure, and write ``benchmarks/workers.md``."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # prometheus_client decides at its import.
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
            words = [sys.executable, "-m", "benchmarks.workers", *sys.argv[1:]]
            raise typer.Exit(subprocess.run(words, env=environment, check=False).returncode)
    home = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    (home / "requests").mkdir()
    (home / "scrapes").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(home / "requests")
    requests = {
        variant: fresh.run("time_sharing", variant, rounds=rounds, batch=200, warm_up=500)
        for variant in VARIANTS
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        folders = [Path(directory, name) for name in ("unworn", "worn", "observe")]
        for folder in folders:
            folder.mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(home / "scrapes")
        theirs = Theirs(home / "scrapes", workers, label_sets)
        unworn, worn = (Ours(folder, workers, label_sets) for folder in folders[:2])
        console.print("Recycling")
        for _ in range(recycles):
            worn.recycle()
        rows = [*_rows(unworn, worn, theirs, recycles)]
        costs = observe_costs(folders[2], theirs)
    output.write_text(_page(workers, label_sets, rows, costs, requests))
    console.print(f"Wrote {output}.")


def _rows(unworn: Ours, worn: Ours, theirs: Theirs, recycles: int) -> Iterator[Row]:
    """Each in turn, so that a busy machine is busy for all of them."""
    ways = [way for ours in (unworn, worn) for way in (ours.scrape, ours.zipped, ours.openmetrics)]
    times: list[list[float]] = [[] for _ in (*ways, theirs)]
    for number in range(31):
        for way, found in zip(ways, times, strict=False):
            # Only the first scrape of a worker makes its templates.
            way() if number == 0 else found.append(took(way))
        if number % 4 == 0:
            times[-1].append(took(theirs.scrape))
    *ours, fresh_one = [median(found) for found in times]
    yield Row("fresh", *ours[:3], fresh_one, unworn.files(), theirs.files())
    fifth = recycles // 5
    for _ in range(fifth):
        theirs.recycle()
    aged = median(took(theirs.scrape) for _ in range(3))
    title = f"after {recycles} recycles (theirs: {fifth})"
    yield Row(title, *ours[3:], aged, worn.files(), theirs.files())


def _page(
    workers: int,
    label_sets: int,
    rows: list[Row],
    costs: dict[str, float],
    requests: dict[str, dict[str, list[float]]],
) -> str:
    lines = [
        "<!-- Made by `python -m benchmarks.workers`; do not edit. -->",
        "# Many workers, measured",
        "",
        (
            f"fastobs {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores; {workers} workers, "
            f"{label_sets} label sets of the duration histogram, {OBSERVATIONS} observations and an exemplar in each by "
            "each worker; all asked in turn, medians of CPU time."
        ),
        "",
        (
            "| a scrape | ours, ms | gzipped, ms | OpenMetrics with exemplars, gzipped, ms "
            "| prometheus_client multiprocess, ms | factor | our files | their files |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for title, plain, packed, marked, yours, (count, size), (their_count, their_size) in rows:
        lines.append(
            f"| {title} | {plain:.1f} | {packed:.1f} | {marked:.1f} | {yours:.0f} "
            f"| {yours / plain:.0f} x | {count}, {size / 1e6:.1f} MB "
            f"| {their_count}, {their_size / 1e6:.1f} MB |"
        )
    lines += [
        "",
        "| a request in process, us | " + " | ".join(VARIANTS.values()) + " |",
        "|---|---:|---:|",
    ]
    for way, title in WAYS.items():
        over = [
            median(one - bare for one, bare in zip(times[way], times[sharing.BARE], strict=True))
            for times in requests.values()
        ]
        lines.append(f"| {title}, over bare FastAPI | {over[0]:.1f} | {over[1]:.1f} |")
    paired = [
        median(
            one - alone
            for one, alone in zip(times[sharing.SHARED], times[sharing.ALONE], strict=True)
        )
        for times in requests.values()
    ]
    ticks = [median(times[sharing.TICK]) / 1e3 for times in requests.values()]
    lines += [
        f"| what sharing adds, paired | {paired[0]:.1f} | {paired[1]:.1f} |",
        "",
        (
            f"Once a second a worker tells its siblings what only it can measure: {ticks[0]:.1f} ms, "
            f"with metrics only {ticks[1]:.1f} ms."
        ),
    ]
    lines += ["", "| one observation of a histogram | ns |", "|---|---:|"]
    lines += [f"| {way} | {cost:.0f} |" for way, cost in costs.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
