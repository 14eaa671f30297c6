"""The store of a worker that has siblings: the same rows, in a segment that all of them map.

    keys                               which row is at which place; append-only
    0.cells  0.exemplars  0.users      worker slot 0; exemplars and the users' own metrics if there are any
    1.cells  1.exemplars  1.users      worker slot 1, and so on
    overflow.cells                     all workers above the most that there are slots for

A row has the same place in every slot's column, so a scrape adds up columns and never parses a label.
A worker writes to its own column only: no lock, no system call, no other writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from fastobs import catalogue

from .keys import Damaged, Keys
from .slots import HEAD, Column, Overflow, Sheet, Slot, claim, columns, peek, written
from .store import (
    EXEMPLAR_TIME,
    EXEMPLAR_WIDTH,
    EXEMPLARS,
    NUMBERS,
    Key,
    MemoryStore,
    OwnView,
    Place,
    Readable,
    View,
)

__all__ = ["SharedStore"]


class SharedStore:
    """Gives out rows of this worker's column, and sees those of its siblings.

    Args:
        folder: Exists, and is private to the user and the server.
        version: Of what is written; siblings of another version are not read.
        left_out: Told what could not be used, and why.

    Raises:
        OSError: The folder cannot be used, or there is no room in it.
        Damaged: The key table is not one of this version, or not whole.
    """

    def __init__(self, folder: Path, version: str, left_out: Callable[[str], None]) -> None:
        self._folder = folder
        self._left_out = left_out
        self._lock = threading.RLock()
        self._news: list[Key] = []
        self._keys = Keys(folder / "keys", version, left_out)
        try:
            # In this order: meanwhile siblings make rows, and then write to them.
            cells = written(folder)
            self._hear()
            if cells > self._keys.used(NUMBERS):
                msg = "the key table has lost rows that are in use"
                raise Damaged(msg)
            self.slot: Slot | Overflow = claim(folder) or Overflow(folder)
        except (OSError, Damaged):
            self._keys.close()
            raise
        self._sheet(NUMBERS)
        if isinstance(self.slot, Slot):
            self._clear_gauges(self.slot.numbers.cells)

    def claim(self, key: Key, width: int, sheet: str = NUMBERS) -> Place:
        """See `Store`. Where there is no room left, the row is this worker's alone."""
        with self._lock:
            try:
                at = self._keys.place(sheet, key, width)
                return Place(self._sheet(sheet).reach(at + width), at, shared=True)
            except OSError as error:
                self._left_out(f"{key.metric}: {error}")
                return MemoryStore().claim(key, width, sheet)

    def strangers(self) -> Iterable[Key]:
        """See `Store`."""
        with self._lock:
            self._hear()
            news, self._news = self._news, []
        return news

    def view(self) -> View:
        """See `Store`."""
        self.tell()
        return SharedView(self, list(self.columns(NUMBERS)))

    def tell(self) -> None:
        """A worker that has no slot: add what it has counted to what all of them have."""
        if isinstance(self.slot, Overflow):
            try:
                with self._lock:
                    self.slot.tell({cell for at in self._gauges() for cell in (at, at + 1)})
            except OSError as error:
                self._left_out(str(error))

    def columns(self, sheet: str) -> Iterator[Column]:
        """The own column, and those of all siblings, alive or not."""
        with self._lock:
            used = self._keys.used(sheet)
            if (own := self.slot.column(sheet, used)) is not None:
                yield own
        for found in columns(self._folder, sheet, used, but=self.slot.number):
            if isinstance(found, Path):
                self._left_out(f"{found.name} is damaged")
            else:
                yield found

    def peek(self, sheet: str, worker: str, at: int, cells: int) -> Sequence[float]:
        """So many cells of a worker's sheet, fewer if it is gone."""
        return peek(self._folder, sheet, worker, at, cells)

    def place_of(self, sheet: str, key: Key) -> int | None:
        """Where a row is in every column of a sheet."""
        return self._keys.known(sheet, key)

    def close(self) -> None:
        """Free the slot; in a forked child: let go of the parent's."""
        self._keys.close()
        self.slot.close()

    def _sheet(self, name: str) -> Sheet:
        sheet = self.slot.sheet(name)
        if sheet.damaged:
            sheet.damaged = False
            self._left_out(f"slot {self.slot.worker} was damaged and begins anew")
        return sheet

    def _hear(self) -> None:
        try:
            self._news.extend(key for sheet, key in self._keys.news() if sheet == NUMBERS)
        except OSError as error:
            self._left_out(f"the key table: {error}")

    def _clear_gauges(self, cells: MutableSequence[float]) -> None:
        """What the slot's last owner measured is gone with it; what it counted is not."""
        for at in self._gauges():
            if at + 1 < len(cells):
                cells[at] = cells[at + 1] = 0.0

    def _gauges(self) -> Iterator[int]:
        """Where they are."""
        for key, at in self._keys.rows(NUMBERS):
            metric = catalogue.CATALOGUE.get(key.metric)
            if metric is not None and metric.kind == "gauge":
                yield at


