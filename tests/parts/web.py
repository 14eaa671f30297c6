"""An application behind the servers that people deploy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .process import Running, own_folder, running
from .waiting import Answer, free_port, get

__all__ = ["Server", "ServerName", "serve"]

ServerName = Literal["uvicorn", "gunicorn", "granian"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An application that answers on a port of its own."""

    port: int
    server: Running

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://{self.address}"

    def get(self, path: str = "/", *, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own, so that any worker may take it."""
        return get(self.url + path, headers=headers)


@contextmanager
def serve(
    app: str,
    *,
    server: ServerName = "uvicorn",
    workers: int = 1,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    ready: str = "/metrics",
) -> Iterator[Server]:
    """Serve an application until the block ends.

    Args:
        app: ``module:name``, or ``module:factory`` together with the server's option for it.
        server: Who serves it.
        workers: How many processes; at least one of them answers when the block begins.
        options: More words for the server's command line; they win over ours.
        env: Variables on top of this process's own.
        folder: Where the server runs and looks for modules first; the project when not given.
        ready: Asked until there is an answer, whatever its status. The default is a path that
            fastobs does not count.
    """
    port = free_port()
    part = ServerCommand(app=app, port=port, workers=workers, options=options)
    places = [str(folder or ROOT), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, dict.fromkeys(places))),
        "PYTHONUNBUFFERED": "1",
        **(env or {}),
    }

    def answers() -> bool:
        with suppress(OSError):
            return get(f"http://127.0.0.1:{port}{ready}", timeout=5.0).status > 0
        return False

    with (
        own_folder(server) as logs,
        running(
            part.words(server),
            name=server,
            folder=logs,
            cwd=folder or ROOT,
            env=environment,
            ready=answers,
        ) as started,
    ):
        yield Server(port=port, server=started)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """The same wish in three command lines."""

    app: str
    port: int
    workers: int
    options: Sequence[str]

    def words(self, server: ServerName) -> list[str]:
        """The command line that starts it."""
        python = [sys.executable, "-m", server]
        match server:
            case "uvicorn":
                host = ["--host", "127.0.0.1", "--port", str(self.port)]
            case "gunicorn":
                # Its own ASGI worker is "asgi"; uvicorn's is what most people run.
                kind = ["--worker-class", "uvicorn.workers.UvicornWorker"]
                host = ["--bind", f"127.0.0.1:{self.port}", *kind]
            case "granian":
                host = ["--host", "127.0.0.1", "--port", str(self.port), "--interface", "asgi"]
        return [*python, *host, "--workers", str(self.workers), *self.options, self.app]
