"""Just enough PromQL to say which series an expression selects, and with what."""

from __future__ import annotations

import re
from collections.abc import Iterator

from alerts.__main__ import FAMILIES
from alerts.kit import Record
from alerts.thresholds import THRESHOLDS
from fastobs.catalogue import CATALOGUE
from fastobs.promql import PROMETHEUS

STRING = r'"(?:\\.|[^"\\])*"'
TOKEN = re.compile(
    rf"""
      (?P<string>{STRING})
    | (?P<range>\[[^\]]*\])
    | (?P<labels>\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\))
    | (?P<word>\b(?:and|or|unless|bool)\b|offset\s+\w+)
    | (?P<name>[a-zA-Z_:][\w:]*)(?P<braces>\{{(?:[^{{}}"]|{STRING})*\}})?(?P<call>(?=\s*\(|\s+(?:by|without)\b))?
    | (?P<number>\d[\w.]*)
    """,
    re.VERBOSE,
)

RECORDED = {
    rule.name
    for groups in FAMILIES.values()
    for group in groups(THRESHOLDS)
    for rule in group.rules
    if isinstance(rule, Record)
}


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """The name and the braces of every selector."""
    for token in TOKEN.finditer(expression):
        if token["name"] and token["call"] is None:
            yield token["name"], token["braces"] or ""


def ranges(expression: str) -> list[str]:
    """What stands in square brackets."""
    return [token["range"].strip("[]") for token in TOKEN.finditer(expression) if token["range"]]


def grouped(expression: str) -> set[str]:
    """The labels that any ``by`` keeps."""
    return {
        label.strip()
        for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression)
        for label in labels.split(",")
    }


def metric_of(name: str) -> str | None:
    """The catalogue's name for a selected series; None if it is not ours."""
    if name in CATALOGUE:
        return name
    stem = re.sub(r"_(bucket|count|sum)$", "", name)
    return stem if stem in CATALOGUE and CATALOGUE[stem].kind == "histogram" else None


def known(name: str) -> bool:
    """Whether somebody writes this series: fastobs, our rules, or Prometheus."""
    return metric_of(name) is not None or name in RECORDED or name in PROMETHEUS
