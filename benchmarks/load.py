"""Requests per second of a real server, under wrk: bare and observed in turn."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import uvicorn

from . import shop
from .fresh import HERE
from .variants import VARIANTS, Subject

__all__ = ["WRK", "requests_per_second"]

WRK = shutil.which("wrk")
RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
CONNECTIONS = 32


def requests_per_second(
    names: Sequence[str], *, rounds: int, seconds: int
) -> dict[str, list[float]]:
    """So many rounds; in each of them every variant is served and loaded for some seconds."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        # Every other round backwards, so that nobody is always the one after the pause.
        for name in names if number % 2 == 0 else reversed(names):
            with _served(name) as url:
                _wrk(url, seconds=1)
                rates[name].append(_wrk(url, seconds=seconds))
    return rates


def _wrk(url: str, *, seconds: int) -> float:
    assert WRK is not None
    command = [WRK, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if failed := FAILED.search(said):
        msg = f"Under load, {url} failed: {failed[0]}."
        raise RuntimeError(msg)
    found = RATE.search(said)
    assert found is not None, said
    return float(found[1])


@contextmanager
def _served(name: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", name, str(listener.fileno())],
            cwd=HERE,
            pass_fds=[listener.fileno()],
        )
        url = f"http://127.0.0.1:{port}{shop.PATH}"
        try:
            _await(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=10)


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + 30
    while monotonic() < deadline and server.poll() is None:
        try:
            # The socket listens already; the answer comes when the application is ready.
            urlopen(url, timeout=deadline - monotonic()).close()
        except URLError:
            sleep(0.05)
        else:
            return
    msg = f"The server of {url} did not start."
    raise RuntimeError(msg)


def _serve(name: str, listener: str) -> None:
    subject = Subject(VARIANTS[name])
    with subject.world():
        config = uvicorn.Config(subject.app, access_log=False, log_level="error")
        # As a socket, not as Config(fd=...): uvicorn takes that for a Unix socket, so asyncio leaves
        # Nagle's algorithm on, and every answer waits 40 ms for the client's delayed ACK.
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(listener))])


if __name__ == "__main__":
    _serve(*sys.argv[1:])
