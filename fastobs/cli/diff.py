"""``fastobs diff``: what a change did to each route, from a scrape before and one after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fastobs import catalogue

from . import render, rows, web
from .exposition import ALL, Samples, fallen, increase, select
from .failure import Failed
from .rows import Route

__all__ = ["Change", "changes", "diff"]

BEYOND = 5
"""Requests that must lie beyond a quantile before its change is more than chance."""
ENOUGH = 100
"""Requests of each side before a change of the share of errors is told."""
NOTABLE = 0.1
"""The share from which on a change has a colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One route on both sides; None where nobody asked for it."""

    route: str
    before: Route | None
    after: Route | None

    @property
    def requests(self) -> tuple[float, float]:
        """How many there were."""
        before, after = (side.requests if side else 0.0 for side in (self.before, self.after))
        return before, after

    def surely(self, q: float) -> bool:
        """Whether there are enough requests on both sides to compare this quantile."""
        return min(self.requests) * (1 - q) >= BEYOND


def diff(
    before: Annotated[str, typer.Argument(help="A saved scrape, or the address of a service.")],
    after: Annotated[str, typer.Argument(help="The same, after the change.")],
    *,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            show_default=False,
            help="How long the load lasted on each side; shows requests per second.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FASTOBS_METRICS_TOKEN", show_default=False, help="The service's metrics.token."
        ),
    ] = None,
) -> None:
    """Compare two scrapes: latency, errors and requests of each route, before and after."""
    first, second = _read(before, token), _read(after, token)
    console = render.console()
    if _same_process(first, second):
        if fallen(first, second):
            msg = (
                f"{after} is older than {before}, or of a service whose workers do not share their "
                "numbers. Swap the two, or see fastobs doctor."
            )
            raise Failed(msg)
        second = increase({ALL: first}, {ALL: second})
        console.print("Both are of one running service: AFTER is what happened since BEFORE.")
    found = changes(first, second, seconds=seconds)
    if not found:
        msg = "Neither side has a request. Save a scrape after some load."
        raise Failed(msg)
    console.print(_table(found, rates=seconds is not None))
    console.print(
        f"A change of a quantile is told from {BEYOND} requests beyond it on both sides, "
        f"one of 5xx from {ENOUGH} requests.",
        style="dim",
    )


def changes(before: Samples, after: Samples, *, seconds: float | None = None) -> list[Change]:
    """Every route of either side, the most asked one first.

    Args:
        before: What was counted on one side.
        after: And on the other.
        seconds: How long each took, for rates; they are NaN without.
    """
    sides = [
        {row.route: row for row in rows.routes(side, seconds=seconds or math.nan)}
        for side in (before, after)
    ]
    found = [
        Change(route=route, before=sides[0].get(route), after=sides[1].get(route))
        for route in sides[0].keys() | sides[1].keys()
    ]
    return sorted(found, key=lambda change: (-sum(change.requests), change.route))


def _read(place: str, token: str | None) -> Samples:
    if web.is_url(place):
        return web.scrape(place, token=token)
    try:
        text = Path(place).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = f"{place} cannot be read: {error}. Save a scrape: curl -s URL/metrics > before.txt"
        raise Failed(msg) from error
    return web.samples(text, place=place)


def _same_process(before: Samples, after: Samples) -> bool:
    """Whether one worker is in both: then what it counted before is in what it says after."""
    starts = [select(side, catalogue.PROCESS_START.name).items() for side in (before, after)]
    return bool(starts[0] & starts[1])


def _table(found: list[Change], *, rates: bool) -> Table:
    rate = ("req/s",) if rates else ()
    table = render.blank("Before → after", "route", "requests", *rate, "P50", "P95", "P99", "5xx")
    table.add_column("note")
    for change in found:
        one, two = change.before, change.after
        cells = [Text(f"{change.requests[0]:,.0f} → {change.requests[1]:,.0f}")]
        if rates:
            pair = [0.0 if side is None else side.rate for side in (one, two)]
            cells.append(Text(f"{pair[0]:.1f} → {pair[1]:.1f}") + _change(*pair, better="more"))
        for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
            was, now = (math.nan if side is None else getattr(side, name) for side in (one, two))
            cells.append(_quantile(was, now, change, q))
        cells.append(Text(render.NOTHING) if one is None or two is None else _errors(one, two))
        table.add_row(Text(change.route), *cells, _note(change))
    return table


def _quantile(was: float, now: float, change: Change, q: float) -> Text:
    if change.surely(q):
        return Text(f"{render.seconds(was)} → {render.seconds(now)}") + _change(was, now)
    enough = [n * (1 - q) >= BEYOND for n in change.requests]
    if not any(enough):
        return Text(render.NOTHING)
    # Of one side something can be said, though no change.
    one, two = (
        render.seconds(at if sure else math.nan)
        for at, sure in zip((was, now), enough, strict=True)
    )
    return Text(f"{one} → {two}")


def _change(was: float, now: float, *, better: str = "less") -> Text:
    if not was:
        return Text()
    share = now / was - 1
    style = "dim"
    if abs(share) >= NOTABLE:
        style = "bold green" if (share < 0) == (better == "less") else "bold red"
    return Text(f" {share:+.0%}", style=style)


def _errors(one: Route, two: Route) -> Text:
    was, now = (side.errors / side.requests for side in (one, two))
    text = Text(f"{was:.1%} → {now:.1%}", style="" if was or now else "dim")
    if was == now or min(one.requests, two.requests) < ENOUGH:
        return text
    return text + Text(f" {(now - was) * 100:+.1f} pp", style="bold red" if now > was else "green")


def _note(change: Change) -> str:
    if change.before is None or change.after is None:
        return f"only {'after' if change.before is None else 'before'}"
    if not change.surely(0.5):
        return "too few requests to say"
    unsure = [name for name, q in (("P95", 0.95), ("P99", 0.99)) if not change.surely(q)]
    return f"too few for {' and '.join(unsure)}" if unsure else ""
