"""Which file of the project or of a library, without where that is installed."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

__all__ = ["SITE", "STDLIB", "adopt", "adopted", "distance", "relative"]

SITE = "site-packages"
STDLIB = f"python{sys.version_info.major}.{sys.version_info.minor}"


INSTALLED = ("site-packages", "dist-packages")

_adopted: dict[str, str] = {}
"""Installed files and folders that are the app's, each with what stands for it."""


def adopt(module: str) -> None:
    """Have the package that a module is in be the app's, if it is installed as libraries are.

    Images are often built so.
    """
    name = module.partition(".")[0]
    package = sys.modules.get(name)
    places = list(getattr(package, "__path__", ())) or [getattr(package, "__file__", None)]
    for place in places:
        if isinstance(place, str) and not {*Path(place).parts}.isdisjoint(INSTALLED):
            _adopted[place] = Path(place).name
    for remembered in (relative, distance, _folders):
        remembered.cache_clear()


def adopted(file: str) -> bool:
    """Whether a file is the app's although it is installed."""
    return any(file == place or file.startswith(f"{place}{os.sep}") for place in _adopted)


@cache
def relative(file: str) -> str:
    """A path that says which file of the project or of a library, but not where they are installed."""
    if file.startswith("<") or not file:
        return file
    path = Path(file)
    if not path.is_absolute():
        return file if ".." not in path.parts else path.name
    for folder, name in _folders():
        if path.is_relative_to(folder):
            return (name / path.relative_to(folder)).as_posix()
    return path.name


@lru_cache(maxsize=4096)
def distance(file: str) -> int:
    """How far a file is from the app's own code: 0, 1 for a library, 2 for Python and for us."""
    place = relative(file)
    if place.startswith(("<", f"{STDLIB}/", f"{SITE}/fastobs/")):
        return 2
    return 1 if place.startswith(f"{SITE}/") else 0


@cache
def _folders() -> list[tuple[Path, Path]]:
    """Where code comes from, with what stands for it; what lies deepest comes first."""
    folders = {Path(__file__).parent: Path(SITE, "fastobs")}
    for key in ("stdlib", "platstdlib"):
        folders[Path(sysconfig.get_path(key))] = Path(STDLIB)
    for place in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        folders[Path(place)] = Path(SITE)
    for place in (*site.getsitepackages(), site.getusersitepackages()):
        folders[Path(place)] = Path(SITE)
    for place in ("", *sys.path):
        # Python itself passes over what is no text.
        if isinstance(place, str) and not place.endswith(".zip"):
            # The working directory may be gone.
            with suppress(OSError):
                entry = Path(place).absolute()
                # Relative to the root would be the absolute path again.
                if entry != Path(entry.anchor):
                    folders.setdefault(entry, Path())
    folders.update({Path(place): Path(name) for place, name in _adopted.items()})
    return sorted(folders.items(), key=lambda item: -len(item[0].parts))
