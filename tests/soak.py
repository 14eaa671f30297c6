"""`make soak`: load on several workers that are killed, recycled and reloaded, and the count is exact.

Not a test that pytest collects: it takes half an hour. Ends with 0 if every request that was answered
was counted (but for one with each SIGKILL, see docs/many-workers.md), if none was counted that was never
sent, and if memory and files stayed flat.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from fastobs import catalogue
from fastobs.cells.slots import numbers as numbers_of
from fastobs.cells.slots import owner
from tests import parts
from tests.integration.test_workers import (
    WORKERS,
    answered,
    folder_of,
    is_answered,
    live,
    numbers,
    serve,
)

console = Console(highlight=False)
RECYCLING = {"uvicorn": "--limit-max-requests", "gunicorn": "--max-requests"}
"""The option, and with `-jitter` the one by which the workers do not all end at once."""


@dataclass
class Load:
    """What the clients saw."""

    answered: int = 0
    cut: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, server: parts.Server) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            try:
                answer = server.get(f"/items/{number}")
            except (OSError, HTTPException) as error:
                with self.lock:
                    self.cut.append(f"{time.strftime('%X')} {error!r}")
            else:
                assert answer.status == 200
                with self.lock:
                    self.answered += 1


@dataclass
class Seen:
    """What the scrapes showed."""

    counts: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """Seconds of a scrape by the server's clock: a client also waits for a worker to be there."""
    starts: float = 0.0
    _scrapes: float = 0.0
    _seconds: float = 0.0

    def scrape(self, server: parts.Server, folder: Path) -> None:
        found = numbers(server)

        def total(name: str) -> float:
            return sum(v for (each, _), v in found.items() if each == name)

        self.starts = total(catalogue.WORKER_STARTS.name)
        scrapes = total(f"{catalogue.SELF_SCRAPE.name}_count")
        seconds = total(f"{catalogue.SELF_SCRAPE.name}_sum")
        if scrapes > self._scrapes:
            self.took.append((seconds - self._seconds) / (scrapes - self._scrapes))
            self._scrapes, self._seconds = scrapes, seconds
        count = f"{catalogue.HTTP_DURATION.name}_count"
        rss = catalogue.PROCESS_RSS.name
        self.counts.append(
            sum(
                v
                for (name, labels), v in found.items()
                if name == count and ("http_route", "/items/{i}") in labels
            )
        )
        self.memory.append(max((v for (name, _), v in found.items() if name == rss), default=0.0))
        self.files.append(len(list(folder.iterdir())))


def main(
    *,
    minutes: float = 30.0,
    server: str = "uvicorn",
    clients: int = 4,
    recycle: Annotated[
        int, typer.Option(help="Requests that a worker lives for, at least; at most twice as many.")
    ] = 3000,
    recycles: Annotated[
        int | None, typer.Option(help="End after so many; fewer in the given time fail.")
    ] = None,
    kills: Annotated[bool, typer.Option(help="Kill and reload, too.")] = True,
    preload: Annotated[
        bool, typer.Option(help="Have gunicorn import the app once, and fork the workers.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of what is done to the workers.")] = 1,
) -> None:
    """Load, kill, recycle, reload, scrape; then count."""
    chance = random.Random(seed)
    load, seen = Load(), Seen()
    option = RECYCLING[server]
    options = [option, str(recycle), f"{option}-jitter", str(recycle)]
    if preload:
        options.append("--preload")
    chosen: Any = server
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(chosen, Path(directory), *options) as running,
    ):
        parts.eventually(lambda: live(running) == WORKERS, within=60)
        folder = folder_of(running)
        threads = [threading.Thread(target=load.run, args=(running,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + minutes * 60
        killed = reloads = 0
        while time.monotonic() < end and not (recycles and seen.starts >= recycles + WORKERS):
            # The pace of the misfortunes, not a wait for something.
            load.stop.wait(chance.uniform(1, 5))
            if not kills:
                pass
            elif chance.random() < 0.3:
                killed += _kill(folder, chance)
            elif server == "gunicorn" and chance.random() < 0.1:
                os.kill(running.server.pid, signal.SIGHUP)
                reloads += 1
            seen.scrape(running, folder)
        load.stop.set()
        for thread in threads:
            thread.join()
        parts.eventually(lambda: live(running) >= WORKERS, within=60)
        counted = answered(running)
        seen.scrape(running, folder)
        # Of the same kind: the first scrapes of a worker take longer, and here some are always new.
        with serve(chosen, Path(directory), *options) as unworn:
            took = _compare(running, unworn)
    _report(load, seen, counted, killed, reloads, took, fewest=WORKERS + (recycles or 0))


def _compare(worn: parts.Server, unworn: parts.Server) -> tuple[float, float]:
    """Seconds of a scrape of each, asked in turn: the machine is as busy for the one as for the other."""
    parts.eventually(lambda: live(unworn) == WORKERS, within=60)
    for number in range(WORKERS * 10):
        is_answered(unworn, number)
    servers = worn, unworn
    both = Seen(), Seen()
    for _ in range(60):
        for server, seen in zip(servers, both, strict=True):
            seen.scrape(server, folder_of(server))
    # The first scrapes of a worker also make its templates.
    return median(both[0].took[20:]), median(both[1].took[20:])


def _kill(folder: Path, chance: random.Random) -> int:
    pid = chance.choice([pid for slot in numbers_of(folder) if (pid := owner(folder, slot))])
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _report(
    load: Load,
    seen: Seen,
    counted: float,
    kills: int,
    reloads: int,
    took: tuple[float, float],
    *,
    fewest: int,
) -> None:
    for line in load.cut:
        console.print(f"cut: {line}")
    console.print(
        f"{load.answered} answered, {len(load.cut)} cut, {counted:.0f} counted; {kills} killed, "
        f"{reloads} reloads, {seen.starts:.0f} workers started, {len(seen.counts)} scrapes."
    )
    worn, unworn = took
    console.print(f"A scrape: {worn * 1e3:.1f} ms now, {unworn * 1e3:.1f} ms of a fresh server.")
    half = len(seen.memory) // 2
    early, late = max(seen.memory[: half or 1]), max(seen.memory[half:])
    console.print(f"Largest worker: {early / 1e6:.0f} MB early, {late / 1e6:.0f} MB late.")
    console.print(f"Files: {seen.files[0]} first, {max(seen.files)} at most.")
    faults = [
        name
        for name, wrong in {
            "too few workers were recycled in time": seen.starts < fewest,
            # A worker can be killed between the last byte of one response and its count.
            "requests were lost": counted < load.answered - kills,
            "requests were made up": counted > load.answered + len(load.cut),
            "a scrape fell": seen.counts != sorted(seen.counts),
            "scrapes became slow": worn > unworn * 1.5,
            "memory grew": late > early * 1.2,
            # The key table, and of each slot the numbers and the users' metrics; one generation of
            # workers may overlap the next, and each may just be writing a file anew.
            "files grew": max(seen.files) > 1 + 2 * 2 * WORKERS or seen.files[-1] > 1 + 3 * WORKERS,
        }.items()
        if wrong
    ]
    for fault in faults:
        console.print(f"FAULT: {fault}.")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
