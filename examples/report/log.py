"""The ``slow_request`` lines of a log, and the table of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from fastobs.catalogue import PART
from fastobs.cli.render import blank, seconds
from fastobs.cli.rows import NO_ROUTE

__all__ = ["slow_lines", "slow_table", "slowest_by_route", "why"]


def slow_lines(log: Iterable[str]) -> list[dict[str, Any]]:
    """The ``slow_request`` lines of a log in which other things may stand, the slowest first."""
    lines = []
    for text in log:
        if not text.startswith("{"):
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("event") == "slow_request" and "duration" in line:
            lines.append(line)
    return sorted(lines, key=lambda line: -float(line["duration"]))


def slowest_by_route(lines: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """The slowest line of each route, with how many there were."""
    by_route: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_route[str(line.get("route") or NO_ROUTE)].append(line)
    return [(mine[0], len(mine)) for mine in by_route.values()]


def slow_table(lines: Iterable[Mapping[str, Any]], *, most: int = 6) -> Table:
    table = blank("Slowest request of each route, from the log", "route, trace id", "took", "why")
    table.columns[2].justify = "left"
    for line, _ in slowest_by_route(lines)[:most]:
        table.add_row(
            Text.assemble(
                str(line.get("route") or line.get("path", "")),
                (f"\n{line.get('trace_id', '')}", "dim"),
            ),
            seconds(float(line["duration"])),
            why(line),
        )
    return table


def why(line: Mapping[str, Any], *, most: int = 2) -> str:
    """The largest parts that the line names, ``db 210 ms, pool_wait 40 ms``."""
    parts = {part: line[part] for part in PART if isinstance(line.get(part), int | float)}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{part} {seconds(value)}" for part, value in largest if value >= 0.001)
