"""Where the programs are, and which Debian package brings each; the standard library suffices."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PARTS", "MissingPart", "Part", "find", "in_ci"]

PLACES = {
    # Debian keeps the server's programs off the PATH: several major versions can live side by side.
    "initdb": ("initdb", "/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"),
    "postgres": ("postgres", "/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres"),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "chromium": (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
}
"""Other names and places of a program, the preferred one first."""


class MissingPart(Exception):  # noqa: N818 - it is a circumstance, not a fault.
    """A program that a test needs is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that the tests use and that pip cannot install."""

    name: str
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    """What to ask Debian for."""

    def is_here(self) -> bool:
        """Whether every program of the part can be started."""
        return all(place(program) for program in self.programs)


PARTS = (
    Part(name="PostgreSQL", programs=("initdb", "postgres"), packages=("postgresql",)),
    Part(name="Redis", programs=("redis-server",), packages=("redis-server",)),
    Part(name="Prometheus", programs=("prometheus", "promtool"), packages=("prometheus",)),
    Part(
        name="Alertmanager",
        programs=("alertmanager", "amtool"),
        packages=("prometheus-alertmanager",),
    ),
    # Without a font a page in a screenshot has boxes for letters.
    Part(name="Chromium", programs=("chromium",), packages=("chromium", "fonts-dejavu-core")),
)


def find(program: str) -> str:
    """The full path of a program.

    Raises:
        MissingPart: It is not installed; the message says what to do.
    """
    if found := place(program):
        return found
    part = next((part for part in PARTS if program in part.programs), None)
    remedy = f"`apt-get install {' '.join(part.packages)}`" if part else "your package manager"
    msg = (
        f"{program!r} is not installed. On Debian: {remedy}; `make test` does it when run as root."
    )
    raise MissingPart(msg)


def place(program: str) -> str | None:
    """The full path of a program, or nothing."""
    for candidate in PLACES.get(program, (program,)):
        for path in _newest_first(candidate) if "*" in candidate else [candidate]:
            if found := shutil.which(path):
                return found
    return None


def in_ci() -> bool:
    """Whether a missing part is a failure rather than a skip."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _newest_first(pattern: str) -> list[str]:
    found = Path("/").glob(pattern.lstrip("/"))
    return sorted(
        map(str, found), key=lambda path: list(map(int, re.findall(r"\d+", path))), reverse=True
    )
