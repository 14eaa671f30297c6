"""Worker slots: a number and a column of cells for each worker, claimed with `flock`.

The kernel frees a slot when its owner dies, however it dies, so no server has to tell us. The next
owner goes on with the counters that it finds there, and its gauges begin anew; files and the cost of
a scrape are bounded by the most workers that ever ran at the same time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from .store import EXEMPLARS, NUMBERS

__all__ = [
    "HEAD",
    "Column",
    "Overflow",
    "Sheet",
    "Slot",
    "claim",
    "columns",
    "count",
    "is_live",
    "numbers",
    "owner",
    "peek",
    "written",
]

MAGIC = 1.0e301 + 25.0
"""First cell of every column; what begins otherwise was not written by us."""
HEAD = 2
"""Cells before the first row: the magic number, and the owner's pid."""
CHUNK = 1 << 15
"""Cells by which a column grows: 256 KiB."""
MOST = 1024
"""Slots; workers above share one column, see `Overflow`."""
OVERFLOW = "overflow"
"""What the label ``worker`` says of them."""


class Column(NamedTuple):
    """One worker's cells at one moment."""

    worker: str
    live: bool
    cells: Sequence[float]


class Sheet(Protocol):
    """Cells that this process writes, all zero at first."""

    damaged: bool
    """What was there before was something else, and is gone."""

    def reach(self, cells: int) -> MutableSequence[float]:
        """At least so many cells, the head included.

        Raises:
            OSError: There is no room.
        """
        ...


class Mapped:
    """A file of cells, mapped into memory.

    It grows by a further, larger mapping; what was handed out from an earlier one stays valid, since
    all map the same file.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.damaged = self._begin()
        self.cells = self._map()

    @classmethod
    def at(cls, path: Path) -> Mapped:
        """The file there, made if there is none.

        Raises:
            OSError: There is no room.
        """
        file = _open(path)
        try:
            return cls(file)
        except OSError:
            os.close(file)
            raise

    def reach(self, cells: int) -> MutableSequence[float]:
        """See `Sheet`."""
        while cells > len(self.cells):
            self._allocate(len(self.cells) + CHUNK)
            self.cells = self._map()
        return self.cells

    def read(self, cells: int) -> Sequence[float]:
        """A copy of the first so many cells; what is not there yet is zero."""
        return _padded(_cells(self._file, cells), cells)

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
    """This process's own slot, for as long as it lives. Whoever locks the file of its numbers has it."""

    def __init__(self, folder: Path, number: int, lock: int) -> None:
        self.number = number
        self.worker = str(number)
        # Opened a second time: a mapping holds what it was made from, and would hold the lock.
        self._lock = lock
        self.numbers = Mapped.at(_path(folder, number))
        self.numbers.cells[1] = float(os.getpid())
        self._exemplars = folder / f"{number}.{EXEMPLARS}"

    @cached_property
    def exemplars(self) -> Mapped:
        """Made with the first one: services without traces have none."""
        return Mapped.at(self._exemplars)

    def sheet(self, name: str) -> Sheet:
        """Where this worker writes.

        Raises:
            OSError: There is no room.
        """
        return self.numbers if name == NUMBERS else self.exemplars

    def column(self, name: str, cells: int) -> Column | None:
        """What it has written, if there is such a sheet."""
        if name == EXEMPLARS and not self._exemplars.exists():
            return None
        sheet = self.numbers if name == NUMBERS else self.exemplars
        return Column(self.worker, live=True, cells=sheet.read(cells))

    def close(self) -> None:
        """Free the slot; in a forked child, only let go of what is the parent's."""
        if "exemplars" in self.__dict__:
            self.exemplars.close()
        self.numbers.close()
        os.close(self._lock)


class Private:
    """Cells in the memory of this process."""

    damaged = False

    def __init__(self) -> None:
        self.cells = array("d")

    def reach(self, cells: int) -> MutableSequence[float]:
        """See `Sheet`. What was handed out before is the same array."""
        self.cells.extend([0.0] * (cells - len(self.cells)))
        return self.cells


