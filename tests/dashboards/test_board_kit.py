"""House style: places, ids, colours, units."""

from __future__ import annotations

import json

import pytest

from alerts.thresholds import Pair
from dashboards import kit
from dashboards.charts import stat, timeseries
from fastobs.catalogue import (
    CATALOGUE,
    HTTP_PART,
    HTTP_RESPONSE_SIZE,
    HTTP_SLOW,
    POOL_COUNT,
    POOL_USE,
)


def chart(title, width=8, tall=8):
    return timeseries(title, "Why?", kit.query("up"), unit="s", width=width, tall=tall)


def places(*rows):
    return {
        panel.title: (panel.gridPos.x, panel.gridPos.y, panel.gridPos.w, panel.gridPos.h)
        for panel in kit.flow(rows)
    }


def test_panels_flow_from_left_to_right():
    """A new line begins where the next panel does not fit, below the tallest of the last line."""
    charts = [chart("a"), chart("b", tall=10), chart("c"), chart("d", width=12)]

    assert places(kit.Row(title="one", charts=charts), kit.Row(title="two", charts=[])) == {
        "one": (0, 0, 24, 1),
        "a": (0, 1, 8, 8),
        "b": (8, 1, 8, 10),
        "c": (16, 1, 8, 8),
        "d": (0, 11, 12, 8),
        "two": (0, 19, 24, 1),
    }


def test_a_panel_keeps_its_id_when_others_come():
    """A link to a panel survives a board that grows."""
    before = kit.flow([kit.Row(title="row", charts=[chart("b")])])
    after = kit.flow([kit.Row(title="row", charts=[chart("a"), chart("b")])])

    assert before[1].id == after[2].id
    assert before[1].id != after[1].id


def test_two_panels_of_one_title_are_refused():
    """Title and id would no longer say which one is meant."""
    with pytest.raises(ValueError, match=r"\['b'\] occur twice"):
        kit.flow([kit.Row(title="row", charts=[chart("b"), chart("b")])])


def test_a_pair_colours_twice():
    """Yellow from the target on, red from the critical value on."""
    assert kit.worse_above(Pair(0.2, 0.5)) == [
        {"color": "green", "value": None},
        {"color": "yellow", "value": 0.2},
        {"color": "red", "value": 0.5},
    ]


def test_a_single_threshold_colours_once():
    """Orange: somebody gets a ticket, nobody is woken."""
    assert [step["color"] for step in kit.worse_above(0.8)] == ["green", "orange"]
    assert [step["color"] for step in kit.worse_below(0.8)] == ["orange", "green"]


def test_a_pair_colours_twice_downwards():
    """Yellow below the target, red below the critical value."""
    assert kit.worse_below(Pair(0.3, 0.05)) == [
        {"color": "red", "value": None},
        {"color": "yellow", "value": 0.05},
        {"color": "green", "value": 0.3},
    ]


def test_the_base_colour_has_no_value_in_json():
    """null, not the string "null", which Grafana takes for a number and stays green."""
    written = json.dumps(kit.worse_above(0.8))

    assert '{"color": "green", "value": null}' in written


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        (POOL_USE, "s"),
        (HTTP_RESPONSE_SIZE, "bytes"),
        (HTTP_SLOW, "cps"),
        (HTTP_PART, "percentunit"),
        (POOL_COUNT, "short"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_unit_follows_from_the_metric(metric, unit):
    """Of a counter it is the rate's: seconds per second are a share."""
    assert kit.unit_of(metric) == unit


def test_every_series_has_a_unit():
    """No name ends in something that the house does not know."""
    assert {kit.unit_of(metric) for metric in CATALOGUE.values()} == {
        "bytes",
        "cps",
        "percentunit",
        "s",
        "short",
    }


def test_a_description_ends_with_the_runbook():
    """From the red panel to what to do, in one click."""
    described = stat(
        "P50", "Fast?", kit.query("up"), unit="s", alert="http/FastobsLatencyP50High"
    ).description

    assert described.startswith("Fast?\n\nAlert: [FastobsLatencyP50High](https://")
    assert described.endswith("/docs/runbooks/http.md#fastobslatencyp50high)")
