"""Where the programs are, and which Debian package brings each; the standard library suffices."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PARTS", "UNPACKED", "MissingPart", "Part", "find", "in_ci"]

UNPACKED = Path(__file__).parents[2] / ".parts"
"""Where programs of a newer Debian are, next to the installed ones; `unpack` fills it."""

PLACES = {
    # Debian keeps the server's programs off the PATH: several major versions can live side by side.
    "initdb": ("initdb", "/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"),
    "postgres": ("postgres", "/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres"),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "prometheus-3": (f"{UNPACKED}/usr/bin/prometheus", "prometheus-3"),
    "promtool-3": (f"{UNPACKED}/usr/bin/promtool", "promtool-3"),
    "docker-compose": (f"{UNPACKED}/usr/bin/docker-compose", "docker-compose"),
    "victoria-metrics": (f"{UNPACKED}/usr/bin/victoria-metrics", "victoria-metrics"),
    "vmalert": (f"{UNPACKED}/usr/bin/vmalert", "vmalert"),
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
    unpacked: bool = False
    """From Debian's newest suite, beside what is installed."""

    @property
    def remedy(self) -> str:
        """What a person on Debian can do."""
        if self.unpacked:
            return "`make parts`, with Debian's archive in reach"
        return f"`apt-get install {' '.join(self.packages)}`"

    def is_here(self) -> bool:
        """Whether every program of the part can be started."""
        return all(place(program) for program in self.programs)


PARTS = (
    Part(name="PostgreSQL", programs=("initdb", "postgres"), packages=("postgresql",)),
    Part(name="Redis", programs=("redis-server",), packages=("redis-server",)),
    Part(name="Prometheus", programs=("prometheus", "promtool"), packages=("prometheus",)),
    Part(
        name="Prometheus 3",
        programs=("prometheus-3", "promtool-3"),
        packages=("prometheus", "promtool"),
        unpacked=True,
    ),
    Part(
        name="VictoriaMetrics",
        programs=("victoria-metrics", "vmalert"),
        packages=("victoria-metrics",),
        unpacked=True,
    ),
    Part(
        name="Docker Compose",
        programs=("docker-compose",),
        packages=("docker-compose",),
        unpacked=True,
    ),
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
    msg = (
        f"{program!r} is not installed. On Debian: {part.remedy if part else 'your package manager'}; "
        "`make test` does it when run as root."
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
