"""Machine instructions per request, by valgrind: steady to a thousandth, blind to threads and caches."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from . import fresh
from .variants import VARIANTS, Subject

__all__ = ["VALGRIND", "count_instructions", "run_twice"]

VALGRIND = shutil.which("valgrind")
TOTALS = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def count_instructions(name: str, *, requests: int) -> float:
    """Instructions of one request.

    The process forks when it is warm: one child drives so many requests, the other twice as many.
    What they differ by is what the requests cost, without start-up, import and fork.
    """
    assert VALGRIND is not None
    with tempfile.TemporaryDirectory() as folder:
        prefix = [
            VALGRIND,
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/%p",
            "--quiet",
        ]
        once, twice = fresh.run("run_twice", name, prefix=prefix, requests=requests)
        return (_total(folder, twice) - _total(folder, once)) / requests


def run_twice(name: str, *, requests: int) -> tuple[int, int]:
    """Under valgrind: the ids of the processes that drove the requests once and twice."""
    subject = Subject(VARIANTS[name])

    async def warm() -> None:
        async with subject.running():
            await subject.drive(requests)

    asyncio.run(warm())
    return _forked(subject, requests), _forked(subject, 2 * requests)


def _forked(subject: Subject, requests: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(subject.drive(requests))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status != 0:
        msg = f"The requests of {subject.variant.name} failed under valgrind."
        raise RuntimeError(msg)
    return child


def _total(folder: str, process: int) -> int:
    found = TOTALS.search(Path(folder, str(process)).read_text(encoding="utf-8", errors="replace"))
    if found is None:
        sys.exit(f"valgrind wrote no totals for process {process}.")
    return int(found[1])
