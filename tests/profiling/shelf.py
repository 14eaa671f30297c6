"""A store that lives as long as its test."""

from __future__ import annotations

import threading

from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Meta

__all__ = ["Shelf"]


class Shelf:
    """Keeps what it is given, or refuses it; as soon as it may."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.kept: list[tuple[Meta, Stacks]] = []
        self.threads: set[int] = set()
        self.open = threading.Event()
        self.open.set()
        self.refusal = refusal

    def put(self, meta: Meta, stacks: bytes) -> None:
        self.open.wait()
        self.threads.add(threading.get_ident())
        if self.refusal is not None:
            raise self.refusal
        self.kept.append((meta, Stacks.decode(stacks)))