class _Exemplars(NamedTuple):
    """Of which workers there are some; of each worker, the times of all; and the latest times."""

    workers: list[str]
    times: list[Sequence[float]]
    latest: list[float]


class SharedView:
    """What all workers have counted, at one moment."""

    def __init__(self, store: SharedStore, found: list[Column]) -> None:
        self._store = store
        self._columns = found
        self._own = found[0].worker
        # A third less than adding one column after the other.
        self._merged: Sequence[float] = list(
            map(sum, zip(*(column.cells for column in found), strict=False), repeat(0.0))
        )

    def numbers(self, row: Readable) -> Iterable[tuple[str, Sequence[float]]]:
        if not row.shared:
            return OwnView(self._own).numbers(row)
        merged = row.numbers(self._merged)
        if len(merged) < row.width:
            # Made after the columns were read; the next scrape has it.
            return ()
        if row.metric.per_worker:
            return self._each(row)
        if row.metric.kind == "gauge":
            shown = [numbers[0] for _, numbers in self._each(row)]
            return (
                [("", (max(shown) if row.metric.merge == "max" else sum(shown),))] if shown else ()
            )
        return (("", merged),)

    def exemplar_times(self, row: Readable) -> Sequence[float]:
        if (first := self._first(row)) is None:
            return ()
        return self._exemplars.latest[first : first + row.exemplar_width // EXEMPLAR_WIDTH]

    def exemplar(self, row: Readable, bucket: int) -> Sequence[float]:
        first = self._first(row)
        assert first is not None
        at = first + bucket
        workers, times, latest = self._exemplars
        worker = workers[[each[at] for each in times].index(latest[at])]
        return self._store.peek(EXEMPLARS, worker, HEAD + at * EXEMPLAR_WIDTH, EXEMPLAR_WIDTH)

    def _first(self, row: Readable) -> int | None:
        """Which exemplar of the sheet is that of the row's first bucket."""
        place = self._store.place_of(EXEMPLARS, Key(row.metric.name, row.values))
        return None if place is None else (place - HEAD) // EXEMPLAR_WIDTH

    @cached_property
    def _exemplars(self) -> _Exemplars:
        """When they were seen: most of them are known from the last scrape, and not read again."""
        workers, times = [], []
        for column in self._store.columns(EXEMPLARS):
            workers.append(column.worker)
            times.append(column.cells[HEAD + EXEMPLAR_TIME :: EXEMPLAR_WIDTH])
        return _Exemplars(workers, times, list(map(max, zip(*times, strict=True))))

    def _each(self, row: Readable) -> Iterator[tuple[str, Sequence[float]]]:
        """Of each worker what it has; gauges of the dead measure nothing."""
        gauge = row.metric.kind == "gauge"
        for column in self._columns:
            numbers = row.numbers(column.cells)
            if (column.live and row.is_shown(numbers)) if gauge else any(numbers):
                yield column.worker, numbers
