"""A door before a server, which lets nobody in until the test says so."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from typing import Self
from urllib.parse import urlsplit

from tests.parts import PATIENCE

__all__ = ["Gate"]


class Gate(socketserver.ThreadingTCPServer):
    """Accepts connections, and hands on what is said once it is open.

    Args:
        url: Of a server on this machine.

    Attributes:
        url: The same, through the door.
        waiting: How many have come.
    """

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        port = urlsplit(url).port
        assert port is not None
        self.behind = ("127.0.0.1", port)
        self.url = url.replace(f":{port}", f":{self.server_address[1]}")
        self.waiting = 0
        self._opened = threading.Event()

    def open(self) -> None:
        """Let everybody in."""
        self._opened.set()

    def entered(self) -> bool:
        """Wait at the door; whether it was opened."""
        self.waiting += 1
        return self._opened.wait(PATIENCE)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.set()
        self.shutdown()
        self.server_close()


class _Through(socketserver.BaseRequestHandler):
    server: Gate
    request: socket.socket

    def handle(self) -> None:
        if not self.server.entered():
            return
        with socket.create_connection(self.server.behind) as behind:
            ways = {self.request: behind, behind: self.request}
            while True:
                ready, _, _ = select.select(list(ways), [], [])
                for side in ready:
                    try:
                        said = side.recv(65_536)
                        ways[side].sendall(said)
                    except OSError:
                        return
                    if not said:
                        return
