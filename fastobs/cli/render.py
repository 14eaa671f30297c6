"""Rows as rich tables, and numbers as a person reads them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .rows import Blocks, Cache, Finding, Level, Limit, Pool, Route

NOTHING = "-"
UNBOUNDED = 1000
"""Columns; more than any table of ours has."""


def console() -> Console:
    """Standard output; a pipe gets whole lines, since nobody can make it wider."""
    out = Console()
    if not out.is_terminal and not os.environ.get("COLUMNS"):
        out.width = UNBOUNDED
    return out


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
    table = blank("Routes, slowest first", "route", "req/s", "P50", "P95", "P99", "5xx", "429")
    for row in rows:
        table.add_row(
            Text(row.route),
            f"{row.rate:.1f}",
            seconds(row.p50),
            _slow(row.p95),
            seconds(row.p99),
            bad(row.errors),
            count(row.limited),
        )
    return table


def parts(rows: Sequence[Route], *, most: int = 8) -> Table:
    table = blank("Where the time of the slowest routes went", "route", "mostly", "share")
    table.columns[1].justify = "left"
    for row in rows[:most]:
        if row.mostly:
            table.add_row(Text(row.route), Text(row.mostly), percent(row.share))
    return table


def pools(rows: Sequence[Pool]) -> Table:
    table = blank("Connection pools", "pool", "fullest seen", "asked", "wait P95", "timeouts")
    for row in rows:
        full = f"{row.used:.0f}/{row.most:.0f}" if not math.isnan(row.most) else NOTHING
        at_limit = row.used >= row.most
        table.add_row(
            Text(row.pool),
            Text(full, style="bold red" if at_limit else ""),
            count(row.waits),
            _slow(row.wait_p95, at=0.05),
            bad(row.timeouts),
        )
    return table


def levels(rows: Sequence[Level]) -> Table:
    table = blank("Connection pools", "pool", "used/max", "waiting", "timeouts")
    for row in rows:
        full = f"{row.used:.0f}/{NOTHING if math.isnan(row.most) else f'{row.most:.0f}'}"
        table.add_row(
            Text(row.pool),
            Text(full, style="bold red" if row.used >= row.most else ""),
            NOTHING if math.isnan(row.waiting) else bad(row.waiting),
            bad(row.timeouts),
        )
    return table


def caches(rows: Sequence[Cache]) -> Table:
    table = blank("Caches", "cache", "hit rate", "hits", "misses", "evicted", "load P95")
    for row in rows:
        table.add_row(
            Text(row.cache),
            Text(percent(row.hit_rate), style="bold red" if row.hit_rate < 0.2 else ""),
            count(row.hits),
            count(row.misses),
            count(row.evictions),
            seconds(row.load_p95),
        )
    return table


def blocks(rows: Sequence[Blocks]) -> Table:
    table = blank("Event loop blocked by", "route", "times", "seconds in all")
    for row in rows:
        table.add_row(Text(row.route), bad(row.blocks), f"{row.seconds:.1f}")
    return table


def limits(rows: Sequence[Limit]) -> Table:
    table = blank("Rate limits", "limiter", "limit", "route", "allowed", "limited")
    for column in table.columns[1:3]:
        column.justify = "left"
    for row in rows:
        names = (Text(row.limiter), Text(row.limit), Text(row.route))
        table.add_row(*names, count(row.allowed), count(row.limited))
    return table


def findings(rows: Sequence[Finding]) -> Table:
    table = blank("Found without being asked", "what", "route", "requests")
    table.columns[1].justify = "left"
    for row in rows:
        table.add_row(Text(row.what), Text(row.route), bad(row.count))
    return table


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


def blank(title: str, first: str, *numbers: str) -> Table:
    """A table without rows; all columns but the first are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column(first, overflow="fold", style="cyan")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
