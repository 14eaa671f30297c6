"""`python -m benchmarks.workers`: many workers, ours against prometheus_client's multiprocess mode.

Both are given the same observations by the same number of workers, in one run, and both are asked in
turn. Workers are slots and file sets in one process: what a scrape costs depends on the files, not on
who wrote them. Recycling gives every worker a successor again and again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import typer
from rich.console import Console

from fastobs import __version__, catalogue
from fastobs.cells import Meters
from fastobs.cells.render import render
from fastobs.cells.shared import SharedStore
from fastobs.cells.store import MemoryStore

METRIC = catalogue.HTTP_DURATION
console = Console(stderr=True, highlight=False)


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


def took(act: Callable[[], object], repeats: int) -> float:
    """The median, in milliseconds of CPU."""
    times = []
    for _ in range(repeats):
        started = process_time()
        act()
        times.append((process_time() - started) * 1e3)
    return median(times)


def observe_costs(folder: Path, times: int = 200_000) -> tuple[float, float]:
    """Nanoseconds of one observation: alone, and in a shared column; in turn."""
    alone = Meters(MemoryStore()).histogram(METRIC, "GET", "/", "200", "").observe
    shared = Meters(SharedStore(folder, "bench", lambda what: None))
    together = shared.histogram(METRIC, "GET", "/", "200", "").observe
    costs: tuple[list[float], list[float]] = ([], [])
    durations = [random.lognormvariate(-3, 1.5) for _ in range(1000)]
    for _ in range(times // 1000):
        for observe, cost in zip((alone, together), costs, strict=True):
            started = perf_counter()
            for duration in durations:
                observe(duration)
            cost.append((perf_counter() - started) * 1e6)
    return median(costs[0]), median(costs[1])


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
        rows = [("fresh", _both(ours, theirs), ours.files(), theirs.files())]
        console.print("Recycling")
        fifth = recycles // 5
        for number in range(recycles):
            ours.recycle()
            if number % 5 == 0:
                theirs.recycle()
        rows.append(
            (
                f"after {recycles} recycles (theirs: {fifth})",
                _both(ours, theirs, repeats=3),
                ours.files(),
                theirs.files(),
            )
        )
        (observed := Path(folder) / "observe").mkdir()
        alone, together = observe_costs(observed)
    output.write_text(_page(workers, label_sets, rows, alone, together))
    console.print(f"Wrote {output}.")


def _both(ours: Ours, theirs: Theirs, repeats: int = 9) -> tuple[float, float]:
    mine, yours = [], []
    for _ in range(repeats):
        mine.append(took(ours.scrape, 1))
        yours.append(took(theirs.scrape, 1))
    return median(mine), median(yours)


def _page(
    workers: int,
    label_sets: int,
    rows: list[tuple[str, tuple[float, float], tuple[int, int], tuple[int, int]]],
    alone: float,
    together: float,
) -> str:
    lines = [
        "<!-- Made by `python -m benchmarks.workers`; do not edit. -->",
        "# Many workers, measured",
        "",
        (
            f"fastobs {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores; {workers} workers, "
            f"{label_sets} label sets of the duration histogram; both asked in turn, medians of CPU time."
        ),
        "",
        "| | ours, ms | prometheus_client multiprocess, ms | factor | our files | their files |",
        "|---|---|---|---|---|---|",
    ]
    for title, (mine, yours), (count, size), (their_count, their_size) in rows:
        lines.append(
            f"| {title} | {mine:.1f} | {yours:.0f} | {yours / mine:.0f} x | {count}, {size / 1e6:.1f} MB "
            f"| {their_count}, {their_size / 1e6:.1f} MB |"
        )
    lines += [
        "",
        f"One observation of a histogram: {alone:.0f} ns alone, {together:.0f} ns in a shared column.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
