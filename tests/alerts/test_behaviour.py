"""The rules do what they say: promtool plays series, and alerts come or stay away."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alerts.chosen import listed
from alerts.families import FAMILIES, file_name
from alerts.kit import Alert, render
from alerts.thresholds import THRESHOLDS, Pair, Thresholds
from fastobs.catalogue import HTTP_DURATION

from .test_rules import EVERYTHING, RULES

TESTS = Path(__file__).parent
FILES = sorted(TESTS.glob("*.test.yml"))
# These play hours and days; what they show is the course of things, not the numbers.
LONG = {"http-budget.test.yml", "http-incident.test.yml"}
STEADY = [path for path in FILES if path.name not in LONG]
# What is shipped has no such alert.
SET = {"http-throughput.test.yml": EVERYTHING}

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
def test_alerts_come_and_stay_away(file, tmp_path):
    """Every case of the file: the alerts that must fire do, and no other does."""
    if file.name in SET:
        write("http", SET[file.name], tmp_path)
        file = moved(file, tmp_path)
    played = play(file)

    assert played.returncode == 0, played.stdout + played.stderr


def test_every_alert_has_been_seen_firing():
    """No alert is shipped that no test has made fire, in each of its degrees."""
    expected = "".join(path.read_text() for path in FILES)
    found = set(re.findall(r'alertname="(\w+)", severity="(\w+)"', expected))
    degrees = {(rule.name, rule.severity) for _, rule in RULES if isinstance(rule, Alert)}

    assert degrees - found == {("FastobsWatchdog", "none")}
    assert 'alertname="FastobsWatchdog", alertstate="firing"' in expected


class Mutant(NamedTuple):
    """A threshold that is wrong, and where it makes a difference."""

    name: str
    factor: float
    family: str
    limits: Thresholds


def mutants() -> Iterator[Mutant]:
    """Each threshold ten times too large and ten times too small."""
    for name, factor, limits in changed():
        for family, groups in FAMILIES.items():
            if groups(limits) != groups(THRESHOLDS):
                yield Mutant(name, factor, family, limits)


def changed() -> Iterator[tuple[str, float, Thresholds]]:
    for field in fields(THRESHOLDS):
        shipped = THRESHOLDS if field.name != "throughput" else EVERYTHING
        value = getattr(shipped, field.name)
        for factor in (10, 0.1):
            if isinstance(value, Pair):
                for part in ("target", "critical"):
                    name = f"{field.name}.{part}"
                    other = replace(value, **{part: wrong(name, getattr(value, part), factor)})
                    pair: dict[str, Any] = {field.name: other}
                    yield name, factor, replace(shipped, **pair)
            else:
                yield field.name, factor, replace(shipped, **{field.name: value * factor})


def wrong(name: str, value: float, factor: float) -> float:
    if name != "latency_p99.target":
        return value * factor
    # No other number can be written down than a bucket's; the nearest one is as wrong.
    return min(HTTP_DURATION.buckets, key=lambda bound: abs(bound - value * factor))


MUTANTS = list(mutants())


def test_every_threshold_is_mistaken_in_both_directions():
    """None is left out, and none is there that no rule reads."""
    assert {(mutant.name, mutant.factor) for mutant in MUTANTS} == {
        (line.name, factor) for line in listed() for factor in (10, 0.1)
    }


@pytest.mark.integration
@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda one: f"{one.family} {one.name} x {one.factor}"
)
def test_a_wrong_threshold_is_noticed(mutant, tmp_path):
    """A threshold that is wrong by a factor of ten fails a test: each has a case on both sides."""
    write(mutant.family, mutant.limits, tmp_path)

    assert any(play(moved(path, tmp_path)).returncode for path in judges(mutant)), (
        "every test passes"
    )


# Of alerts without a threshold: what makes each one fire for as long as there is data.
TOO_EAGER = (
    (re.compile(r"(> 0|== 0)$"), ">= 0"),
    (re.compile(r"== 0(?=\nand)"), ">= 0"),
    (re.compile(r"<= 0(?=\nand)"), "<= 0.1"),
    (re.compile(r" unless on .*$"), ""),
    (re.compile(r"^absent\((\w+)\)$"), r"\1"),
)
EAGER = [
    (family, rule)
    for family, groups in FAMILIES.items()
    for group in groups(THRESHOLDS)
    for rule in group.rules
    if isinstance(rule, Alert)
    if rule.severity != "none"
    if not any(
        rule != other
        for _, _, limits in changed()
        for changed_group in groups(limits)
        for other in changed_group.rules
        if isinstance(other, Alert)
        if (other.name, other.severity, other.labels) == (rule.name, rule.severity, rule.labels)
    )
]


@pytest.mark.integration
@pytest.mark.parametrize(("family", "alert"), EAGER, ids=lambda one: getattr(one, "name", one))
def test_an_alert_without_a_threshold_stays_away_where_nothing_is_wrong(family, alert, tmp_path):
    """It has no number to be just below of; instead there is a case with a zero that it must bear."""
    eager = alert.expr
    for written, instead in TOO_EAGER:
        eager = written.sub(instead, eager)
    assert eager != alert.expr
    groups = tuple(
        replace(
            group,
            rules=tuple(
                replace(rule, expr=eager) if rule == alert else rule for rule in group.rules
            ),
        )
        for group in FAMILIES[family](THRESHOLDS)
    )
    (tmp_path / file_name(family)).write_text(render(family, groups))

    own = "http-budget" if "slo_budget" in alert.expr else family
    assert play(moved(TESTS / f"{own}.test.yml", tmp_path)).returncode, eager


def judges(mutant: Mutant) -> list[Path]:
    """The tests of the family; first the one with the threshold in its name, which is likely to notice."""
    own = [
        path for path in STEADY if path.name.startswith((f"{mutant.family}.", f"{mutant.family}-"))
    ]
    # The others know nothing of an alert that is off.
    about = [path for path in own if (path.name in SET) == mutant.name.startswith("throughput")]
    return sorted(about, key=lambda path: (topic(path) not in mutant.name, len(path.name)))


def topic(path: Path) -> str:
    """`burn` of http-burn.test.yml."""
    return path.name.partition(".")[0].rpartition("-")[2]


def write(family: str, limits: Thresholds, folder: Path) -> None:
    (folder / file_name(family)).write_text(render(family, FAMILIES[family](limits)))


def moved(path: Path, folder: Path) -> Path:
    """A copy of the test that reads the rules of the folder."""
    test = folder / path.name
    test.write_text(path.read_text().replace("../../alerts/generated", str(folder)))
    return test
