"""Where profiles are kept: an interface of four verbs, and a local folder that has them."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple, Protocol

from fastobs.config import Profiles
from fastobs.errors import FastobsError

__all__ = ["Folder", "Keeper", "Meta", "NotPrivate", "Store", "TooLarge", "is_id", "plain"]

ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
OURS = re.compile(r"(?P<id>[0-9a-f]{32})(?P<kind>\.json|\.stacks|\.part)", re.ASCII)
"""Names of our files; nothing else in the folder is read or removed."""
ABANDONED = 60.0
"""Seconds; a file that is still incomplete by then belonged to a process that ended."""


def plain(name: str) -> str:
    """A service's name as part of a path."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:64]


def is_id(text: str) -> bool:
    """Whether this can be the id of a profile at all: 32 hex characters in lower case."""
    return ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What is known about a profile without opening it."""

    id: str
    time: str
    """When the request arrived; UTC, ISO 8601."""
    service: str
    pid: int
    method: str
    route: str
    """The template; empty when nothing matched."""
    status: int | None
    error_type: str
    duration: float
    """Seconds that the request took."""
    trigger: str
    trace_id: str
    span_id: str
    samples: int
    truncated: bool

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Meta:
        """What `encode` made, also of a version that knew more.

        Raises:
            ValueError: Something is missing, or it is no JSON.
        """
        content = json.loads(stored)
        try:
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (KeyError, TypeError) as error:
            msg = f"This is no description of a profile: {error!r} is missing."
            raise ValueError(msg) from error


class Keeper(Protocol):
    """Takes profiles. Called in threads, never on an event loop; may be slow, and may fail."""

    def put(self, meta: Meta, stacks: bytes) -> None:
        """Keep one; what exceeds the bounds goes, the oldest first."""
        ...


class Store(Keeper, Protocol):
    """Also gives them out."""

    def get(self, profile: str) -> tuple[Meta, bytes] | None:
        """One by its id."""
        ...

    def list(self) -> list[Meta]:
        """All of them, the newest first."""
        ...

    def delete(self, profile: str) -> None:
        """Forget one, if it is there."""
        ...


class NotPrivate(FastobsError):  # noqa: N818 - it says what is wrong
    """The folder for profiles could be read or changed by somebody else."""


class TooLarge(FastobsError):  # noqa: N818
    """A profile that alone exceeds the bounds of the store."""

    @classmethod
    def of(cls, size: int, settings: Profiles) -> TooLarge:
        """So many bytes."""
        return cls(
            f"A profile of {size} bytes is more than profiles.max_bytes={settings.max_bytes} allows. "
            "Raise it, or lower profiles.max_seconds."
        )


class _Kept(NamedTuple):
    at: float
    size: int
    id: str
    complete: bool


class Folder:
    """A private folder of this machine, shared by all workers without a lock.

    A profile is two files: ``<id>.stacks`` and then ``<id>.json``, so one with a description is
    whole. Both are renamed into place.

    Args:
        settings: Which folder, and its bounds.
        now: Seconds since the epoch, as the file system counts them.
        service: Whose profiles they are: where nobody chose a folder, each service of a user has its
            own, so that none shows another's, or makes them go.
    """

    def __init__(
        self, settings: Profiles, now: Callable[[], float] = time.time, *, service: str = ""
    ) -> None:
        self._settings = settings
        self._now = now
        name = plain(service)
        self._name = f"profiles-{name}" if name else "profiles"

    def put(self, meta: Meta, stacks: bytes) -> None:
        """Keep one; what exceeds the bounds goes before it, the oldest first.

        Raises:
            NotPrivate: The folder is not ours alone.
            TooLarge: It alone has more than max_bytes.
            OSError: The disk is full, or there is no writing to it.
        """
        described = meta.encode()
        size = len(described) + len(stacks)
        if size > self._settings.max_bytes:
            raise TooLarge.of(size, self._settings)
        with self._open(create=True) as folder:
            self._make_room(folder, size)
            try:
                _write(folder, meta.id, ".stacks", stacks)
                _write(folder, meta.id, ".json", described)
            except BaseException:
                _remove(folder, meta.id)
                raise

    def get(self, profile: str) -> tuple[Meta, bytes] | None:
        """One by its id; None if there is none, or none any more."""
        if not is_id(profile):
            return None
        with suppress(FileNotFoundError), self._open() as folder:
            described, written = _read(folder, f"{profile}.json")
            if self._now() - written <= self._settings.max_age:
                return Meta.decode(described), _read(folder, f"{profile}.stacks")[0]
        return None

    def list(self) -> list[Meta]:
        """All of them, the newest first."""
        found = []
        with suppress(FileNotFoundError), self._open() as folder:
            oldest = self._now() - self._settings.max_age
            for kept in reversed(_kept(folder)):
                if kept.complete and kept.at >= oldest:
                    # Another worker may make room meanwhile.
                    with suppress(FileNotFoundError, ValueError):
                        found.append(Meta.decode(_read(folder, f"{kept.id}.json")[0]))
        return found

    def delete(self, profile: str) -> None:
        """Forget one, if it is there."""
        if is_id(profile):
            with suppress(FileNotFoundError), self._open() as folder:
                _remove(folder, profile)

    def _make_room(self, folder: int, size: int) -> None:
        settings, now = self._settings, self._now()
        kept = _kept(folder)
        count, total = len(kept) + 1, sum(one.size for one in kept) + size
        for one in kept:
            left_behind = not one.complete and now - one.at > ABANDONED
            excess = count > settings.max_count or total > settings.max_bytes
            if left_behind or excess or now - one.at > settings.max_age:
                _remove(folder, one.id)
                count, total = count - 1, total - one.size

    @contextmanager
    def _open(self, *, create: bool = False) -> Iterator[int]:
        """The folder as a file descriptor, so that what was checked is what is used."""
        chosen = self._settings.directory
        if chosen is None:
            # Below a folder that everybody may write to. The outer one is checked as well, since
            # its owner could exchange the inner one.
            outer = Path(tempfile.gettempdir(), f"fastobs-{os.geteuid()}")
            os.close(_private(outer, create=create, follow=False))
            descriptor = _private(outer / self._name, create=create, follow=False)
        else:
            descriptor = _private(chosen, create=create, follow=True)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _private(path: Path, *, create: bool, follow: bool) -> int:
    """Open a folder that is ours alone.

    Args:
        path: Of the folder.
        create: Make it if it is not there.
        follow: Whether the name may be a symbolic link.
    """
    if create:
        if follow:
            path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # A symbolic link that is not to be followed: the first on Linux, the second elsewhere.
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        raise NotPrivate(_not_private(path, "it is not a folder")) from error
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return descriptor
    os.close(descriptor)
    mode = stat.S_IMODE(found.st_mode)
    raise NotPrivate(_not_private(path, f"it belongs to uid {found.st_uid} with mode {mode:04o}"))


def _not_private(path: Path, why: str) -> str:
    return (
        f"Profiles are not kept in {str(path)!r}: {why}, and others could change what is shown. "
        "Set profiles.directory to a folder that does not exist yet, or to one of this user's with "
        "mode 0700."
    )


def _kept(folder: int) -> list[_Kept]:
    """What is in the folder, the oldest first."""
    found: dict[str, list[tuple[str, os.stat_result]]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if (name := OURS.fullmatch(entry.name)) is not None:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.setdefault(name["id"], []).append((name["kind"], status))
    return sorted(
        _Kept(
            at=max(status.st_mtime for _, status in files),
            size=sum(status.st_size for _, status in files),
            id=profile,
            complete=any(kind == ".json" for kind, _ in files),
        )
        for profile, files in found.items()
    )


def _write(folder: int, profile: str, kind: str, content: bytes) -> None:
    part = f"{profile}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)
    os.replace(part, f"{profile}{kind}", src_dir_fd=folder, dst_dir_fd=folder)


def _read(folder: int, name: str) -> tuple[bytes, float]:
    """Content, and when it was written."""
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime


def _remove(folder: int, profile: str) -> None:
    for kind in (".json", ".stacks", ".part"):
        with suppress(FileNotFoundError):
            os.unlink(f"{profile}{kind}", dir_fd=folder)
