"""The same rules, with less patience."""

from __future__ import annotations

import re
import subprocess

import pytest

from alerts.__main__ import FAMILIES, file_name
from alerts.kit import Alert, Group, Record, render
from alerts.pace import Pace
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
    ],
)
def test_windows_and_offsets_shrink(expr, expected):
    """Numbers and names stay; a window keeps a few scrapes."""
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
    assert (rule.lasts, rule.keep) == ("", "360s")


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
