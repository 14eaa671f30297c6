"""Paths that say nothing of the machine."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import cachetools.keys
import fastapi
import pytest
import typing_extensions

import fastobs
from fastobs import _files
from fastobs._files import _folders, adopt, adopted, distance, relative

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


@pytest.fixture
def unadopted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is adopted is not for other tests."""
    monkeypatch.setattr(_files, "_adopted", {})
    yield
    for remembered in (relative, distance, _folders):
        remembered.cache_clear()


@pytest.mark.parametrize(
    ("file", "module", "shown"),
    [
        (cachetools.keys.__file__, "cachetools.func", "cachetools/keys.py"),
        (typing_extensions.__file__, "typing_extensions", "typing_extensions.py"),
    ],
)
@pytest.mark.usefixtures("unadopted")
def test_an_app_that_is_installed_like_a_library_is_none(
    file: str, module: str, shown: str
) -> None:
    """A package, or a single module; what is beside it stays a library."""
    before = distance(file), adopted(file)

    adopt(module)

    assert before == (1, False)
    assert (relative(file), distance(file), adopted(file)) == (shown, 0, True)
    assert (distance(fastapi.__file__), adopted(fastapi.__file__)) == (1, False)


@pytest.mark.parametrize("module", ["asyncio", "tests.test_files", "sys", "of_nobody", ""])
@pytest.mark.usefixtures("unadopted")
def test_what_is_not_installed_need_not_be_adopted(module: str) -> None:
    """Who calls instrument() may also be Python itself, on a thread."""
    adopt(module)

    assert _files._adopted == {}


def test_an_odd_search_path_hides_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python passes over entries that are no text, and the working directory may be removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", [tmp_path, "", str(tmp_path / "app")])

    assert (tmp_path / "app", Path()) in _folders.__wrapped__()
