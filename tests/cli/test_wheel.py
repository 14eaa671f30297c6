"""The command of an installed wheel, without a checkout beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

from fastobs.cli.export import shipped

ROOT = Path(__file__).parents[2]


def test_an_installed_wheel_exports_what_the_checkout_does(tmp_path):
    """Boards and rules come from inside of the package, by the command that pip installs."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with ZipFile(wheel) as packed:
        packed.extractall(site)
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    names = ConfigParser()
    names.read(scripts)
    module, _, function = names["console_scripts"]["fastobs"].partition(":")

    for what in ("dashboards", "alerts"):
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        done = subprocess.run(
            [sys.executable, "-c", code, what, "export", str(tmp_path / what)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        found = {file.name: file.read_text() for file in (tmp_path / what).iterdir()}
        assert found == shipped(what)
