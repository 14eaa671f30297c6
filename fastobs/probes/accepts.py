"""What waits in the kernel for `accept()`: requests that have come, and that no latency shows yet."""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from time import monotonic

from fastobs import catalogue
from fastobs.cells import Reading

from . import Kit, Probe

__all__ = ["Accepts", "probe"]

DESCRIPTORS = "/proc/self/fd"
UNACKED = struct.Struct("=24xI")
"""Of ``struct tcp_info``: for a socket that listens, how many connections wait (tcp(7), sock_diag(7))."""
AGAIN = 60.0
"""Seconds until sockets are looked for again; a look takes 1 us for each open file."""
SOON = 5.0
"""The same while there is none: servers listen when the app's start-up is complete."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Accepts(kit)


class Accepts(Probe):
    """Asks the sockets on which this process listens; only Linux answers, and only for TCP."""

    def __init__(self, kit: Kit, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(kit)
        self._clock = clock
        self._listening: list[tuple[int, int]] = []
        self._look_at = 0.0

    def read(self) -> Iterator[Reading]:
        if sys.platform != "linux":
            return
        waiting = [_waiting(*each) for each in self._listening]
        if None in waiting or self._clock() >= self._look_at:
            self._listening = list(_listening())
            self._look_at = self._clock() + (AGAIN if self._listening else SOON)
            waiting = [_waiting(*each) for each in self._listening]
        known = [count for count in waiting if count is not None]
        if known:
            yield Reading(catalogue.ACCEPT_QUEUE, (), float(sum(known)))


def _listening() -> Iterator[tuple[int, int]]:
    """Descriptor and inode of each socket that connections can come to."""
    try:
        names = os.listdir(DESCRIPTORS)  # noqa: PTH208 - thousands of names, each second
    except OSError:
        # Some sandboxes have no /proc.
        return
    for name in names:
        descriptor = int(name)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISSOCK(found.st_mode) and _asked(descriptor, _listens):
                yield descriptor, found.st_ino
        except OSError:
            # Closed since it was listed.
            continue


def _waiting(descriptor: int, inode: int) -> int | None:
    """Connections that wait for it; None if the socket is not there any more."""
    try:
        if os.fstat(descriptor).st_ino != inode:
            return None
        return _asked(descriptor, _unacked)
    except OSError:
        return None


def _asked(descriptor: int, ask: Callable[[socket.socket], int]) -> int:
    asked = socket.socket(fileno=descriptor)
    try:
        return ask(asked)
    finally:
        # It is the server's, who closes it.
        asked.detach()


def _listens(one: socket.socket) -> int:
    tcp = one.family in {socket.AF_INET, socket.AF_INET6} and one.type == socket.SOCK_STREAM
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) if tcp else 0


def _unacked(one: socket.socket) -> int:
    (count,) = UNACKED.unpack(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.size))
    return int(count)
