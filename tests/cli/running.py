"""The command as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from fastobs.cli import main
from tests.parts import PATIENCE

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """How a command has ended."""

    returncode: int
    stdout: str
    stderr: str


def fastobs(*words: object, folder: Path | None = None, **variables: str) -> Done:
    """Run ``fastobs`` with these words, and without the settings of whoever runs the tests."""
    out, err = StringIO(), StringIO()
    with (
        patch.dict(os.environ, environment(variables), clear=True),
        patch.object(sys, "argv", ["fastobs", *map(str, words)]),
        chdir(folder or ROOT),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            code = main()
        except SystemExit as left:
            code = int(left.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def process(*words: object, folder: Path | None = None, **variables: str) -> Done:
    """The same in a process of its own, for what imports an app or replaces a module."""
    done = subprocess.run(
        [sys.executable, "-m", "fastobs.cli", *map(str, words)],
        cwd=folder or ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """That of a shell in which nothing of fastobs is set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTOBS_")}
    return {**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "140", **variables}


def complaint(done: Done) -> str:
    """The line with which a command has failed; before it stands only what it has logged."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("fastobs: ")
    return line.removeprefix("fastobs: ")
