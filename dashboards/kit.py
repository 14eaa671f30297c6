"""House style over grafanalib: its object model, today's JSON.

grafanalib 0.7.1 writes schema 12, in which a threshold's base is the string "null" and the colour
never leaves green. The subclasses here write every field of schema 42 themselves; to replace
grafanalib, replace this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import attr
from grafanalib import _gen, core

from alerts.links import runbook_url
from alerts.thresholds import Pair
from fastobs.catalogue import Metric

__all__ = [
    "COLUMNS",
    "DATASOURCE",
    "INSTANCE",
    "JOB",
    "SCOPE",
    "Board",
    "Chart",
    "Query",
    "Row",
    "Steps",
    "Variable",
    "board_url",
    "changed",
    "flow",
    "query",
    "question",
    "route_url",
    "unit_of",
    "worse_above",
    "worse_below",
    "written",
]

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
JOB = 'job=~"$job"'
INSTANCE = 'instance=~"$instance"'
SCOPE = (JOB, INSTANCE)
"""In every selector, so that a board shows what its variables say."""

# Named, because mypy would not see grafanalib's own attributes behind attr.s itself.
_house = attr.s(auto_attribs=True, kw_only=True)

Steps = list[dict[str, Any]]
"""Colours by value; the first step has no value and is the colour below all others."""


@_house
class Query(core.Target):  # type: ignore[misc] # grafanalib is untyped, here and below
    """One PromQL expression of a panel.

    Attributes:
        exemplar: Show the traces behind a histogram as diamonds.
        maybe_empty: Why it may have no data in a healthy service; empty if it must have some.
    """

    exemplar: bool = False
    maybe_empty: str = ""

    def to_json_data(self) -> dict[str, Any]:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplar,
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "legendFormat": self.legendFormat,
            "range": not self.instant,
            "refId": self.refId,
        }


@_house
class Chart(core.Panel):  # type: ignore[misc]
    """A panel of any kind; `charts` knows the kinds."""

    kind: str
    width: int
    tall: int
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    overrides: list[dict[str, Any]] = attr.ib(factory=list)

    def to_json_data(self) -> dict[str, Any]:
        return {
            "datasource": DATASOURCE,
            "description": self.description,
            "fieldConfig": {"defaults": self.defaults, "overrides": self.overrides},
            "gridPos": self.gridPos,
            "id": self.id,
            "links": self.links,
            "options": self.options,
            "targets": self.targets,
            "title": self.title,
            "transformations": self.transformations,
            "type": self.kind,
        }


@_house
class Row(core.RowPanel):  # type: ignore[misc]
    """A headline; its charts follow it on the board, not inside it."""

    charts: list[Chart] = attr.ib(factory=list)

    def to_json_data(self) -> dict[str, Any]:
        return {
            "collapsed": False,
            "gridPos": self.gridPos,
            "id": self.id,
            "panels": [],
            "title": self.title,
            "type": "row",
        }


@_house
class Variable(core.Template):  # type: ignore[misc]
    """A choice at the top of the board, with everything chosen at first."""

    all_value: str = ".+"

    def to_json_data(self) -> dict[str, Any]:
        common = {"label": self.label, "name": self.name, "type": self.type, "hide": 0}
        if self.type == "datasource":
            return common | {"query": self.query, "refresh": 1, "options": [], "current": {}}
        return common | {
            "allValue": self.all_value,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "datasource": DATASOURCE,
            "definition": self.query,
            "includeAll": True,
            "multi": True,
            "options": [],
            "query": {"qryType": 1, "query": self.query, "refId": "variable"},
            # On every change of the time range: yesterday's routes belong to yesterday's graph.
            "refresh": 2,
            "regex": "",
            "sort": 1,
        }


@_house
class Board(core.Dashboard):  # type: ignore[misc]
    """A dashboard as Grafana 12 and 13 store it."""

    def to_json_data(self) -> dict[str, Any]:
        return {
            "annotations": self.annotations,
            "description": self.description,
            # The files are generated; what is edited in Grafana would be lost with the next one.
            "editable": False,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "links": self.links,
            "panels": self.panels,
            "preload": False,
            "refresh": self.refresh,
            "schemaVersion": 42,
            "tags": self.tags,
            "templating": self.templating,
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
        }


def query(
    expression: str,
    legend: str = "",
    *,
    exemplar: bool = False,
    maybe_empty: str = "",
) -> Query:
    """A query; its letter is given by the chart that it joins."""
    return Query(
        expr=expression,
        legendFormat=legend,
        exemplar=exemplar,
        maybe_empty=maybe_empty,
    )


def changed(thing: Any, **values: Any) -> Any:
    """A copy of a query, panel or row with other values."""
    return attr.evolve(thing, **values)


def question(text: str, alert: str) -> str:
    """A panel's description; ``alert`` is ``family/Name`` and becomes a link to its runbook."""
    if not alert:
        return text
    family, _, name = alert.partition("/")
    return f"{text}\n\nAlert: [{name}]({runbook_url(family, name)})"


