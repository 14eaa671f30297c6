"""Finds the workers of the same server, and nobody else.

Siblings share a parent that *is* their server: a process that runs the same program as they do
(gunicorn forks its workers) or that started them through multiprocessing (uvicorn, granian, hypercorn).
A shell, an entrypoint or a supervisor that happens to be the parent of two services is neither, and
when in doubt a process stays alone.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ._service import Identity

__all__ = ["Unusable", "forget_the_dead", "server", "shared_folder"]

PROC = Path("/proc")


class Unusable(Exception):  # noqa: N818 - it says what is the matter
    """A folder that cannot be shared, and why."""


def server() -> str | None:
    """The server that this process is a worker of, as ``pid-starttime``; None if it is alone."""
    parent = os.getppid()
    if multiprocessing.parent_process() is not None:
        if "--reload" in _words(parent):
            return None
    elif not _same_program(parent):
        return None
    return _identity(parent)


def shared_folder(directory: Path | None, who: Identity, version: str) -> Path | None:
    """The folder that this process shares with its siblings, made if need be; None if it is alone.

    Args:
        directory: From the settings. Giving one says that this process has siblings, even if its
            server is of a kind that we do not know.
        who: Two services of one server are strangers to each other.
        version: And so are workers that do not write the same.

    Raises:
        Unusable: The folder cannot be had.
    """
    family = server()
    if family is None and directory is not None:
        family = _identity(os.getppid())
    if family is None:
        return None
    service = hashlib.sha256("\0".join([*who, version]).encode()).hexdigest()[:8]
    base = directory or default_directory()
    folder = base / f"{family}-{service}"
    try:
        _private(base, strict=directory is None)
        folder.mkdir(mode=0o700, exist_ok=True)
        _private(folder, strict=True)
    except OSError as error:
        msg = f"{folder}: {error.strerror or error}"
        raise Unusable(msg) from error
    forget_the_dead(base)
    return folder


def default_directory() -> Path:
    """In memory where the system has a place for that, else under the temporary directory."""
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made inside
    base = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"fastobs-{os.getuid()}"


def forget_the_dead(base: Path) -> None:
    """Remove the folders of servers that are no more."""
    for folder in base.iterdir():
        pid, _, rest = folder.name.partition("-")
        start = rest.partition("-")[0]
        if pid.isdigit() and start.isdigit() and _identity(int(pid)) != f"{pid}-{start}":
            shutil.rmtree(folder, ignore_errors=True)


def _private(folder: Path, *, strict: bool) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        msg = f"{folder} is not a directory"
        raise Unusable(msg)
    if strict and (found.st_uid != os.getuid() or found.st_mode & 0o077):
        msg = f"{folder} belongs to somebody else or is open to others; remove it, or chmod 700 it"
        raise Unusable(msg)


def _identity(pid: int) -> str | None:
    """The pid, which may be used again, with the time at which its process began."""
    try:
        # Field 22; the second, the name in brackets, may hold blanks and brackets itself.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{pid}-{fields[19]}"


def _words(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _same_program(parent: int) -> bool:
    """Whether the parent forked us: it runs the same executable with the same words."""
    try:
        same_executable = (PROC / str(parent) / "exe").samefile(PROC / "self" / "exe")
    except OSError:
        return False
    # Servers may write their title over their words; then both begin with the same name.
    ours, theirs = _words(os.getpid()), _words(parent)
    return same_executable and bool(ours) and (ours == theirs or _titled(ours, theirs))


def _titled(ours: list[str], theirs: list[str]) -> bool:
    return ours[0].startswith("gunicorn: worker") and theirs[0].startswith("gunicorn: master")
