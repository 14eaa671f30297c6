"""The command of an installed wheel, without a checkout beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alerts.families import rendered
from alerts.thresholds import THRESHOLDS
from dashboards import __main__ as boards
from fastobs.cli.export import shipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The command that pip installs from the wheel; answers with the folder it wrote to."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    # What it depends on is that of the tests; nothing is fetched.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True)
    # Whatever is called `alerts` where the command is run has nothing to do with ours.
    for name in ("alerts", "dashboards"):
        (folder / f"{name}.py").write_text("raise SystemExit('somebody else')")

    def run(what: str, *words: str) -> Path:
        wanted = folder / "-".join([what, *words])
        done = subprocess.run(
            [site / "bin" / "fastobs", what, "export", str(wanted), *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(folder)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return wanted

    return run


@pytest.mark.parametrize("what", ["dashboards", "alerts"])
def test_an_installed_wheel_exports_what_the_checkout_does(installed, what):
    """Boards and rules come from inside of the package, by the command that pip installs."""
    found = {file.name: file.read_text() for file in installed(what).iterdir()}

    assert found == shipped(what)


def test_an_installed_wheel_makes_rules_with_other_thresholds(installed):
    """What makes them is in the package, too, and hides nothing of the app's at the top."""
    made = installed("alerts", "--slo", "availability=99.5", "--set", "pool_use=0.95")

    header, _, rules = (made / "fastobs-pools.rules.yml").read_text().partition("\n")
    assert "--slo availability=99.5 --set pool_use=0.95" in header
    wanted = rendered(replace(THRESHOLDS, slo_availability=0.005, pool_use=0.95))
    assert rules == wanted["fastobs-pools.rules.yml"].partition("\n")[2]
    assert {file.name for file in made.iterdir()} == set(wanted)


def test_an_installed_wheel_makes_boards_with_other_thresholds(installed):
    """In the same words, so that colours change where the alerts fire."""
    made = installed("dashboards", "--set", "pool_use=0.95")

    found = {file.name: file.read_text() for file in made.iterdir()}
    assert found == boards.rendered(replace(THRESHOLDS, pool_use=0.95))


@pytest.mark.parametrize(
    ("what", "words", "kinds"),
    [
        ("alerts", ["--format", "prometheusrule"], {"PrometheusRule"}),
        ("dashboards", ["--format", "configmap"], {"ConfigMap"}),
        ("monitor", ["--selector", "app=shop"], {"ServiceMonitor"}),
    ],
)
def test_an_installed_wheel_writes_what_kubernetes_reads(installed, what, words, kinds):
    """Each file is one object."""
    made = [yaml.safe_load(file.read_text()) for file in installed(what, *words).iterdir()]

    assert {each["kind"] for each in made} == kinds
