"""The ``slow_request`` lines of a log, and the table of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from fastobs.cli.render import blank, seconds
from fastobs.cli.rows import NO_ROUTE

__all__ = ["blocks", "events", "slow_lines", "slow_table", "slowest_by_route", "why"]


def slow_lines(log: Iterable[str]) -> list[dict[str, Any]]:
    """The ``slow_request`` lines of a log in which other things may stand, the slowest first."""
    return sorted(events(log, "slow_request"), key=lambda line: -float(line["duration"]))


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
    """What the line found, and the largest parts that it names: ``db 210 ms, pool_wait 40 ms``."""
    parts = line.get("parts", {})
    largest = sorted(parts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(
        list(dict.fromkeys(_finding(found) for found in line.get("findings", ())))
        + [f"{part} {seconds(value)}" for part, value in largest if value >= 0.001]
    )


def _finding(found: Mapping[str, Any]) -> str:
    at = f" at {found['at']}" if found.get("at") else ""
    match found:
        case {"kind": "event_loop_blocked", "route": route}:
            return f"waited for {route or NO_ROUTE}, which blocked the event loop{at}"
        case {"kind": "blocks_event_loop", "function": function}:
            return f"blocked the event loop in {function}{at}"
        case {"kind": "mostly_at", "function": function}:
            return f"mostly in {function}{at}"
        case {"kind": "waited_for_connection", "pool": pool, "route": route}:
            return f"waited for a connection of {pool} that {route or NO_ROUTE} had{at}"
        case {"kind": "held_connection", "pool": pool, "idle": idle}:
            return f"kept a connection of {pool} for {seconds(idle)} without a query{at}"
    what = found.get("relation") or found.get("statement") or found.get("kind", "")
    return f"{found.get('count', '')} x {what}{at}"


def blocks(log: Iterable[str]) -> Table:
    """Who blocked the event loop, by place: how often, for how long at most, and who waited."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in events(log, "event_loop_blocked"):
        place = f"{line['function']} at {line['file']}:{line['line']}"
        found[f"{line['route'] or NO_ROUTE}\n{place}"].append(line)
    table = blank(
        "Event loop blocked by, from the log", "route, place", "times", "longest", "delayed"
    )
    for place, lines in sorted(found.items(), key=lambda item: -len(item[1])):
        table.add_row(
            place,
            f"{sum(1 + line['suppressed'] for line in lines):,}",
            seconds(max(float(line["duration"]) for line in lines)),
            f"{sum(line['delayed'] for line in lines):,}",
        )
    return table


def events(log: Iterable[str], event: str) -> Iterator[dict[str, Any]]:
    """The lines about one thing, of a log in which other things may stand."""
    for text in log:
        if not text.startswith("{"):
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("event") == event:
            yield line
