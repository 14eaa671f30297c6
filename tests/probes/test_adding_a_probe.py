"""What docs/adding-a-probe.md builds is built here as it is written there, and answers every question."""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastobs import probes
from fastobs.probes import Adapter

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-probe.md"


def _blocks() -> dict[str, str]:
    """The page's code, by the comment that it begins with."""
    blocks = re.findall(
        r"^```python\n# (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(blocks)


def _module(name: str, path: str, source: str) -> Any:
    """A module from source that is in no file."""
    module: Any = ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    module.__file__ = file = str(ROOT / path)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), vars(module))
    return module


FILE, TEST = "fastobs/probes/jinja2.py", "tests/probes/test_jinja2.py"
BLOCKS = _blocks()
ROW: Adapter = eval(BLOCKS["row"].partition("#")[0], {"Adapter": Adapter})
ADAPTER = _module("fastobs.probes.jinja2", FILE, BLOCKS[FILE])
WRITTEN = _module("tests.probes.test_jinja2", TEST, BLOCKS[TEST])


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is in the table, and the files are there to be imported."""
    monkeypatch.setattr(probes, "ADAPTERS", (*probes.ADAPTERS, ROW))
    for module in (ADAPTER, WRITTEN):
        monkeypatch.setitem(sys.modules, module.__name__, module)


class TestContract(WRITTEN.TestContract):  # type: ignore[misc, name-defined]
    """The class of the page, which pytest finds here."""


def test_everything_that_the_page_shows_is_tried() -> None:
    """A block that is not named could say anything."""
    assert BLOCKS.keys() == {"row", FILE, TEST}
    assert PAGE.read_text().count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("file", [FILE, TEST])
def test_its_code_would_pass_the_linter(file: str) -> None:
    """Who follows the page is not stopped by the first check."""
    command = [sys.executable, "-m", "ruff", "check", "--quiet", f"--stdin-filename={file}", "-"]
    done = subprocess.run(
        command, cwd=ROOT, input=BLOCKS[file], capture_output=True, text=True, check=False
    )

    assert done.stdout + done.stderr == ""
