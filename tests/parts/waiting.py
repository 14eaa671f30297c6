"""Waiting for what can be asked, never for time to pass."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

__all__ = ["PATIENCE", "Answer", "eventually", "free_port", "get"]

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for what takes a moment, on a machine that has more to do; who is not kept waiting pays
nothing for it."""

# Below the range from which Linux takes the ports of outgoing connections. The processes of one run
# have each their own: a port that one has found free is not taken yet.
_RANGE = range(20_000, 32_000)
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = _RANGE[_NUMBER % _PROCESSES :: _PROCESSES]

_handed_out: set[int] = set()


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: str


def free_port() -> int:
    """A port of the loopback interface on which nobody listens, never the same one twice."""
    while True:
        # Not `random`: pytest-randomly seeds it anew for every test.
        port = secrets.choice(PORTS)
        if port in _handed_out:
            continue
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port


def get(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Answer:
    """One GET on a connection of its own; proxies of the environment are ignored.

    Raises:
        OSError: Nobody listens, or the answer broke off.
    """
    where = urlsplit(url)
    target = f"{where.path or '/'}?{where.query}" if where.query else where.path or "/"
    connection = http.client.HTTPConnection(where.netloc, timeout=timeout)
    with closing(connection):
        try:
            connection.request("GET", target, headers=dict(headers or {}))
            response = connection.getresponse()
            body = response.read().decode()
        except http.client.HTTPException as broken:
            msg = f"{url} broke off: {broken!r}"
            raise ConnectionError(msg) from broken
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, body)


def eventually(question: Callable[[], T], *, within: float = PATIENCE, what: str = "") -> T:
    """The first truthy answer to a question that is asked again and again.

    Raises:
        TimeoutError: There was none in time; the last answer is in the message.
    """
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not (answer := question()):
        if time.monotonic() > deadline:
            msg = f"{what or question!r} was still {answer!r} after {within} s."
            raise TimeoutError(msg)
        pause.wait(0.05)
    return answer
