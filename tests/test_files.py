"""Paths that say nothing of the machine."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

import fastobs
from fastobs._files import relative

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
