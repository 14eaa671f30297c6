"""`python -m benchmarks.events`: what one event costs, by probe, outside and inside a request.

Every group of events has fresh processes of its own, in which the library's adapter is attached and
detached again and again. The same calls are timed in both states, and the differences of neighbours
are kept.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from math import floor
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import typer
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

import fastobs
from fastobs._process import process
from fastobs.catalogue import Metric
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.config import load
from tests.parts.programs import MissingPart

from . import driver, fresh, shop
from .least import empty_hooks, nothing, pieces
from .libraries import GROUPS, PIECES, Beside, Drive, Event, Group, idle

__all__ = ["time_events"]

OUTSIDE, INSIDE, SQL = 0.3, 3.0, 12.0
"""Microseconds that an event may cost."""

TRIES = 3
"""Times that each number is taken, of which the best one counts."""

FEWEST = 10
"""Requests of one try at least; of fewer, one that a neighbour held up is most of the number."""

LONG = 100
"""Microseconds. Of an event that takes longer, a neighbour hits most tries that have so many."""
OF_LONG = {"tries": 40, "requests": 2, "rounds": 3}
"""So these are shorter, and there are more of them, in more rounds than of others."""

PER_REQUEST = 10
"""Events of one request; what its end costs for them is shared by so many."""

PACKAGES = (
    "fastobs",
    "starlette",
    "cachetools",
    "aiocache",
    "cashews",
    "dogpile.cache",
    "fastapi-cache2",
    "limits",
    "pyrate-limiter",
    "sqlalchemy",
    "psycopg-pool",
    "asyncpg",
    "redis",
    "httpx",
)

SECTIONS: dict[str, Any] = {"traces": None, "profiles": None, "slow": None, "runtime": None}
"""What does not look at events of libraries."""

METHOD = (
    "Microseconds of CPU. The same calls are timed with the library as the probes hook it and as it "
    f"is without them, in turn in one process, {TRIES} times of which the best counts, {OF_LONG['tries']} "
    f"shorter ones in more rounds of an event that takes over {LONG} us; given are the medians of the paired differences, "
    "and between what they are with 95 % certainty. The garbage collector is off. What is not hooked but "
    "written into the app by hand is compared with the "
    f"code without it. Inside, a request has {PER_REQUEST} events, and what its end costs for them "
    "is in. Checkout and checkin are two events; a GET of redis-py is four: checkout, command, look-up "
    "of a cache, checkin; a request of httpx is three: a connection taken, the request, given back. Each has "
    "its budget. Rows without a socket have a connection whose other end "
    "answers at once: they judge us, since a round trip through the kernel varies by more than what is "
    "looked for here. *The least* is what an adapter of this kind comes to if it does nothing but this, measured "
    "as the third state beside the two: the same methods and events hooked with functions that only pass on, "
    "each with the arguments of the original (around a coroutine, one that awaits it), and after each call, one "
    "after the other, the readings of the clock, the look-ups, the writes to rows, the app's line and, inside, "
    "the part of the request that the numbers consist of. What holds them together is not in: comparisons, the "
    "containment of errors, exceptions. After a long call what is read and run is in no cache of the processor "
    "any more, so that the same costs more. Where the least is above the budget, Python does not allow it; what "
    "is over is told, not hidden."
)

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an event costs; microseconds of CPU.

    Attributes:
        plain: Of the call without us, outside a request.
        outside: More with us, one number for each round.
        inside: The same within a request, a share of the request's end included.
        budgets: What it may cost outside and inside.
        least: More with hooks that only pass on and what the event is told by, outside; empty if nothing
            is hooked.
        least_inside: The same within a request.
        without: As of the event.
    """

    title: str
    plain: float
    outside: list[float]
    inside: list[float]
    budgets: tuple[float, float]
    least: list[float]
    least_inside: list[float]
    without: str


class Bench:
    """An observed app whose one endpoint does what is to be measured, and the probes' switch."""

    def __init__(self) -> None:
        self.drive: Drive = idle
        self._app = Starlette(routes=[Route(shop.PATH, self._endpoint)])
        self._handle = fastobs.instrument(self._app, **SECTIONS)
        self._probes = process().probes

    def switch(self, state: str) -> None:
        """Have the probes see events, or hook the same with nothing, or leave the libraries alone."""
        self._probes.detach()
        if state == "on":
            self._probes.attach(load(None, SECTIONS))
        elif state == "least":
            with empty_hooks():
                self._probes.attach(load(None, SECTIONS))

    async def outside(self, drive: Drive, requests: int, tries: int = TRIES) -> float:
        """Microseconds of CPU per event, of as many as these requests would have."""
        events = requests * PER_REQUEST
        return await _took(drive, events, tries) / events

    async def inside(self, drive: Drive, requests: int, tries: int = TRIES) -> float:
        """The same with the requests."""
        return await _took(partial(self.serve, drive), requests, tries) / (requests * PER_REQUEST)

    async def serve(self, drive: Drive, requests: int) -> None:
        """So many requests with events."""
        self.drive = drive
        await driver.drive(self._app, shop.PATH, requests)

    def close(self) -> None:
        """Nothing is observed any more."""
        self._probes.detach()
        self._handle.uninstrument()

    async def _endpoint(self, _: object) -> Response:
        await self.drive(PER_REQUEST)
        return Response()