class Overflow:
    """Where a worker counts when all slots are taken: for itself, and now and then for all.

    What such workers have counted is added up in one column, under a lock, so sums stay whole.
    Gauges and exemplars would have to be of one worker each; theirs are not shown.
    """

    number = None
    worker = OVERFLOW

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{OVERFLOW}.{NUMBERS}"
        self._numbers, self._exemplars = Private(), Private()
        self._told = array("d")

    def sheet(self, name: str) -> Sheet:
        """See `Slot`."""
        return self._numbers if name == NUMBERS else self._exemplars

    def column(self, name: str, cells: int) -> Column | None:
        """See `Slot`: of all workers without one."""
        if name == EXEMPLARS:
            return None
        found: Sequence[float] = [0.0] * cells
        # Whoever has just tried to tell it has said that there is no room.
        with suppress(OSError), self._locked() as common:
            found = common.read(cells)
        return Column(self.worker, live=False, cells=found)

    def tell(self, but: set[int]) -> None:
        """Add to the common column what this worker has counted since the last time.

        Args:
            but: Places of cells that do not count, but measure.

        Raises:
            OSError: There is no room.
        """
        now = array("d", self._numbers.cells)
        self._told.extend([0.0] * (len(now) - len(self._told)))
        with self._locked() as common:
            cells = common.reach(len(now))
            for at, (amount, told) in enumerate(zip(now, self._told, strict=True)):
                if amount != told and at not in but:
                    cells[at] += amount - told
        self._told = now

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _locked(self) -> Iterator[Mapped]:
        file = _open(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield Mapped(file)
        finally:
            os.close(file)


def claim(folder: Path) -> Slot | None:
    """The lowest free slot; None if all are taken.

    Raises:
        OSError: The folder cannot be used, or there is no room.
    """
    for number in range(MOST):
        lock = _open(_path(folder, number))
        try:
            if _try_lock(lock):
                return Slot(folder, number, lock)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    return None


def columns(folder: Path, sheet: str, cells: int, *, but: int | None) -> Iterator[Column | Path]:
    """The columns of all slots but one's own, read from their files; a path for one that is damaged."""
    for number in numbers(folder):
        if number != but:
            path = folder / f"{number}.{sheet}"
            if (found := _column(path, str(number), cells)) is not None:
                yield found
    if but is not None and (found := _column(folder / f"{OVERFLOW}.{sheet}", OVERFLOW, cells)):
        yield found._replace(live=False) if isinstance(found, Column) else found


def peek(folder: Path, sheet: str, worker: str, at: int, cells: int) -> Sequence[float]:
    """So many cells of a worker's sheet, fewer if it is gone."""
    try:
        file = os.open(folder / f"{worker}.{sheet}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return _cells(file, cells, at)
    finally:
        os.close(file)


def written(folder: Path) -> int:
    """Up to which cell anything was ever written, in any column."""
    magic = array("d", [MAGIC]).tobytes()
    found = (path.read_bytes() for path in folder.glob(f"*.{NUMBERS}"))
    return max(
        (-(-len(one.rstrip(b"\0")) // 8) for one in found if one.startswith(magic)), default=0
    )


def numbers(folder: Path) -> Iterator[int]:
    """The slots that were ever claimed; they are claimed from below."""
    for number in range(MOST):
        if not _path(folder, number).exists():
            return
        yield number


def is_live(folder: Path, number: int) -> bool:
    """Whether the slot has an owner."""
    try:
        file = os.open(_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_locked(file)
    finally:
        os.close(file)


def owner(folder: Path, number: int) -> int:
    """The pid of whoever has the slot, or had it; 0 if that cannot be said."""
    try:
        file = os.open(_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return _owner(file)
    finally:
        os.close(file)


def count(folder: Path) -> tuple[int, int]:
    """How many slots have an owner, and how many are free to be claimed again."""
    live = [is_live(folder, number) for number in numbers(folder)]
    return sum(live), len(live) - sum(live)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.{NUMBERS}"


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        _make(path)
        return os.open(path, flags)


def _make(path: Path) -> None:
    """Put a sound file there, whole from the beginning: siblings may look at any moment."""
    file, new = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.")
    try:
        Mapped(file)
        # A sibling may have been faster.
        with suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        os.close(file)
        Path(new).unlink()


def _column(path: Path, worker: str, cells: int) -> Column | Path | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # First: then gauges are of somebody who lived, or of nobody.
        live = _is_locked(file)
        found = _cells(file, cells)
    finally:
        os.close(file)
    if not found or found[0] != MAGIC:
        return path
    return Column(worker, live, _padded(found, cells))


def _cells(file: int, count: int, at: int = 0) -> array[float]:
    found = array("d", (0.0,)) * count
    del found[os.preadv(file, [found], at * 8) // 8 :]
    return found


def _padded(found: array[float], cells: int) -> array[float]:
    found.extend([0.0] * (cells - len(found)))
    return found


def _owner(file: int) -> int:
    magic, pid, *_ = [*_cells(file, HEAD), 0.0, 0.0]
    return int(pid) if magic == MAGIC and 0 < pid < 1 << 31 else 0


def _try_lock(file: int) -> bool:
    # A sibling that looks whether the slot is alive holds the lock for some microseconds.
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (pid := _owner(file)) and Path(f"/proc/{pid}").exists():
                return False
        else:
            return True
    return False


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
