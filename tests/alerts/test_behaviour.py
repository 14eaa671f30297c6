"""The rules do what they say: promtool plays series, and alerts come or stay away."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from alerts.__main__ import GENERATED, file_name, rendered
from alerts.kit import Alert
from alerts.thresholds import THRESHOLDS, Pair, Thresholds

from .test_rules import RULES

TESTS = Path(__file__).parent
FILES = sorted(TESTS.glob("*.test.yml"))
# An incident takes a day of samples; what it shows is the course, not the numbers.
STEADY = [path for path in FILES if "incident" not in path.name]

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="apt-get install prometheus"
)


def play(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
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
    healthy = rendered()
    for name, factor, mutant in changed():
        try:
            written = rendered(mutant)
        except ValueError:
            continue  # The bound is no bucket: the mistake cannot even be written down.
        for family in ("http", "pools", "caches", "limits", "runtime", "telemetry"):
            if written[file_name(family)] != healthy[file_name(family)]:
                yield family, f"{name} x {factor}", mutant


def changed() -> Iterator[tuple[str, float, Thresholds]]:
    for field in fields(THRESHOLDS):
        value = getattr(THRESHOLDS, field.name)
        for factor in (10, 0.1):
            if isinstance(value, Pair):
                for part in ("target", "critical"):
                    other = replace(value, **{part: getattr(value, part) * factor})
                    yield f"{field.name}.{part}", factor, replace(THRESHOLDS, **{field.name: other})
            else:
                yield field.name, factor, replace(THRESHOLDS, **{field.name: value * factor})


@pytest.mark.integration
@pytest.mark.parametrize(
    ("family", "mutant"),
    [pytest.param(family, mutant, id=name) for family, name, mutant in mutants()],
)
def test_a_wrong_threshold_is_noticed(family, mutant, tmp_path):
    """A threshold that is wrong by a factor of ten fails a test: each has a case on both sides."""
    (tmp_path / file_name(family)).write_text(rendered(mutant)[file_name(family)])
    folder = str(GENERATED.relative_to(TESTS.parents[1]))
    for path in sorted(STEADY, key=lambda path: len(path.name)):
        if path.name.partition(".")[0].partition("-")[0] != family:
            continue
        test = tmp_path / path.name
        test.write_text(path.read_text().replace(f"../../{folder}", str(tmp_path)))
        if play(test).returncode:
            return
    pytest.fail("every test still passes")
