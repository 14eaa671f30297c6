"""Where rows of float64 cells come from, and the store of a process that is alone."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence, Sequence
from typing import NamedTuple, Protocol

from fastobs.catalogue import Metric

__all__ = [
    "EXEMPLARS",
    "EXEMPLAR_TIME",
    "EXEMPLAR_WIDTH",
    "NUMBERS",
    "Key",
    "MemoryStore",
    "OwnView",
    "Place",
    "Readable",
    "Store",
    "View",
]

NUMBERS = "cells"
"""The sheet for counts, sums and gauges."""
EXEMPLARS = "exemplars"
"""The sheet for exemplars, apart, since it is large and few readers want it."""
EXEMPLAR_WIDTH = 9
"""Its cells for a bucket: the ids in words of 32 bits, which a float64 holds, value, time, check."""
EXEMPLAR_TIME = 7
"""Which of them is the time; 0 where there is no exemplar."""


class Key(NamedTuple):
    """What a row is for."""

    metric: str
    values: tuple[str, ...]


class Place(NamedTuple):
    """Where a row is: in these cells, from this one on."""

    cells: MutableSequence[float]
    at: int
    shared: bool = False
    """Other processes see it at the same place of their own column."""


class Readable(Protocol):
    """What a view needs to know of a row."""

    metric: Metric
    values: tuple[str, ...]
    cells: MutableSequence[float]
    shared: bool
    width: int

    def numbers(self, column: Sequence[float]) -> Sequence[float]:
        """The row's part of a column of cells."""
        ...

    def is_shown(self, numbers: Sequence[float]) -> bool:
        """Whether these numbers are a series, and not only room for one."""
        ...

    @property
    def exemplar_place(self) -> Place | None:
        """Where the row's exemplars are, if it has had some."""
        ...

    @property
    def exemplar_width(self) -> int:
        """How many cells they take."""
        ...


class View(Protocol):
    """All rows at one moment, of one process or of several."""

    def numbers(self, row: Readable) -> Iterable[tuple[str, Sequence[float]]]:
        """The row's cells: once for the whole service, or once for each worker that has them.

        Each with the worker, for metrics that are per worker.
        """
        ...

    def exemplar_times(self, row: Readable) -> Sequence[float]:
        """Of each of the row's buckets, when its latest exemplar was seen; 0 where there is none."""
        ...

    def exemplar(self, row: Readable, bucket: int) -> Sequence[float]:
        """The cells of that exemplar."""
        ...


class Store(Protocol):
    """Gives out rows of cells, all zero at first."""

    def claim(self, key: Key, width: int, sheet: str = NUMBERS) -> Place:
        """The row for this key, the same one each time.

        A statement like ``cells[at] += amount`` loses nothing to other threads: CPython hands the
        interpreter over only at calls and backward jumps, and there is neither between load and store.
        """
        ...

    def strangers(self) -> Iterable[Key]:
        """Keys that other processes have claimed since this was last asked."""
        ...

    def view(self) -> View:
        """What all processes have counted."""
        ...


class MemoryStore:
    """The cells of a process that is alone, in its own memory."""

    def claim(self, key: Key, width: int, sheet: str = NUMBERS) -> Place:  # noqa: ARG002
        return Place([0.0] * width, 0)

    def strangers(self) -> Iterable[Key]:
        return ()

    def view(self) -> View:
        return OwnView("0")


class OwnView:
    """What this process has counted, read from the rows themselves."""

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def numbers(self, row: Readable) -> Iterable[tuple[str, Sequence[float]]]:
        numbers = row.numbers(row.cells)
        return ((self._worker, numbers),) if row.is_shown(numbers) else ()

    def exemplar_times(self, row: Readable) -> Sequence[float]:
        if (place := row.exemplar_place) is None:
            return ()
        cells, at, _ = place
        return cells[at + EXEMPLAR_TIME : at + row.exemplar_width : EXEMPLAR_WIDTH]

    def exemplar(self, row: Readable, bucket: int) -> Sequence[float]:
        assert row.exemplar_place is not None
        cells, at, _ = row.exemplar_place
        at += bucket * EXEMPLAR_WIDTH
        return cells[at : at + EXEMPLAR_WIDTH]
