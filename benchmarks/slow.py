"""`python -m benchmarks.slow`: how true is what is told of a slow request, and what it costs all others.

Requests whose time is known go to a real PostgreSQL and a real Redis. What they measured themselves is
put beside what fastobs told of them, each in a fresh process. Costs are differences of neighbours in one
process.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import typer
from fastapi import FastAPI
from rich.console import Console
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from fastobs import __version__, instrument

from . import driver, fresh, shop

__all__ = ["time_requests"]

MODES = ("wall", "steps")
LOOPS = ("asyncio", "uvloop")
BLOCKERS = ("waits", "computes", "receives", "sorts", "dumps", "matches")
BUDGET = 15.0
"""Microseconds that everything may cost the hello request."""
AWAITS = 10
HERE = Path(__file__).parent
console = Console(stderr=True, highlight=False)

PIECES: dict[str, dict[str, Any]] = {
    "everything, as it is": {},
    '`breakdown="steps"`': {"breakdown": "steps"},
    '`breakdown="off"`': {"breakdown": "off"},
    "`slow.profile_from=None`: no tail capture": {"slow": {"profile_from": None}},
    "`slow=None`: no line either": {"slow": None},
    "`runtime=None`: no watchdog, no thread parts": {"runtime": None},
}
"""What each piece costs is what is less without it, or more with it."""


def hello(**sections: Any) -> FastAPI:
    """The request of all budgets."""
    app = shop.make()

    @app.get("/thread")
    def thread() -> str:
        return "hello"

    @app.get("/awaits")
    async def awaits() -> str:
        for _ in range(AWAITS):
            await asyncio.sleep(0)
        return "hello"

    return app if sections == {"bare": True} else _observed(app, sections)


def _observed(app: FastAPI, sections: dict[str, Any]) -> FastAPI:
    instrument(app, **{"workers": None, "traces": {"sample": 0.0}, **sections})
    return app


def behind(**sections: Any) -> FastAPI:
    """The same, where the endpoint has a task of its own."""
    app = shop.make()

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    return app if sections == {"bare": True} else _observed(app, sections)


KINDS: dict[str, tuple[Callable[..., FastAPI], str]] = {
    "hello": (hello, shop.PATH),
    "thread": (hello, "/thread"),
    "awaits": (hello, "/awaits"),
    "middleware": (behind, shop.PATH),
}
TITLES = {
    "hello": "the hello request",
    "thread": "a `def` endpoint",
    "awaits": f"an endpoint that awaits {AWAITS} times",
    "middleware": "the hello request behind BaseHTTPMiddleware",
}


def time_requests(kind: str, *, pieces: Sequence[str], rounds: int, batch: int) -> dict[str, Any]:
    """Microseconds of CPU over bare, by piece and round."""
    make, path = KINDS[kind]
    apps = {"bare": make(bare=True)}
    apps |= {piece: make(**PIECES[piece]) for piece in pieces}
    return asyncio.run(_time(apps, path, rounds, batch))


async def _time(
    apps: dict[str, FastAPI], path: str, rounds: int, batch: int
) -> dict[str, list[float]]:
    for app in apps.values():
        await driver.drive(app, path, batch)
    spent: dict[str, list[float]] = {name: [] for name in apps}
    order = list(apps)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            began = process_time()
            await driver.drive(apps[name], path, batch)
            spent[name].append((process_time() - began) * 1e6 / batch)
    return spent


def accuracy(postgresql: str, redis: str) -> Iterator[str]:
    """The table of truth against reported."""
    from .truth import CASES

    yield from ("## Accuracy", "")
    yield "Seconds: measured by the request itself, and told by fastobs. The last column is the sum of all"
    yield "parts against the request's duration. Computing is measured by the clock of the processor."
    yield ""
    yield "| request | whose time: parts | loop | truth | told, wall | told, steps | sum, wall | sum, steps |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for case in CASES:
        for loop in LOOPS:
            console.print(f"{case} on {loop}")
            both = {
                mode: fresh.run(
                    "tell_of_parts",
                    case,
                    breakdown=mode,
                    loop=loop,
                    postgresql=postgresql,
                    redis=redis,
                )
                for mode in MODES
            }
            for number, row in enumerate(both["steps"]):
                wall = both["wall"][number] if number < len(both["wall"]) else None
                yield _row(row, wall, loop)


def _row(steps: dict[str, Any], wall: dict[str, Any] | None, loop: str) -> str:
    told = "not told" if wall is None else _told(wall)
    sums = [f"{each['parts'] / each['whole']:.2%}" if each else "" for each in (wall, steps)]
    truth = steps["truth"] if wall is None else wall["truth"]
    return (
        f"| {steps['case']} | {steps['what']} | {loop} | {truth:.3f} | {told} | {_told(steps)} | "
        f"{' | '.join(sums)} |"
    )


def _told(row: dict[str, Any]) -> str:
    return f"{row['told']:.3f} ({(row['told'] - row['truth']) / row['truth']:+.1%})"


def blocks() -> Iterator[str]:
    """The table of blockers, and what their victims are told."""
    yield from ("", "## Blocks of the event loop", "")
    yield "One block of each kind, with `runtime.loop_block_after=0.1`, so that a tick is 0.05 s; missing is what is"
    yield "not told of it. Where the machine is busy otherwise, of a blocker that keeps the GIL only what it computed"
    yield "is told. The last column has the events for the same in a `def` endpoint."
    yield ""
    yield "| blocker | loop | events | function | route | took | told | missing | in a thread |"
    yield "|---|---|---:|---|---|---:|---:|---:|---:|"
    for kind in BLOCKERS:
        for loop in LOOPS:
            console.print(f"{kind} on {loop}")
            row = fresh.run("tell_of_blocks", kind, loop=loop)
            yield (
                f"| {kind} | {loop} | {row['events']} | `{row['function']}` | `{row['route']}` | "
                f"{row['took']:.3f} | {row['told']:.3f} | {row['took'] - row['told']:.3f} | "
                f"{row['in_thread']} |"
            )


def profiles(fast: int) -> Iterator[str]:
    """What is kept, and what a victim's profile says."""
    yield from ("", "## Profiles", "")
    yield f"{fast:,} fast requests beside one that another holds up."
    yield ""
    yield "| loop | profiles | of | held | told in the profile | as |"
    yield "|---|---:|---|---:|---:|---|"
    for loop in LOOPS:
        console.print(f"profiles on {loop}")
        row = fresh.run("tell_of_profiles", loop, fast=fast)
        yield (
            f"| {loop} | {row['profiles']} | {', '.join(row['routes'])} | {row['held']:.3f} | "
            f"{row['blocked']:.3f} | {'; '.join(row['by'])} |"
        )


