"""What pip installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    # With the tools of this environment; a build environment of its own would be downloaded.
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_carries_boards_rules_templates_and_types(wheel: ZipFile) -> None:
    """Whoever installs it needs no checkout."""
    names = set(wheel.namelist())

    for board in (ROOT / "dashboards/generated").glob("*.json"):
        assert f"fastobs/_shipped/dashboards/generated/{board.name}" in names
    for rules in (ROOT / "alerts/generated").glob("*.yml"):
        assert f"fastobs/_shipped/alerts/generated/{rules.name}" in names
    for template in (ROOT / "fastobs/profiling/templates").iterdir():
        assert f"fastobs/profiling/templates/{template.name}" in names
    assert "fastobs/py.typed" in names


def test_the_wheel_carries_nothing_that_is_not_ours_to_install(wheel: ZipFile) -> None:
    """`tests` or `dashboards` at the top would shadow the app's own."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert tops == {"fastobs", next(top for top in tops if top.endswith(".dist-info"))}
