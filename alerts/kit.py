"""House style for rules: what an alert must say, and how its file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from fastobs.catalogue import ROUTE

from .links import board_url, runbook_url

__all__ = [
    "HEADER",
    "ROUTE_NAME",
    "Alert",
    "Group",
    "Record",
    "Severity",
    "bound",
    "percent",
    "render",
    "to_dict",
]

Severity = Literal["critical", "warning", "none"]
"""critical: wake somebody. warning: a ticket. none: for machines."""

ROUTE_NAME = f'{{{{ or $labels.{ROUTE} "(no route)" }}}}'
"""A route in a text: what no route matched, or happened outside of requests, has an empty one."""
LONG = 80
HEADER = "# Written by `python -m alerts` from alerts/*.py; edits here are overwritten.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A recording rule: a query worth computing once.

    Attributes:
        name: ``fastobs:<what>:<operation>``; the only place where it is spelled.
        expr: What is computed.
        labels: Added to every series of the result.
    """

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def where(self, *matchers: str) -> str:
        """A selector of the recorded series."""
        return f"{self.name}{{{', '.join(matchers)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alerting rule.

    Attributes:
        name: Subject and fault; also the heading in the family's runbook.
        expr: Fires for every series of its result.
        lasts: How long the expression must hold.
        keep: How long the alert stays after the expression has stopped; empty for not at all.
        summary: One line, for the pager.
        description: What it means and what to look at first.
        dashboard: The uid of the board that shows it.
        labels: Added to every alert, beside the severity.
    """

    name: str
    severity: Severity
    expr: str
    lasts: str = "0s"
    keep: str = ""
    summary: str
    description: str
    dashboard: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rules that are evaluated one after the other.

    What an alert reads is recorded in its own group; other groups run at other moments.
    """

    name: str
    rules: tuple[Record | Alert, ...]


def bound(left: str, *conditions: str) -> str:
    """An expression and what must hold besides; the value is that of ``left``."""
    return "\n".join([left, *(f"and {condition}" for condition in conditions)])


def percent(share: float) -> str:
    """``0.1%`` of 0.001, with all the digits that it has."""
    return f"{share * 100:g}%"


def render(family: str, groups: tuple[Group, ...], *, header: str = HEADER) -> str:
    """A rule file as Prometheus reads it."""
    document = {"groups": [to_dict(family, group) for group in groups]}
    return header + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=98)


def to_dict(family: str, group: Group) -> dict[str, Any]:
    """A group in Prometheus' own words."""
    rules = [
        _alert(family, rule) if isinstance(rule, Alert) else _record(rule) for rule in group.rules
    ]
    return {"name": group.name, "rules": rules}


def _record(rule: Record) -> dict[str, Any]:
    written: dict[str, Any] = {"record": rule.name, "expr": rule.expr}
    return written | ({"labels": dict(rule.labels)} if rule.labels else {})


def _alert(family: str, rule: Alert) -> dict[str, Any]:
    times = {"for": rule.lasts, "keep_firing_for": rule.keep}
    return {
        "alert": rule.name,
        "expr": rule.expr,
        **{key: value for key, value in times.items() if value},
        "labels": {"severity": rule.severity, **rule.labels},
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "runbook_url": runbook_url(family, rule.name),
            "dashboard_url": board_url(rule.dashboard, rule.summary + rule.description),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, lists indented below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - PyYAML's signature
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    folded = len(text) > LONG and " " in text
    style = "|" if "\n" in text else ">" if folded else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