def worse_above(limit: Pair | float) -> Steps:
    """Green, then the colours of the alert's severities from its thresholds on."""
    if isinstance(limit, Pair):
        return _steps(("green", None), ("yellow", limit.target), ("red", limit.critical))
    return _steps(("green", None), ("orange", limit))


def worse_below(limit: Pair | float) -> Steps:
    """The colours of the alert's severities below its thresholds, green from the highest on."""
    if isinstance(limit, Pair):
        return _steps(("red", None), ("yellow", limit.critical), ("green", limit.target))
    return _steps(("orange", None), ("green", limit))


def unit_of(metric: Metric) -> str:
    """Grafana's unit for the metric's value, or for its rate if it is a counter."""
    if metric.name.endswith("_seconds_total"):
        return "percentunit"
    if metric.kind == "counter":
        return "cps"
    return next((unit for end, unit in _UNITS.items() if metric.name.endswith(end)), "short")


def board_url(uid: str) -> str:
    """A link to another board that keeps time range and variables."""
    return f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}"


def route_url(**chosen: str) -> str:
    """A link to the board of a route, which is said in Grafana's words for where it is read."""
    kept = ("datasource", "job", "instance")
    variables = [f"${{{name}:queryparam}}" for name in kept]
    variables += [f"var-{name}={value}" for name, value in chosen.items()]
    return f"/d/fastobs-route?${{__url_time_range}}&{'&'.join(variables)}"


def flow(rows: Iterable[Row]) -> list[Row | Chart]:
    """Rows and their charts with ids and places: left to right, a new line where one is full."""
    placed: list[Row | Chart] = []
    top = 0
    for row in rows:
        placed.append(_place(row, x=0, y=top, width=COLUMNS, height=1))
        top = _flow_charts(row.charts, top + 1, placed)
    titles = [panel.title for panel in placed]
    if twice := {title for title in titles if titles.count(title) > 1}:
        msg = f"Panels of one board need titles of their own; {sorted(twice)} occur twice."
        raise ValueError(msg)
    return placed


def written(board: Board) -> str:
    """The board as a file."""
    return json.dumps(board, cls=_gen.DashboardEncoder, indent=2, sort_keys=True) + "\n"


_UNITS = {"_time_seconds": "s", "_seconds": "s", "_bytes": "bytes"}


def _steps(*steps: tuple[str, float | None]) -> Steps:
    return [{"color": color, "value": value} for color, value in steps]


def _flow_charts(charts: Iterable[Chart], top: int, placed: list[Row | Chart]) -> int:
    left = height = 0
    for chart in charts:
        if left + chart.width > COLUMNS:
            top, left, height = top + height, 0, 0
        placed.append(_place(chart, x=left, y=top, width=chart.width, height=chart.tall))
        left, height = left + chart.width, max(height, chart.tall)
    return top + height


def _place(panel: Any, *, x: int, y: int, width: int, height: int) -> Any:
    # The id comes from the title: links to a panel survive panels that are added before it.
    number = crc32(panel.title.encode()) % 1_000_000 + 1
    return changed(panel, id=number, gridPos=core.GridPos(h=height, w=width, x=x, y=y))
