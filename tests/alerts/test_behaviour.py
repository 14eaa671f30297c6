"""The rules do what they say: promtool plays series, and alerts come or stay away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from alerts.__main__ import FAMILIES, file_name
from alerts.kit import Alert, render
from alerts.thresholds import THRESHOLDS, Pair, Thresholds

from .test_rules import RULES

TESTS = Path(__file__).parent
FILES = sorted(TESTS.glob("*.test.yml"))
# These play hours and days; what they show is the course of things, not the numbers.
LONG = {"http-budget.test.yml", "http-incident.test.yml"}
STEADY = [path for path in FILES if path.name not in LONG]

pytestmark = pytest.mark.usefixtures("promtool")


def play(file: Path) -> subprocess.CompletedProcess[str]:
    # A hundred short runs: promtool spends half of each collecting garbage.
    return subprocess.run(
        ["promtool", "test", "rules", str(file)],
        env={**os.environ, "GOGC": "400"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_alerts_come_and_stay_away(file):
    """Every case of the file: the alerts that must fire do, and no other does."""
    played = play(file)

    assert played.returncode == 0, played.stdout + played.stderr


def test_every_alert_has_been_seen_firing():
    """No alert is shipped that no test has made fire."""
    expected = "".join(path.read_text() for path in FILES)
    names = {rule.name for _, rule in RULES if isinstance(rule, Alert)}

    assert {name for name in names if f'"{name}"' not in expected} == set()


def mutants() -> Iterator[tuple[str, str, Thresholds]]:
    """Each threshold ten times too large and ten times too small, with the family that it changes."""
    for name, factor, mutant in changed():
        for family, groups in FAMILIES.items():
            try:
                if groups(mutant) != groups(THRESHOLDS):
                    yield family, f"{name} x {factor}", mutant
            except ValueError:
                continue  # The bound is no bucket: the mistake cannot even be written down.


def changed() -> Iterator[tuple[str, float, Thresholds]]:
    for field in fields(THRESHOLDS):
        value = getattr(THRESHOLDS, field.name)
        for factor in (10, 0.1):
            if isinstance(value, Pair):
                for part in ("target", "critical"):
                    other = replace(value, **{part: getattr(value, part) * factor})
                    pair: dict[str, Any] = {field.name: other}
                    yield f"{field.name}.{part}", factor, replace(THRESHOLDS, **pair)
            else:
                yield field.name, factor, replace(THRESHOLDS, **{field.name: value * factor})


@pytest.mark.integration
@pytest.mark.parametrize(
    ("family", "name", "mutant"),
    [pytest.param(*mutant, id=mutant[1]) for mutant in mutants()],
)
def test_a_wrong_threshold_is_noticed(family, name, mutant, tmp_path):
    """A threshold that is wrong by a factor of ten fails a test: each has a case on both sides."""
    rules = render(family, FAMILIES[family](mutant))
    (tmp_path / file_name(family)).write_text(rules)
    own = [path for path in STEADY if path.name.startswith((f"{family}.", f"{family}-"))]
    # The file that has the threshold in its name will most likely notice.
    own.sort(key=lambda path: topic(path) not in name)

    assert any(play(moved(path, tmp_path)).returncode for path in own), "every test passes"


def topic(path: Path) -> str:
    """`burn` of http-burn.test.yml."""
    return path.name.partition(".")[0].rpartition("-")[2]


def moved(path: Path, folder: Path) -> Path:
    """A copy of the test that reads the rules of the folder."""
    test = folder / path.name
    test.write_text(path.read_text().replace("../../alerts/generated", str(folder)))
    return test
