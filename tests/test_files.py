"""Paths that say nothing of the machine."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

import fastobs
from fastobs._files import _folders, distance, relative

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (str(Path(__file__)), "tests/test_files.py"),
        (f"{sysconfig.get_path('purelib')}/httpx/_client.py", "site-packages/httpx/_client.py"),
        (f"{sysconfig.get_path('stdlib')}/asyncio/events.py", f"{PYTHON}/asyncio/events.py"),
        (fastobs.__file__, "site-packages/fastobs/__init__.py"),
        ("/nowhere/home/alice/app.py", "app.py"),
        ("../alice/app.py", "app.py"),
        ("shop/app.py", "shop/app.py"),
        ("<string>", "<string>"),
        ("", ""),
    ],
)
def test_a_path_is_relative_to_the_project_or_to_where_libraries_are(file: str, shown: str) -> None:
    """Where neither holds, only the file's name is left."""
    assert relative(file) == shown


@pytest.mark.parametrize(
    ("file", "far"),
    [
        (str(Path(__file__)), 0),
        (f"{sysconfig.get_path('purelib')}/httpx/_client.py", 1),
        (f"{sysconfig.get_path('stdlib')}/asyncio/events.py", 2),
        (fastobs.__file__, 2),
        ("<string>", 2),
    ],
)
def test_the_apps_own_code_is_nearer_than_a_library_and_that_than_python(
    file: str, far: int
) -> None:
    """Who is told of a place is told of the nearest."""
    assert distance(file) == far


def test_an_odd_search_path_hides_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python passes over entries that are no text, and the working directory may be removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", [tmp_path, "", str(tmp_path / "app")])

    assert (tmp_path / "app", Path()) in _folders.__wrapped__()
