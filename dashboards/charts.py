"""The kinds of panels, each with every option spelled out: a default may change, a file may not."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from fastobs.catalogue import ROUTE

from .kit import Chart, Query, Steps, board_url, changed, question, route_url

__all__ = [
    "bars",
    "gauge",
    "heatmap",
    "line",
    "painted",
    "stat",
    "table",
    "timeline",
    "timeseries",
]

PLAIN: Steps = [{"color": "green", "value": None}]
LONG = (ROUTE, "worker", "outcome", "result")
"""Labels whose names leave no room for a number beside them in the legend of a narrow graph."""
LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
TOOLTIP = {"mode": "multi", "sort": "desc", "hideZeros": False}
LEAST = {"cps": 0.1, "ops": 1, "percentunit": 0.01, "reqps": 1, "short": 1}
"""The top of an axis whose lines are all zero, by unit; Grafana's own is 100, which is a lot of errors."""


def timeseries(
    title: str,
    asks: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    tall: int = 8,
    steps: Steps | None = None,
    stacked: bool = False,
    low: float | None = 0,
    high: float | None = None,
    alert: str = "",
    board: str = "",
    overrides: list[dict[str, Any]] | None = None,
) -> Chart:
    """Lines over time, or areas on top of each other."""
    custom = {
        "axisBorderShow": False,
        "drawStyle": "line",
        "fillOpacity": 60 if stacked else 10,
        "gradientMode": "none",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    if high is None and unit in LEAST:
        custom["axisSoftMax"] = LEAST[unit]
    short = not any(label in each.legendFormat for each in queries for label in LONG)
    return _chart(
        "timeseries",
        title,
        question(asks, alert),
        queries,
        size=(width, tall),
        board=board,
        defaults={
            **_field(unit, steps, color="palette-classic", low=low, high=high),
            "custom": custom,
        },
        options={
            "legend": {
                # A narrow graph has room for two lines of names, a wide one for a table beside it.
                "calcs": ["mean", "max"] if width > 8 else ["max"] if width > 6 and short else [],
                "displayMode": "table" if width > 8 else "list",
                "placement": "right" if width > 8 else "bottom",
                "showLegend": True,
            },
            "tooltip": TOOLTIP,
        },
        overrides=overrides,
    )


def line(name: str) -> dict[str, Any]:
    """How a limit, or another day, is drawn beside what is measured: dashed, and on top of areas.

    Args:
        name: What the legend begins with.
    """
    return _override(
        f"/^{name}/",
        ("custom.stacking", {"group": "A", "mode": "none"}),
        ("custom.fillOpacity", 0),
        ("custom.lineStyle", {"dash": [8, 8], "fill": "dash"}),
        ("color", {"fixedColor": "text", "mode": "fixed"}),
    )


def painted(colors: Mapping[str, str], *, shades: bool = False) -> list[dict[str, Any]]:
    """What has a meaning has one colour everywhere.

    Args:
        colors: By a regular expression of what the legend says; a later one wins.
        shades: Several lines have one meaning, and are told apart.
    """
    mode = "shades" if shades else "fixed"
    return [
        _override(f"/{found}/", ("color", {"fixedColor": color, "mode": mode}))
        for found, color in colors.items()
    ]


def stat(
    title: str,
    asks: str,
    *queries: Query,
    unit: str,
    steps: Steps | None = None,
    width: int = 4,
    tall: int = 4,
    no_value: str = "no data",
    alert: str = "",
    board: str = "",
) -> Chart:
    """One number, its colour, and its course behind it."""
    return _chart(
        "stat",
        title,
        question(asks, alert),
        queries,
        size=(width, tall),
        board=board,
        defaults=_field(unit, steps, color="thresholds") | {"noValue": no_value},
        options={
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "reduceOptions": LAST,
            "showPercentChange": False,
            "textMode": "auto",
            "wideLayout": True,
        },
    )


def gauge(
    title: str,
    asks: str,
    *queries: Query,
    unit: str,
    steps: Steps,
    width: int = 8,
    tall: int = 8,
    alert: str = "",
) -> Chart:
    """One share of a whole per series."""
    return _chart(
        "gauge",
        title,
        question(asks, alert),
        queries,
        size=(width, tall),
        defaults=_field(unit, steps, color="thresholds", low=0, high=1),
        options={
            "minVizHeight": 75,
            "minVizWidth": 75,
            "orientation": "auto",
            "reduceOptions": LAST,
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
            "sizing": "auto",
        },
    )


def bars(
    title: str,
    asks: str,
    *queries: Query,
    unit: str,
    steps: Steps,
    width: int = 8,
    tall: int = 8,
    alert: str = "",
) -> Chart:
    """One bar per series, out of a whole: the highest of the time that is shown."""
    return _chart(
        "bargauge",
        title,
        question(asks, alert),
        queries,
        size=(width, tall),
        defaults=_field(unit, steps, color="thresholds", low=0, high=1),
        options={
            "displayMode": "gradient",
            "legend": {
                "calcs": [],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": False,
            },
            "maxVizHeight": 300,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "namePlacement": "auto",
            "orientation": "horizontal",
            "reduceOptions": LAST | {"calcs": ["max"]},
            "showUnfilled": True,
            "sizing": "auto",
            "valueMode": "color",
        },
    )


def heatmap(
    title: str,
    asks: str,
    buckets: Query,
    *,
    unit: str,
    width: int = 8,
    tall: int = 8,
    board: str = "",
) -> Chart:
    """How often which value occurred, from the buckets of a histogram."""
    return _chart(
        "heatmap",
        title,
        asks,
        [changed(buckets, format="heatmap", legendFormat="{{le}}")],
        size=(width, tall),
        board=board,
        defaults={
            "unit": unit,
            "custom": {
                "hideFrom": {"legend": False, "tooltip": False, "viz": False},
                "scaleDistribution": {"type": "linear"},
            },
        },
        options={
            "calculate": False,
            "cellGap": 1,
            "cellValues": {},
            "color": {
                "exponent": 0.5,
                "fill": "dark-orange",
                "mode": "scheme",
                "reverse": False,
                "scale": "exponential",
                "scheme": "Oranges",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    )


def timeline(
    title: str,
    asks: str,
    *queries: Query,
    texts: Mapping[str, tuple[str, str]],
    width: int = 12,
    tall: int = 6,
    alert: str = "",
    board: str = "",
) -> Chart:
    """States over time; ``texts`` gives a word and a colour for each value."""
    options = {
        value: {"color": color, "index": index, "text": text}
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return _chart(
        "state-timeline",
        title,
        question(asks, alert),
        queries,
        size=(width, tall),
        board=board,
        defaults={
            **_field("none", None, color="thresholds"),
            "custom": {"fillOpacity": 70, "lineWidth": 0, "spanNulls": False},
            "mappings": [{"type": "value", "options": options}],
        },
        options={
            "alignValue": "left",
            "legend": {
                "calcs": [],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": False,
            },
            "mergeValues": True,
            "perPage": 20,
            "rowHeight": 0.9,
            "showValue": "never",
            "tooltip": {"mode": "single", "sort": "none", "hideZeros": False},
        },
    )


def table(
    title: str,
    asks: str,
    *queries: Query,
    unit: str,
    transformations: list[dict[str, Any]],
    overrides: list[dict[str, Any]],
    sort: str,
    width: int = 24,
    tall: int = 9,
) -> Chart:
    """A line per label set, a column per query."""
    chart = _chart(
        "table",
        title,
        asks,
        [changed(each, format="table", instant=True) for each in queries],
        size=(width, tall),
        defaults={
            **_field(unit, None, color="thresholds"),
            "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        },
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "sortBy": [{"desc": True, "displayName": sort}],
        },
        overrides=overrides,
    )
    with_columns: Chart = changed(chart, transformations=transformations)
    return with_columns


def _field(
    unit: str,
    steps: Steps | None,
    *,
    color: str,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    bounds = {"min": low, "max": high}
    return {
        "color": {"mode": color},
        "thresholds": {"mode": "absolute", "steps": steps or PLAIN},
        "unit": unit,
        **{key: value for key, value in bounds.items() if value is not None},
    }


def _chart(
    kind: str,
    title: str,
    description: str,
    queries: Any,
    *,
    size: tuple[int, int],
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    overrides: list[dict[str, Any]] | None = None,
    board: str = "",
) -> Chart:
    links = [{"title": "Open the board", "type": "link", "url": board_url(board)}] if board else []
    routes = [_to_route()] if any(ROUTE in each.legendFormat for each in queries) else []
    if (why := _why_empty(queries)) and "noValue" not in defaults:
        defaults = {**defaults, "noValue": why}
    return Chart(
        kind=kind,
        title=title,
        description=description,
        targets=[
            changed(each, refId=letter)
            for each, letter in zip(queries, ascii_uppercase, strict=False)
        ],
        width=size[0],
        tall=size[1],
        defaults=defaults,
        options=options,
        overrides=[*(overrides or []), *routes],
        links=links,
    )


def _override(names: str, *properties: tuple[str, Any]) -> dict[str, Any]:
    return {
        "matcher": {"id": "byRegexp", "options": names},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }


def _to_route() -> dict[str, Any]:
    """Whoever clicks on a line of a route gets the route's board."""
    url = route_url(route=f"${{__field.labels.{ROUTE}:percentencode}}")
    return _override("/.*/", ("links", [{"title": "Open the route's board", "url": url}]))


def _why_empty(queries: Any) -> str:
    """What an empty panel says: "No data" would make a reader look for a fault that is not there."""
    reasons = [each.maybe_empty for each in queries]
    return reasons[0] if all(reasons) else ""