def costs(processes: int, rounds: int, batch: int) -> Iterator[str]:
    """The table of costs."""
    yield from ("", "## Cost", "")
    yield f"Microseconds of CPU over bare FastAPI, not sampled; the median of the paired differences of {rounds} rounds in"
    yield f"each of {processes} processes, and between what the medians of the processes are. The budget of the"
    yield f"hello request is {BUDGET:g}. What the watchdog costs an idle process is in [idle.md](idle.md)."
    yield ""
    yield f"| | {' | '.join(TITLES.values())} |"
    yield f"|---|{'---:|' * len(TITLES)}"
    spent = {
        kind: [
            fresh.run("time_requests", kind, pieces=list(PIECES), rounds=rounds, batch=batch)
            for _ in range(processes)
        ]
        for kind in KINDS
    }
    bare = [median(us for run in spent[kind] for us in run["bare"]) for kind in KINDS]
    yield f"| bare FastAPI takes | {' | '.join(f'{us:.0f}' for us in bare)} |"
    for piece in PIECES:
        cells = [_over([_more(run, piece) for run in spent[kind]]) for kind in KINDS]
        yield f"| {piece} | {' | '.join(cells)} |"


def _more(run: dict[str, list[float]], piece: str) -> list[float]:
    return [one - bare for one, bare in zip(run[piece], run["bare"], strict=True)]


def _over(runs: list[list[float]]) -> str:
    middles = [median(run) for run in runs]
    whole = median(each for run in runs for each in run)
    return f"{whole:+.1f} ({min(middles):.1f} to {max(middles):.1f})"


def main(
    *,
    processes: int = 4,
    rounds: int = 40,
    batch: int = 200,
    fast: Annotated[int, typer.Option(help="Fast requests beside the slow one.")] = 1000,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = HERE / "slow.md",
) -> None:
    """Measure, and write ``benchmarks/slow.md``."""
    from tests.parts import postgresql, redis

    command = " ".join(["python -m benchmarks.slow", *sys.argv[1:]])
    lines = [
        f"<!-- Made by `{command}`; do not edit. -->",
        "# What is told of slow requests",
        "",
        f"fastobs {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores.",
        "",
    ]
    with postgresql() as database, redis() as cache:
        lines += accuracy(database.url(), cache.url)
    lines += blocks()
    lines += profiles(fast)
    lines += costs(processes, rounds, batch)
    text = "\n".join([*lines, ""])
    output.write_text(text)
    console.print(text)
    console.print(f"Wrote {output}.")


if __name__ == "__main__":
    typer.run(main)
