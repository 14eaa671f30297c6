"""Worker slots: a number and a column of cells for each worker, claimed with `flock`.

The kernel frees a slot when its owner dies, however it dies, so no server has to tell us. The next
owner goes on with the counters that it finds there, and its gauges begin anew; files and the cost of
a scrape are bounded by the most workers that ever ran at the same time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

__all__ = ["HEAD", "Column", "Sheet", "Slot", "claim", "columns", "count", "is_live", "numbers"]

MAGIC = 1.0e301 + 24.0
"""First cell of every column; what begins otherwise was not written by us."""
HEAD = 1
"""Cells before the first row."""
CHUNK = 1 << 15
"""Cells by which a column grows: 256 KiB."""
MOST = 1024
"""Slots; workers above share nothing, see `SharedStore`."""


class Column(NamedTuple):
    """One worker's cells at one moment."""

    worker: str
    live: bool
    cells: Sequence[float]


class Sheet:
    """A file of cells that this process writes, mapped into its memory.

    It grows by a further, larger mapping; what was handed out from an earlier one stays valid, since
    all map the same file.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self.damaged = self._begin()
        self.cells = self._map()

    def reach(self, cells: int) -> MutableSequence[float]:
        """At least so many cells, the head included.

        Raises:
            OSError: There is no room.
        """
        while cells > len(self.cells):
            self._allocate(len(self.cells) + CHUNK)
            self.cells = self._map()
        return self.cells

    def read(self, cells: int) -> Sequence[float]:
        """A copy of the first so many cells."""
        return _cells(self._file, cells)

    def close(self) -> None:
        """Give up the file; mappings live as long as somebody has cells of them."""
        os.close(self._file)

    def _begin(self) -> bool:
        """Make the file what it must be; was it something else?"""
        size = os.fstat(self._file).st_size
        damaged = size > 0 and (size % 8 != 0 or not self._is_ours())
        if damaged:
            os.ftruncate(self._file, 0)
        if damaged or size < CHUNK * 8:
            self._allocate(CHUNK)
        if not self._is_ours():
            os.pwrite(self._file, array("d", [MAGIC]).tobytes(), 0)
        return damaged

    def _is_ours(self) -> bool:
        return list(_cells(self._file, 1)) == [MAGIC]

    def _allocate(self, cells: int) -> None:
        # Not truncate: a sparse file on a full disk is a SIGBUS at the first write.
        os.posix_fallocate(self._file, 0, cells * 8)

    def _map(self) -> MutableSequence[float]:
        size = os.fstat(self._file).st_size // 8 * 8
        # The checker knows memoryviews of integers only.
        view: Any = memoryview(mmap.mmap(self._file, size)).cast("d")
        return cast("MutableSequence[float]", view)


class Slot:
    """This process's own slot, for as long as it lives."""

    def __init__(self, number: int, lock: int, numbers: Sheet, exemplars: Sheet) -> None:
        self.number = number
        self.worker = str(number)
        self.numbers = numbers
        self.exemplars = exemplars
        self._lock = lock

    def close(self) -> None:
        """Free the slot; in a forked child, only let go of what is the parent's."""
        self.numbers.close()
        self.exemplars.close()
        os.close(self._lock)


def claim(folder: Path) -> Slot | None:
    """The lowest free slot; None if all are taken.

    Raises:
        OSError: The folder cannot be used, or there is no room.
    """
    for number in range(MOST):
        lock = os.open(_lock_path(folder, number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _try_lock(lock):
            os.close(lock)
            continue
        try:
            os.pwrite(lock, f"{os.getpid()}\n".encode().ljust(16), 0)
            return Slot(
                number,
                lock,
                Sheet(folder / f"{number}.cells"),
                Sheet(folder / f"{number}.exemplars"),
            )
        except BaseException:
            os.close(lock)
            raise
    return None


def columns(folder: Path, sheet: str, cells: int, *, but: int) -> Iterator[Column | Path]:
    """The columns of all slots but one's own, read from their files; a path for one that is damaged."""
    for number in range(MOST):
        if number == but:
            continue
        path = folder / f"{number}.{sheet}"
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Slots are claimed from below; but one's own may be the only one of its neighbours.
            if number > but:
                return
            continue
        try:
            found = _cells(file, cells)
        finally:
            os.close(file)
        if not found or found[0] != MAGIC:
            yield path
        else:
            found.extend([0.0] * (cells - len(found)))
            yield Column(str(number), is_live(folder, number), found)


def numbers(folder: Path) -> Iterator[int]:
    """The slots that were ever claimed; they are claimed from below."""
    for number in range(MOST):
        if not _lock_path(folder, number).exists():
            return
        yield number


def is_live(folder: Path, number: int) -> bool:
    """Whether the slot has an owner."""
    return _is_locked(_lock_path(folder, number))


def count(folder: Path) -> tuple[int, int]:
    """How many slots have an owner, and how many are free to be claimed again."""
    live = [is_live(folder, number) for number in numbers(folder)]
    return sum(live), len(live) - sum(live)


def _cells(file: int, count: int) -> array[float]:
    found = array("d", (0.0,)) * count
    del found[os.preadv(file, [found], 0) // 8 :]
    return found


def _lock_path(folder: Path, number: int) -> Path:
    return folder / f"{number}.lock"


def _try_lock(file: int) -> bool:
    # A sibling that looks whether the slot is alive holds the lock for some microseconds.
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _owner_lives(file):
                return False
        else:
            return True
    return False


def _owner_lives(file: int) -> bool:
    text = os.pread(file, 16, 0).decode("ascii", "replace").strip()
    return text.isdigit() and Path(f"/proc/{text}").exists()


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)
