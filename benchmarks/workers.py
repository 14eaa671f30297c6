"""`python -m benchmarks.workers`: many workers, ours against prometheus_client's multiprocess mode.

Both are given the same observations by the same number of workers, in one run, and both are asked in
turn. Workers are slots and file sets in one process: what a scrape costs depends on the files, not on
who wrote them. Recycling gives every worker a successor again and again.
"""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from fastobs import __version__, catalogue
from fastobs.cells import Meters
from fastobs.cells.render import render
from fastobs.cells.shared import SharedStore
from fastobs.cells.store import MemoryStore

METRIC = catalogue.HTTP_DURATION
console = Console(stderr=True, highlight=False)


class Row(NamedTuple):
    """Milliseconds of a scrape, and what is on disk: files and bytes."""

    title: str
    ours: float
    zipped: float
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
        return render(self._workers[0][0], openmetrics=False).encode()

    def zipped(self) -> bytes:
        return gzip.compress(self.scrape(), compresslevel=1)

    def files(self) -> tuple[int, int]:
        found = list(self._folder.iterdir())
        return len(found), sum(path.stat().st_size for path in found)

    def _start(self) -> tuple[Meters, SharedStore]:
        store = SharedStore(self._folder, "bench", lambda what: None)
        meters = Meters(store)
        for number in range(self._label_sets):
            meters.histogram(METRIC, "GET", f"/items/{{id}}/{number}", "200", "").observe(0.02)
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
            self._histogram.labels("GET", f"/items/{{id}}/{number}", "200", "").observe(0.02)

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
    output: Path = Path(__file__).parent / "workers.md",
) -> None:
    """Measure, and write ``benchmarks/workers.md``."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # prometheus_client decides at its import.
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
            words = [sys.executable, "-m", "benchmarks.workers", *sys.argv[1:]]
            raise typer.Exit(subprocess.run(words, env=environment, check=False).returncode)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        theirs_folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        ours = Ours(Path(folder), workers, label_sets)
        theirs = Theirs(theirs_folder, workers, label_sets)
        rows = [_row("fresh", ours, theirs)]
        console.print("Recycling")
        fifth = recycles // 5
        for number in range(recycles):
            ours.recycle()
            if number % 5 == 0:
                theirs.recycle()
        title = f"after {recycles} recycles (theirs: {fifth})"
        rows.append(_row(title, ours, theirs, repeats=3))
        (observed := Path(folder) / "observe").mkdir()
        costs = observe_costs(observed, theirs)
    output.write_text(_page(workers, label_sets, rows, costs))
    console.print(f"Wrote {output}.")


def _row(title: str, ours: Ours, theirs: Theirs, repeats: int = 9) -> Row:
    plain, zipped, yours = [], [], []
    for _ in range(repeats):
        plain.append(took(ours.scrape))
        zipped.append(took(ours.zipped))
        yours.append(took(theirs.scrape))
    return Row(title, median(plain), median(zipped), median(yours), ours.files(), theirs.files())


def _page(workers: int, label_sets: int, rows: list[Row], costs: dict[str, float]) -> str:
    lines = [
        "<!-- Made by `python -m benchmarks.workers`; do not edit. -->",
        "# Many workers, measured",
        "",
        (
            f"fastobs {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores; {workers} workers, "
            f"{label_sets} label sets of the duration histogram; both asked in turn, medians of CPU time."
        ),
        "",
        (
            "| a scrape | ours, ms | gzipped, ms | prometheus_client multiprocess, ms | factor "
            "| our files | their files |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for title, plain, zipped, yours, (count, size), (their_count, their_size) in rows:
        lines.append(
            f"| {title} | {plain:.1f} | {zipped:.1f} | {yours:.0f} | {yours / plain:.0f} x "
            f"| {count}, {size / 1e6:.1f} MB | {their_count}, {their_size / 1e6:.1f} MB |"
        )
    lines += ["", "| one observation of a histogram | ns |", "|---|---:|"]
    lines += [f"| {way} | {cost:.0f} |" for way, cost in costs.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
