"""Runs the shop and the load as processes, and ends them again whatever happens."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "DemoError",
    "Process",
    "free_port",
    "load",
    "running",
    "shop",
    "under_load",
    "wait_until",
]

ROOT = Path(__file__).parents[1]
Process = subprocess.Popen[bytes]


class DemoError(Exception):
    """The demo cannot go on; the message is for the user, the log tells the rest."""

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


def free_port(wanted: int = 0) -> int:
    """The port, if it is free; 0 takes any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError) as error:
            msg = f"Port {wanted} of 127.0.0.1 cannot be used: {error}. Leave out --port."
            raise DemoError(msg) from error
        port: int = probe.getsockname()[1]
        return port


def shop(*, port: int, workers: int) -> list[str]:
    """The command that runs the shop."""
    return [
        *(sys.executable, "-m", "examples.shop"),
        *("--port", str(port), "--workers", str(workers), "--until-stdin-ends"),
    ]


def load(address: str, *, users: int, seconds: int) -> list[str]:
    """The command that runs the load; it ends by itself."""
    return [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary"),
        *("--locustfile", "examples/shop/locustfile.py", "--host", address),
        *("--users", str(users), "--spawn-rate", str(max(1, users // 2))),
        *("--run-time", f"{seconds}s", "--stop-timeout", "5"),
        # The mistakes fail on purpose.
        *("--exit-code-on-error", "0"),
    ]


def under_load(address: str, *, users: int, seconds: int) -> None:
    """Have the load run, in silence, and wait for its end.

    Raises:
        subprocess.CalledProcessError: It failed.
        subprocess.TimeoutExpired: It did not end within three minutes after it should have.
    """
    subprocess.run(
        load(address, users=users, seconds=seconds),
        cwd=ROOT,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=seconds + 180,
    )


@contextmanager
def running(command: list[str], environment: Mapping[str, str], *, log: Path) -> Iterator[Process]:
    """A process for as long as the block lasts."""
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            # Not the terminal, from which Locust would read keys; it ends when this process does.
            stdin=subprocess.PIPE,
            stdout=lines,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def wait_until(ready: Callable[[], bool], process: Process, *, within: float, log: Path) -> None:
    """Return as soon as it is ready.

    Raises:
        DemoError: The process ended first, or it took too long.
    """
    deadline = time.monotonic() + within
    while not ready():
        if time.monotonic() > deadline:
            msg = f"The server was not ready within {within:g} seconds."
            raise DemoError(msg, log=log)
        try:
            status = process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        msg = f"The server did not start; it ended with status {status}."
        raise DemoError(msg, log=log)
