"""`python -m benchmarks.idle`: what a server does while nobody asks it anything.

Servers of their own, uvicorn on both loops, are asked once and then left alone, all in the same
seconds. What they used meanwhile is read from the kernel's clock of their processor time, all threads
included; how long they had to wait for a processor does not matter to that.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Self

import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console

from fastobs import __version__, instrument

LOOPS = ("asyncio", "uvloop")
VARIANTS = {
    "bare": "FastAPI without fastobs",
    "blind": "with fastobs, `runtime.loop_block_after=None`: no watchdog",
    "fastobs": "with fastobs as it is",
}
BUDGET = 0.5
"""Per cent of a core that the watchdog of an idle process may use."""
SETTLES = 3.0
"""Seconds after the only request, before anything is measured."""
HERE = Path(__file__).parent
console = Console(stderr=True, highlight=False)


def serve(variant: str, loop: str, descriptor: int) -> None:
    """Be such a server, on a socket that listens already."""
    app = FastAPI()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    if variant != "bare":
        runtime = {"loop_block_after": None} if variant == "blind" else {}
        instrument(app, runtime=runtime)
    uvicorn.run(app, fd=descriptor, loop=loop, log_level="error")


class Server:
    """Such a process, while it is needed."""

    def __init__(self, variant: str, loop: str) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        descriptor = self._socket.fileno()
        words = [sys.executable, "-m", "benchmarks.idle", "serve", variant, loop, str(descriptor)]
        self._process = subprocess.Popen(words, cwd=HERE.parent, pass_fds=[descriptor])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._socket.close()

    def ask(self) -> None:
        """One request, which waits until there is a server."""
        port = self._socket.getsockname()[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert answer.status == 200

    def cpu(self) -> float:
        """Seconds of processor time that its threads have used so far."""
        # How Linux numbers the clock of another process: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
        return time.clock_gettime((~self._process.pid) << 3 | 2)


def measure(seconds: float) -> dict[tuple[str, str], float]:
    """Per cent of a core, by variant and loop."""
    with ExitStack() as stack:
        servers = {
            (variant, loop): stack.enter_context(Server(variant, loop))
            for loop in LOOPS
            for variant in VARIANTS
        }
        for server in servers.values():
            server.ask()
        time.sleep(SETTLES)
        began = {key: (time.monotonic(), server.cpu()) for key, server in servers.items()}
        time.sleep(seconds)
        return {
            key: (server.cpu() - began[key][1]) / (time.monotonic() - began[key][0]) * 100
            for key, server in servers.items()
        }


def page(rounds: list[dict[tuple[str, str], float]], seconds: float) -> str:
    """The results, in Markdown."""
    command = " ".join(["python -m benchmarks.idle", *sys.argv[1:]])
    lines = [
        f"<!-- Made by `{command}`; do not edit. -->",
        "# What an idle server costs",
        "",
        (
            f"fastobs {__version__}, Python {sys.version.split()[0]}, uvicorn "
            f"{uvicorn.__version__}, {os.cpu_count()} cores. Per cent of a core: processor time of all "
            f"threads over {seconds:g} seconds, the median of {len(rounds)} rounds; all servers in the "
            "same seconds."
        ),
        "",
        f"| | {' | '.join(LOOPS)} |",
        f"|---|{'---:|' * len(LOOPS)}",
    ]
    middle = {key: median(one[key] for one in rounds) for key in rounds[0]}
    for variant, title in VARIANTS.items():
        cells = " | ".join(f"{middle[variant, loop]:.2f}" for loop in LOOPS)
        lines.append(f"| {title} | {cells} |")
    for less, title in (("blind", "the watchdog"), ("bare", "all of fastobs")):
        more = [[one["fastobs", loop] - one[less, loop] for one in rounds] for loop in LOOPS]
        told = [f"{median(each):+.2f} ({min(each):+.2f} to {max(each):+.2f})" for each in more]
        lines.append(f"| of that {title} | {' | '.join(told)} |")
    return "\n".join([*lines, f"| budget of the watchdog | {BUDGET} | {BUDGET} |", ""])


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 30.0,
    rounds: int = 3,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = HERE / "idle.md",
) -> None:
    """Measure, and write ``benchmarks/idle.md``."""
    measured = []
    for number in range(rounds):
        console.print(f"Round {number + 1} of {rounds}: {seconds:g} seconds of nothing")
        measured.append(measure(seconds))
    text = page(measured, seconds)
    output.write_text(text)
    console.print(text)
    console.print(f"Wrote {output}.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        typer.run(main)
