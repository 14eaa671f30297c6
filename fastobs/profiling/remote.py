"""Profiles where every machine of a service reaches them: in whatever fsspec has a file system for.

Below the address each service has a folder of its own, and a profile is two files in it, as in the
local `Folder`: ``<milliseconds>-<id>.stacks`` and then ``<milliseconds>-<id>.json``, so one with a
description is whole. When it was kept is in the name, since object stores do not agree on how to be
asked for that, and one question for the names of all is enough.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastobs._extras import need
from fastobs.config import Profiles
from fastobs.errors import ConfigError, MissingExtra

from .store import Meta, TooLarge, is_id, plain

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Remote"]

OURS = re.compile(r"(?P<at>[0-9]{13})-(?P<id>[0-9a-f]{32})\.(?P<kind>json|stacks)", re.ASCII)
"""Names of our files; nothing else is read or removed."""
DESCRIBED, STACKS = "json", "stacks"


Metas = list[Meta]
"""Said here: in the class, `list` is one of the verbs."""


class _Kept(NamedTuple):
    at: float
    """Seconds since the epoch."""
    id: str
    size: int
    paths: dict[str, str]
    """By kind."""


class Remote:
    """A store that several machines share without a lock; called in threads only, since it waits.

    Args:
        settings: The address, and the bounds, which hold for all machines together.
        service: Whose profiles they are.
        now: Seconds since the epoch.

    Raises:
        MissingExtra: fsspec is not installed, or what it needs for this kind of address.
        ConfigError: fsspec knows no such kind.
    """

    def __init__(
        self, settings: Profiles, *, service: str = "", now: Callable[[], float] = time.time
    ) -> None:
        assert settings.url is not None
        self._settings = settings
        self._url = f"{settings.url.get_secret_value().rstrip('/')}/{plain(service) or 'profiles'}"
        self._now = now
        self._opened: tuple[int, AbstractFileSystem, str] | None = None
        _check(self._url)

    def put(self, meta: Meta, stacks: bytes) -> None:
        """Keep one; what exceeds the bounds goes before it, the oldest first.

        Raises:
            TooLarge: It alone has more than max_bytes.
            Exception: Whatever the file system says when it cannot be written to.
        """
        described = meta.encode()
        size = len(described) + len(stacks)
        if size > self._settings.max_bytes:
            raise TooLarge.of(size, self._settings)
        system, root = self._open()
        self._make_room(system, root, size)
        name = f"{root}/{int(self._now() * 1000):013}-{meta.id}"
        try:
            _write(system, root, f"{name}.{STACKS}", stacks)
            _write(system, root, f"{name}.{DESCRIBED}", described)
        except BaseException:
            _remove(system, [f"{name}.{STACKS}", f"{name}.{DESCRIBED}"])
            raise

    def get(self, profile: str) -> tuple[Meta, bytes] | None:
        """One by its id; None if there is none, or none any more."""
        if not is_id(profile):
            return None
        system, root = self._open()
        for kept in self._whole(system, root):
            if kept.id == profile:
                # Another machine may make room meanwhile.
                with suppress(FileNotFoundError):
                    described = system.cat_file(kept.paths[DESCRIBED])
                    return Meta.decode(described), system.cat_file(kept.paths[STACKS])
        return None

    def list(self) -> Metas:
        """All of them, the newest first."""
        system, root = self._open()
        paths = [kept.paths[DESCRIBED] for kept in self._whole(system, root)]
        # In one call: where it is far away, they are fetched side by side.
        read = system.cat(paths, on_error="omit") if paths else {}
        found: Metas = []
        for path in paths:
            with suppress(KeyError, ValueError):
                found.append(Meta.decode(read[path]))
        return found

    def delete(self, profile: str) -> None:
        """Forget one, if it is there."""
        system, root = self._open()
        for kept in _kept(system, root):
            if kept.id == profile:
                _remove(system, kept.paths.values())

    def _whole(self, system: AbstractFileSystem, root: str) -> Iterator[_Kept]:
        """Those that have a description and are not too old, the newest first."""
        oldest = self._now() - self._settings.max_age
        for kept in reversed(_kept(system, root)):
            if len(kept.paths) == 2 and kept.at >= oldest:
                yield kept

    def _make_room(self, system: AbstractFileSystem, root: str, size: int) -> None:
        settings, oldest = self._settings, self._now() - self._settings.max_age
        kept = _kept(system, root)
        count, total = len(kept) + 1, sum(one.size for one in kept) + size
        for one in kept:
            if count > settings.max_count or total > settings.max_bytes or one.at < oldest:
                _remove(system, one.paths.values())
                count, total = count - 1, total - one.size

    def _open(self) -> tuple[AbstractFileSystem, str]:
        """The file system, and our place in it: opened by each process itself, in one of its threads."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs

            # One of our own: what the app's knows of its files may be old.
            system, root = url_to_fs(self._url, skip_instance_cache=True)
            self._opened = os.getpid(), system, str(root).rstrip("/")
        _, system, root = self._opened
        return system, root


def _check(url: str) -> None:
    with need("profiles.url", extra="remote"):
        import fsspec
    kind = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(kind)
    except ValueError as error:
        msg = (
            f"profiles.url begins with {kind!r}, which is no kind of address that fsspec knows. "
            "Write for example s3://bucket/profiles, gs://bucket/profiles or file:///mnt/profiles."
        )
        raise ConfigError(msg) from error
    except ImportError as error:
        msg = f"profiles.url={kind}://... needs a library that is not installed: {error}."
        raise MissingExtra(msg) from error


def _kept(system: AbstractFileSystem, root: str) -> list[_Kept]:
    """What is there, the oldest first."""
    # Others write there, too.
    system.invalidate_cache()
    try:
        listed: list[dict[str, Any]] = system.ls(root, detail=True)
    except FileNotFoundError:
        return []
    found: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for entry in listed:
        path = entry["name"]
        if (name := OURS.fullmatch(path.rpartition("/")[2])) is not None:
            file = (name["kind"], path, entry.get("size") or 0)
            found.setdefault((name["at"], name["id"]), []).append(file)
    return [
        _Kept(
            int(at) / 1000,
            profile,
            sum(size for _, _, size in files),
            {kind: path for kind, path, _ in files},
        )
        for (at, profile), files in sorted(found.items())
    ]


def _write(system: AbstractFileSystem, root: str, path: str, content: bytes) -> None:
    try:
        system.pipe_file(path, content)
    except FileNotFoundError:
        # Where there are folders, the first one has to make ours; but never the place itself, which
        # may be a mount that is missing, or a bucket with a misspelt name.
        with suppress(FileExistsError):
            system.mkdir(root, create_parents=False)
        system.pipe_file(path, content)


def _remove(system: AbstractFileSystem, paths: Iterable[str]) -> None:
    for path in paths:
        # Another machine may make room at the same time, or it was never written.
        with suppress(FileNotFoundError):
            system.rm_file(path)
