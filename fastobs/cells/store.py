"""Rows of float64 cells in the memory of one process."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence
from typing import Protocol

__all__ = ["MemoryStore", "Store"]


class Store(Protocol):
    """Gives out rows of cells; a row stays where it is for the life of the process."""

    def claim(
        self, metric: str, values: tuple[str, ...], width: int
    ) -> tuple[MutableSequence[float], int]:
        """A row of ``width`` zeros for this label set: the cells, and where the row begins in them.

        A statement like ``cells[at] += amount`` loses nothing to other threads: CPython hands the
        interpreter over only at calls and backward jumps, and there is neither between load and store.
        """
        ...


class MemoryStore:
    """The cells of a single process: one growing array."""

    def __init__(self) -> None:
        self._cells = array("d")

    def claim(
        self,
        metric: str,  # noqa: ARG002 - a store that is shared between processes needs the key
        values: tuple[str, ...],  # noqa: ARG002
        width: int,
    ) -> tuple[MutableSequence[float], int]:
        at = len(self._cells)
        self._cells.extend([0.0] * width)
        return self._cells, at
