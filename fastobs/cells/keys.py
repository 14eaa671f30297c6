"""The key table that siblings share: which row is at which place of every worker's column."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .slots import HEAD
from .store import NUMBERS, Key

__all__ = ["Damaged", "Keys"]


class Damaged(Exception):  # noqa: N818 - it says what happened
    """A file of the shared segment is not what a sibling of this version has written."""


class Keys:
    """An append-only file: a head with the version, then one JSON line per row.

    A line is ``[sheet, metric, [values...], width]``; a row's place is the sum of the widths before it
    in its sheet. Whoever adds a line holds the file's lock; whoever reads needs none, since a line
    counts only once its line feed is there.
    """

    def __init__(self, path: Path, version: str, left_out: Callable[[str], None]) -> None:
        self._left_out = left_out
        self._head = json.dumps({"fastobs": version}).encode() + b"\n"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._read = 0
        self._places: dict[tuple[str, Key], int] = {}
        self._used: dict[str, int] = {}
        self._unheard: list[tuple[str, Key]] = []
        try:
            with self._locked():
                # It was there before any column, and what they hold means nothing without it.
                self._begin(emptied=(path.parent / f"0.{NUMBERS}").exists())
        except (OSError, Damaged):
            self.close()
            raise

    def used(self, sheet: str) -> int:
        """Cells that a sheet needs for all known rows, its head included."""
        return self._used.get(sheet, HEAD)

    def place(self, sheet: str, key: Key, width: int) -> int:
        """Where the row is; a place for it is made if there is none.

        Raises:
            OSError: The line cannot be written.
        """
        known = self._places.get((sheet, key))
        if known is None:
            with self._locked():
                self._mend()
                self._read_on()
                if (sheet, key) not in self._places:
                    self._append(
                        json.dumps([sheet, key.metric, key.values, width]).encode() + b"\n"
                    )
                    self._read_on()
            known = self._places[sheet, key]
        return known

    def news(self) -> list[tuple[str, Key]]:
        """Rows that were added since this was last asked, by whomever."""
        self._read_on()
        news, self._unheard = self._unheard, []
        return news

    def _read_on(self) -> None:
        data = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        complete = data[: data.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            try:
                sheet, metric, values, width = json.loads(line)
                entry = (str(sheet), Key(str(metric), tuple(map(str, values))))
                wide = int(width)
            except (ValueError, TypeError):
                # Whoever reads on passes over the same lines, or places would differ.
                self._left_out(f"the key table has a line that is none: {line[:80]!r}")
                continue
            if entry not in self._places:
                self._places[entry] = self.used(entry[0])
                self._used[entry[0]] = self._places[entry] + wide
                self._unheard.append(entry)

    def known(self, sheet: str, key: Key) -> int | None:
        """Where the row is, if it has a place."""
        return self._places.get((sheet, key))

    def rows(self, sheet: str) -> Iterator[tuple[Key, int]]:
        """All known rows of a sheet with their places."""
        return ((key, at) for (of, key), at in self._places.items() if of == sheet)

    def close(self) -> None:
        os.close(self._file)

    def _begin(self, *, emptied: bool) -> None:
        size = os.fstat(self._file).st_size
        if size == 0 and not emptied:
            self._append(self._head)
        elif os.pread(self._file, len(self._head), 0) != self._head:
            msg = "the key table is of another version of fastobs, or no key table"
            raise Damaged(msg)
        self._read = len(self._head)

    def _append(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            self._mend()
            msg = "No space left for the key table"
            raise OSError(msg)

    def _mend(self) -> None:
        """Drop what a sibling was killed while writing. Only with the lock."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, min(size, 65_536), max(0, size - 65_536))
        if not tail.endswith(b"\n"):
            os.ftruncate(self._file, size - len(tail) + tail.rfind(b"\n") + 1)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
