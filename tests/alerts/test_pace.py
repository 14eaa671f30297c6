"""The same rules, with less patience."""

from __future__ import annotations

import re
import subprocess

import pytest

from alerts.families import FAMILIES, file_name
from alerts.kit import Alert, Group, Record, render
from alerts.pace import Pace
from alerts.slo import SECONDS
from alerts.thresholds import THRESHOLDS

TEN = Pace(faster=10)


def paced(expr):
    (group,) = TEN.groups((Group(name="g", rules=(Record(name="r", expr=expr),)),))
    return group.rules[0].expr


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("rate(a[5m])", "rate(a[30s])"),
        ("avg_over_time(a:rate5m[1d] offset 1h)", "avg_over_time(a:rate5m[8640s] offset 360s)"),
        ("a:rate5m > 0.5", "a:rate5m > 0.5"),
        ("min_over_time(a[10s])", "min_over_time(a[5s])"),
        ("a:rate1h * 3600 >= 5", "a:rate1h * 360 >= 5"),
        ("predict_linear(a[1h], 4 * 3600) > b", "predict_linear(a[360s], 4 * 360) > b"),
        ("a > 4 * b and c >= 14.4 * 0.001", "a > 4 * b and c >= 14.4 * 0.001"),
    ],
)
def test_windows_and_offsets_shrink(expr, expected):
    """Thresholds and names stay; a window keeps a few scrapes, and a count is that of its window."""
    assert paced(expr) == expected


def test_waiting_shrinks():
    """What an alert must hold and how long it stays; an alert that fires at once still does."""
    alert = Alert(
        name="A",
        severity="warning",
        expr="a > 0",
        keep="1h",
        summary="s",
        description="d",
        dashboard="b",
    )
    (group,) = TEN.groups((Group(name="g", rules=(alert,)),))
    (rule,) = group.rules

    assert isinstance(rule, Alert)
    assert (rule.lasts, rule.keep) == ("0s", "360s")


def test_a_count_of_failures_is_that_of_the_shorter_window():
    """One unlucky request is no incident in a hurry either: every window's length shrinks with it."""
    lengths = {str(seconds) for seconds in SECONDS.values()} | {"3600"}
    for family, groups in FAMILIES.items():
        calm = [rule.expr for group in groups(THRESHOLDS) for rule in group.rules]
        hurried = [rule.expr for group in TEN.groups(groups(THRESHOLDS)) for rule in group.rules]
        for before, after in zip(calm, hurried, strict=True):
            found = re.findall(r" \* (\d+)\b(?! \*)", before)
            assert set(found) <= lengths, family
            assert re.findall(r" \* (\d+)\b(?! \*)", after) == [
                str(int(one) // 10) for one in found
            ]


@pytest.mark.usefixtures("promtool")
def test_prometheus_accepts_rules_in_a_hurry(tmp_path):
    """Every family, and no span of an hour or more is left unchanged."""
    paths = []
    for family, groups in FAMILIES.items():
        text = render(family, Pace(faster=30).groups(groups(THRESHOLDS)))
        assert re.findall(r"(?:\[|offset |for: )\d+[mhd]\b", text) == []
        paths.append(tmp_path / file_name(family))
        paths[-1].write_text(text)
    checked = subprocess.run(
        ["promtool", "check", "rules", *paths], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
