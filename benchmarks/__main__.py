"""`python -m benchmarks`: measure, and write ``benchmarks/results.md``."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from . import fresh
from .instructions import VALGRIND, count_instructions
from .load import WRK, requests_per_second
from .report import Results, page
from .scrape import Scrape
from .timing import Timing, overheads
from .variants import VARIANTS, groups

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True, highlight=False)
LOADED = ("bare", "no-op", "fastobs-1", "fastobs-100", "assembly-1", "assembly-100")
COUNTED = ("bare", "no-op", "fastobs-metrics", "fastobs-0", "fastobs-100", "instrumentator")
QUICKLY = ("bare", "fastobs-1", "fastobs-100", "assembly-1")
ATTACKED = ("bare", "fastobs-1")


@app.command()
def main(
    *,
    rounds: Annotated[int, typer.Option(help="Rounds per process; each has all variants.")] = 60,
    batch: Annotated[int, typer.Option(help="Requests in a row per variant and round.")] = 200,
    warm_up: Annotated[int, typer.Option(help="Requests per variant before that.")] = 1000,
    processes: Annotated[int, typer.Option(help="Fresh processes per variant of ours.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Variants, of: {', '.join(VARIANTS)}.")
    ] = None,
    calls: Annotated[bool, typer.Option(help="Count calls.")] = True,
    scrape: Annotated[bool, typer.Option(help="Time scrapes.")] = True,
    wrk: Annotated[bool, typer.Option(help="Load a server with wrk.")] = True,
    wrk_rounds: int = 5,
    wrk_seconds: int = 4,
    instructions: Annotated[
        bool, typer.Option(help="Count machine instructions with valgrind; takes minutes.")
    ] = False,
    memory: Annotated[
        bool, typer.Option(help="Attack with unknown paths, and see what remains.")
    ] = False,
    memory_requests: int = 200_000,
    quick: Annotated[bool, typer.Option(help="Less of everything, in less than a minute.")] = False,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Path(__file__).parent
    / "results.md",
) -> None:
    """Measure what fastobs costs, beside bare FastAPI and beside its peers."""
    loaded: tuple[str, ...] = LOADED
    if quick:
        rounds, batch, warm_up, processes = 10, 50, 200, 1
        wrk_rounds, wrk_seconds = 1, 1
        memory_requests = 20_000
        loaded = tuple(name for name in LOADED if name in QUICKLY)
    timed = [name for name, variant in VARIANTS.items() if variant.timed]
    names = list(dict.fromkeys(["bare", *(only or timed)]))
    if unknown := [name for name in names if name not in VARIANTS]:
        msg = f"No such variant: {', '.join(unknown)}. There are: {', '.join(VARIANTS)}."
        raise typer.BadParameter(msg)
    results = Results(commands=[" ".join(["python -m benchmarks", *sys.argv[1:]])])

    timings = []
    for number in range(processes):
        for group in groups(names):
            console.print(f"Timing, process {number + 1} of {processes}: {', '.join(group)}")
            timings.append(
                Timing(
                    **fresh.run("time_variants", group, rounds=rounds, batch=batch, warm_up=warm_up)
                )
            )
    results.overheads = overheads(timings)
    results.bare = median(micros for timing in timings for micros in timing.cpu["bare"])

    if calls:
        console.print("Counting calls")
        for name in (name for name in names if not quick or name in QUICKLY):
            results.calls[name] = fresh.run("count_calls", name, requests=100)
    if scrape:
        console.print("Timing scrapes")
        found = fresh.run("time_scrapes", 600, repeats=5 if quick else 15)
        results.scrapes = [Scrape(**one) for one in found]
    if instructions and VALGRIND is None:
        results.missing.append("Instructions: valgrind is not installed.")
    elif instructions:
        for name in COUNTED:
            console.print(f"Counting instructions: {name}")
            results.instructions[name] = count_instructions(name, requests=200)
    else:
        results.missing.append("Instructions: ask for them with --instructions.")
    if memory:
        for name in ATTACKED:
            console.print(f"Attacking: {name}")
            results.growth[name] = fresh.run("grow", name, requests=memory_requests)
    else:
        results.missing.append("Memory under attack: ask for it with --memory.")
    if wrk and WRK is None:
        results.missing.append("A server under load: wrk is not installed.")
    elif wrk:
        console.print("Loading a server")
        results.rates = requests_per_second(loaded, rounds=wrk_rounds, seconds=wrk_seconds)
    else:
        results.missing.append("A server under load: left out by --no-wrk.")

    text = page(results)
    output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    console.print(f"Written to {output}")


if __name__ == "__main__":
    app()
