"""The report as rich tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastobs.catalogue import PART

from .rows import Blocks, Cache, Finding, Limit, Pool, Route, slowest_by_route

NOTHING = "-"


def seconds(value: float) -> str:
    """Milliseconds below one second, NaN as a dash."""
    if math.isnan(value):
        return NOTHING
    return f"{value * 1000:,.1f} ms" if value < 0.01 else f"{value * 1000:,.0f} ms"


def count(value: float) -> Text:
    """A whole number; zeros step back, so that the eye finds the rest."""
    if math.isnan(value):
        return Text(NOTHING, style="dim")
    return Text(f"{value:,.0f}", style="" if value else "dim")


def bad(value: float) -> Text:
    """A number that should be zero."""
    return Text(f"{value:,.0f}", style="bold red" if value else "dim")


def percent(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.0%}"


def routes(rows: Sequence[Route]) -> Table:
    table = _table("Routes, slowest first", "route", "req/s", "P50", "P95", "P99", "5xx", "429")
    for row in rows:
        table.add_row(
            row.route,
            f"{row.rate:.1f}",
            seconds(row.p50),
            _slow(row.p95),
            seconds(row.p99),
            bad(row.errors),
            count(row.limited),
        )
    return table


def parts(rows: Sequence[Route], *, most: int = 8) -> Table:
    table = _table("Where the time of the slowest routes went", "route", "mostly", "share")
    table.columns[1].justify = "left"
    for row in rows[:most]:
        if row.mostly:
            table.add_row(row.route, row.mostly, percent(row.share))
    return table


def pools(rows: Sequence[Pool]) -> Table:
    table = _table("Connection pools", "pool", "fullest seen", "asked", "wait P95", "timeouts")
    for row in rows:
        full = f"{row.used:.0f}/{row.most:.0f}" if not math.isnan(row.most) else NOTHING
        at_limit = row.used >= row.most
        table.add_row(
            row.pool,
            Text(full, style="bold red" if at_limit else ""),
            count(row.waits),
            _slow(row.wait_p95, at=0.05),
            bad(row.timeouts),
        )
    return table


def caches(rows: Sequence[Cache]) -> Table:
    table = _table("Caches", "cache", "hit rate", "hits", "misses", "evicted", "load P95")
    for row in rows:
        table.add_row(
            row.cache,
            Text(percent(row.hit_rate), style="bold red" if row.hit_rate < 0.2 else ""),
            count(row.hits),
            count(row.misses),
            count(row.evictions),
            seconds(row.load_p95),
        )
    return table


def blocks(rows: Sequence[Blocks]) -> Table:
    table = _table("Event loop blocked by", "route", "times", "seconds in all")
    for row in rows:
        table.add_row(row.route, bad(row.blocks), f"{row.seconds:.1f}")
    return table


def limits(rows: Sequence[Limit]) -> Table:
    table = _table("Rate limits", "limiter", "limit", "route", "allowed", "limited")
    for column in table.columns[1:3]:
        column.justify = "left"
    for row in rows:
        table.add_row(row.limiter, row.limit, row.route, count(row.allowed), count(row.limited))
    return table


def findings(rows: Sequence[Finding]) -> Table:
    table = _table("Found without being asked", "what", "route", "requests")
    table.columns[1].justify = "left"
    for row in rows:
        table.add_row(row.what, row.route, bad(row.count))
    return table


def slow(lines: Iterable[Mapping[str, Any]], *, most: int = 6) -> Table:
    table = _table("Slowest request of each route, from the log", "route, trace id", "took", "why")
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


def show(console: Console, table: Table, *, otherwise: str) -> None:
    """The table, or one line that says why there is none."""
    console.print()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"[bold]{table.title}:[/] {otherwise}")


def _slow(value: float, *, at: float = 0.2) -> Text:
    late = not math.isnan(value) and value > at
    return Text(seconds(value), style="bold yellow" if late else "")


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column(first, overflow="fold", style="cyan")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