async def _took(drive: Drive, times: int, tries: int) -> float:
    """Microseconds of CPU, of the best of some tries: neighbours only ever make it longer."""
    # As timeit does: when the collector runs is chance.
    gc.collect()
    gc.disable()
    try:
        took = []
        for _ in range(tries):
            started = process_time()
            await drive(times)
            took.append((process_time() - started) * 1e6)
        return min(took)
    finally:
        gc.enable()


def time_events(group: str, *, rounds: int, milliseconds: float) -> list[dict[str, object]] | None:
    """Measure the events of a group in this process; None if a part of it is not installed."""
    try:
        return [asdict(cost) for cost in asyncio.run(_time(GROUPS[group], rounds, milliseconds))]
    except MissingPart as missing:
        console.print(str(missing))
        return None


async def _time(group: Group, rounds: int, milliseconds: float) -> list[Cost]:
    async with group() as events:
        bench = Bench()
        # What is there already needs no collecting.
        gc.freeze()
        try:
            return [await _cost(bench, event, rounds, milliseconds) for event in events]
        finally:
            bench.close()


async def _cost(bench: Bench, event: Event, rounds: int, milliseconds: float) -> Cost:
    plain, outside, inside, least, least_inside = [], [], [], [], []
    beside = None if event.made_of is None else pieces(event.made_of)
    bench.switch("on")
    before = _recorded(process().meters, event.metric)
    # What is made with the first event is made now, and the second time is the usual one.
    await bench.inside(event.drive, 1)
    micros = await bench.inside(event.drive, 1) * PER_REQUEST
    if event.metric and _recorded(process().meters, event.metric) <= before:
        msg = f"{event.title}: nothing was recorded in {event.metric.name}."
        raise RuntimeError(msg)
    if micros > LONG * PER_REQUEST:
        tries, requests = OF_LONG["tries"], OF_LONG["requests"]
        rounds *= OF_LONG["rounds"]
    else:
        tries, requests = TRIES, max(FEWEST, int(milliseconds * 1e3 / TRIES / micros))
    for _ in range(rounds):
        took: dict[str, tuple[float, float]] = {}
        states = ["on", "off"] if beside is None else ["on", "off", "least"]
        # None always comes after another.
        for state in random.sample(states, len(states)):
            bench.switch(state)
            # In each state something is called, so that the call is not of the difference.
            Beside.pieces = beside if state == "least" else beside and nothing
            drive = event.plain or event.drive if state == "off" else event.drive
            # The interpreter adapts to what was hooked or given back.
            await bench.inside(drive, requests // 4 + 1)
            await bench.outside(drive, requests // 4 + 1)
            took[state] = (
                await bench.outside(drive, requests, tries),
                await bench.inside(drive, requests, tries),
            )
        plain.append(took["off"][0])
        outside.append(took["on"][0] - took["off"][0])
        inside.append(took["on"][1] - took["off"][1])
        if "least" in took:
            least.append(took["least"][0] - took["off"][0])
            least_inside.append(took["least"][1] - took["off"][1])
    Beside.pieces = None
    return Cost(
        title=event.title,
        plain=median(plain),
        outside=outside,
        inside=inside,
        budgets=(SQL, SQL) if event.sql else (OUTSIDE * event.count, INSIDE * event.count),
        least=least,
        least_inside=least_inside,
        without=event.without,
    )


def _recorded(meters: Meters, metric: Metric | None) -> float:
    if metric is None:
        return 0.0
    meters.refresh()
    return sum(
        row.count if isinstance(row, Histogram) else row.cells[row.at]
        for row in meters.rows(metric)
    )


def page(costs: list[Cost], *, command: str, processes: int, missing: list[str]) -> str:
    """All of it, in Markdown."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    events = [cost for cost in costs if cost.title not in PIECES]
    over = [line for cost in events for line in _over(cost)]
    lines = [
        "<!-- Made by `python -m benchmarks.events`; do not edit. -->",
        "# What one event costs",
        "",
        f"Python {sys.version.split()[0]}; {versions}; fresh processes per library: {processes}.",
        "",
        f"    {command}",
        "",
        (
            f"{os.cpu_count()} cores with a load of {os.getloadavg()[1]:.1f} over the last minutes: neighbours "
            "on the cores and in their caches make what is here longer, also in CPU time."
        ),
        "",
        METHOD,
        "",
        (
            "| event | without us | outside, more | 95 % | the least | budget "
            "| inside, more | 95 % | the least | budget |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(cost) for cost in costs),
        "",
        "## Over budget",
        "",
        *(over or ["Nothing."]),
    ]
    if missing:
        lines += ["", "## Not measured", "", *missing]
    return "\n".join(lines) + "\n"


def _row(cost: Cost) -> str:
    cells = [cost.title, f"{cost.plain:.2f}"]
    for _, more, least, budget in _sides(cost):
        low, high = _certain(more)
        told = f"{median(more):+.2f}" if low > 0 else "none seen"
        cells += [told, f"{low:+.2f} to {high:+.2f}"]
        cells += [f"{median(least):.2f}" if least else "", f"{budget:g}"]
    return f"| {' | '.join(cells)} |"


def _sides(cost: Cost) -> Iterator[tuple[str, list[float], list[float], float]]:
    """Outside and inside: what more it costs, the least, the budget."""
    outside, inside = cost.budgets
    yield "outside", cost.outside, cost.least, outside
    yield "inside", cost.inside, cost.least_inside, inside


def _over(cost: Cost) -> Iterator[str]:
    for where, differences, least, budget in _sides(cost):
        more = median(differences)
        low, high = _certain(differences)
        if low > budget:
            line = f"- {cost.title}, {where}: {more:.2f} us, {more / budget:.1f} times the budget"
            if least:
                least_low, least_high = _certain(least)
                line += f"; the least are {median(least):.2f} ({least_low:.2f} to {least_high:.2f}) us, "
                possible = least_low <= budget
                line += "which is not above it" if possible else "which is above it, too"
                if median(least) > more:
                    line += ", and above ours, which hands on what it is given in a cheaper way"
                elif cost.without and not possible:
                    line += f". What would have to go: {cost.without}"
            yield f"{line}."
        elif high > budget:
            yield f"- {cost.title}, {where}: {low:.2f} to {high:.2f} us; cannot be told."


def _certain(differences: list[float]) -> tuple[float, float]:
    """Where their median is with 95 % certainty, however they are distributed."""
    ordered = sorted(differences)
    count = len(ordered)
    rank = max(0, floor(count / 2 - 0.98 * count**0.5))
    return ordered[rank], ordered[count - 1 - rank]


def _together(parts: list[Cost]) -> Cost:
    """One event as several processes measured it."""
    return Cost(
        title=parts[0].title,
        plain=median(part.plain for part in parts),
        outside=[more for part in parts for more in part.outside],
        inside=[more for part in parts for more in part.inside],
        budgets=parts[0].budgets,
        least=[more for part in parts for more in part.least],
        least_inside=[more for part in parts for more in part.least_inside],
        without=parts[0].without,
    )


@app.command()
def main(
    *,
    rounds: Annotated[int, typer.Option(help="Rounds per event and process.")] = 40,
    milliseconds: Annotated[float, typer.Option(help="Of requests in one round, about.")] = 20,
    processes: Annotated[int, typer.Option(help="Fresh processes per library.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Of: {', '.join(GROUPS)}.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Path(__file__).parent
    / "events.md",
) -> None:
    """Measure, and write ``benchmarks/events.md``."""
    if quick:
        rounds, milliseconds, processes = 5, 5, 1
    if unknown := [name for name in only or () if name not in GROUPS]:
        msg = f"No such group: {', '.join(unknown)}. There are: {', '.join(GROUPS)}."
        raise typer.BadParameter(msg)
    costs, missing = [], []
    for group in only or GROUPS:
        console.print(f"Timing {group}")
        found = [
            fresh.run("time_events", group, rounds=rounds, milliseconds=milliseconds)
            for _ in range(processes)
        ]
        if None in found:
            missing.append(f"- {group}: a program that it needs is not installed.")
            continue
        costs += [_together([Cost(**part) for part in parts]) for parts in zip(*found, strict=True)]
    command = " ".join(["python -m benchmarks.events", *sys.argv[1:]])
    text = page(costs, command=command, processes=processes, missing=missing)
    output.write_text(text, encoding="utf-8")
    console.print(f"Wrote {output}.")


if __name__ == "__main__":
    app()
