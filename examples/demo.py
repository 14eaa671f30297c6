"""The shop under load for half a minute, and what fastobs saw of it.

Everything is embedded (SQLite, the cache, the other service) and listens on 127.0.0.1 only. Every
number of the report is read from /metrics and from the log, none from the load generator.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.report.causes import causes, causes_table
from examples.report.log import blocks, slow_lines, slow_table
from examples.running import DemoError, Process, free_port, load, running, shop, wait_until
from fastobs.cli import render, rows
from fastobs.cli.exposition import Samples, gather, increase
from fastobs.cli.rows import Peaks

NEEDED = (
    *("aiosqlite", "cachetools", "greenlet", "httpx2", "locust"),
    *("slowapi", "sqlalchemy", "uvicorn"),
)
WORKERS = 2
SLOW_AFTER = 0.1
QUICK_MISTAKES = {"/mistakes/lazy-loads": 0.01}
"""Forty queries of SQLite are no slow request on a fast machine, and no less of a mistake."""
PROFILED = "/mistakes/lazy-loads"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="how long the load lasts")
    parser.add_argument("--users", type=int, default=15, help="how many shop at once")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for logs and the profile"
    )
    options = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _frame: sys.exit(128 + number))
    try:
        check_modules()
        with tempfile.TemporaryDirectory(prefix="fastobs-demo-") as scratch:
            _run(options, _console(), scratch=Path(scratch))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        if error.log is not None:
            _print_end(error.log)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _console() -> Console:
    """Standard output; in a pipe wide enough that no place in the code is folded."""
    out = Console()
    if not out.is_terminal and not os.environ.get("COLUMNS"):
        out.width = 140
    return out


def check_modules() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"{', '.join(missing)}: not installed. Run: pip install --editable '.[dev]'"
        raise DemoError(msg)


def _run(options: argparse.Namespace, console: Console, *, scratch: Path) -> None:
    from examples.report import asking

    output = _fresh(options.output)
    log = output / "server.log"
    port = free_port(options.port)
    address = f"http://127.0.0.1:{port}"
    token = secrets.token_urlsafe()
    environment = environment_of_the_shop(scratch, token=token)
    peaks = Peaks()
    try:
        with running(shop(port=port, workers=WORKERS), environment, log=log) as server:
            wait_until(lambda: asking.ready(address), server, within=120, log=log)
            console.print(f"The shop listens on {address} with {WORKERS} workers.")
            before = gather(lambda: asking.scrape(address), workers=WORKERS)
            started = time.monotonic()
            with running(
                load(address, users=options.users, seconds=options.seconds),
                environment,
                log=output / "locust.log",
            ) as locust:
                _watch(
                    locust,
                    server,
                    console,
                    seconds=options.seconds,
                    look=lambda: peaks.see(asking.scrape(address)[1]),
                )
            _check_ends(locust, server, output)
            after = gather(lambda: asking.scrape(address), workers=WORKERS)
            elapsed = time.monotonic() - started
            profile = asking.save_profile(address, PROFILED, token=token, folder=output)
    except (LookupError, ConnectionError) as error:
        raise DemoError(str(error), log=log) from error

    for worker in before.keys() - after.keys():
        console.print(f"[yellow]Worker {worker} ended under load; what it had counted is lost.[/]")
    _report(console, increase(before, after), peaks, seconds=elapsed, log=log)
    _farewell(console, profile, log)


def environment_of_the_shop(scratch: Path, *, token: str) -> dict[str, str]:
    # What the caller's shell says must not send the demo elsewhere.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SHOP_", "FASTOBS_", "LOCUST_"))
    }
    return inherited | {
        "SHOP_DATABASE_URL": f"sqlite:///{scratch}/shop.db",
        "FASTOBS_SLOW_AFTER": str(SLOW_AFTER),
        "FASTOBS_SLOW_ROUTES": json.dumps(QUICK_MISTAKES),
        "FASTOBS_PROFILES_TOKEN": token,
        "FASTOBS_PROFILES_DIRECTORY": str(scratch / "profiles"),
    }


def _watch(
    locust: Process,
    server: Process,
    console: Console,
    *,
    seconds: float,
    look: Callable[[], None],
) -> None:
    """A progress bar until the load or the server ends, with a look at the pools on the way."""
    columns = (TextColumn("Load by Locust"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds)
        started = time.monotonic()
        while server.poll() is None:
            progress.update(task, completed=time.monotonic() - started)
            # A worker that is busy right now is what this demo is about.
            with suppress(ConnectionError):
                look()
            with suppress(subprocess.TimeoutExpired):
                locust.wait(timeout=0.5)
                return


def _check_ends(locust: Process, server: Process, output: Path) -> None:
    if server.poll() is not None:
        msg = f"The server ended under load, with status {server.returncode}."
        raise DemoError(msg, log=output / "server.log")
    if locust.returncode:
        msg = f"Locust ended with status {locust.returncode}."
        raise DemoError(msg, log=output / "locust.log")


def _report(console: Console, gained: Samples, peaks: Peaks, *, seconds: float, log: Path) -> None:
    routes = rows.routes(gained, seconds=seconds)
    if not routes:
        msg = "/metrics shows no request, although there was load."
        raise DemoError(msg, log=log)
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    requests = sum(row.requests for row in routes)
    console.print()
    console.rule("What fastobs saw")
    console.print(
        f"{requests:,.0f} requests in {seconds:.0f} seconds, on {WORKERS} workers. "
        "Every number is from /metrics or from the server's log."
    )
    for table, otherwise in (
        (render.routes(routes), "none"),
        (render.parts(routes), "the server does not say."),
        (render.pools(rows.pools(gained, peaks)), "none was used."),
        (render.caches(rows.caches(gained)), "none was asked."),
        (blocks(lines), "nobody."),
        (render.limits(rows.limits(gained)), "none was asked."),
        (render.findings(rows.findings(gained)), "nothing."),
        (slow_table(slow_lines(lines)), f"none took longer than {SLOW_AFTER:g} seconds."),
        (
            causes_table(causes(lines, {row.route: row.requests for row in routes})),
            "nothing was found.",
        ),
    ):
        render.show(console, table, otherwise=otherwise)


def _farewell(console: Console, profile: Path | None, log: Path) -> None:
    console.print()
    console.rule("What next")
    if profile is None:
        console.print(f"[yellow]The profile of {PROFILED} that was asked for did not come.[/]")
    else:
        _step(console, f"Where the time of {PROFILED} went, line by line:", profile.resolve())
    _step(console, "Why each slow request was slow:", f"grep slow_request {log.resolve()}")
    _step(console, "The same live:", "docker compose up, then Grafana at http://127.0.0.1:3000")
    _step(console, "What is wrong, and how to do it right:", "examples/shop/routes/mistakes.py")


def _step(console: Console, what: str, where: object) -> None:
    console.print(what)
    console.print(f"  {where}", soft_wrap=True, highlight=False, style="bold")


def _fresh(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("profile-*.html"):
            old.unlink()
    except OSError as error:
        msg = f"{folder} cannot be written: {error}. Choose another folder with --output."
        raise DemoError(msg) from error
    return folder


def _print_end(log: Path, *, lines: int = 15) -> None:
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"The end of {log}:", *(f"  {line}" for line in text[-lines:]), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
