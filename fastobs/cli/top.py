"""``fastobs top``: what a service does now, from two scrapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastobs import catalogue

from . import render, rows, web
from .exposition import ALL, Histogram, Samples, fallen, histograms, increase, live_workers, total
from .failure import Failed

__all__ = ["Look", "screen", "top"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One scrape, and when it was answered, in seconds of some clock."""

    samples: Samples
    at: float


def top(
    url: Annotated[str, typer.Argument(help="The service, or its page of metrics.")],
    *,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two scrapes.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, and end.")] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FASTOBS_METRICS_TOKEN", show_default=False, help="The service's metrics.token."
        ),
    ] = None,
) -> None:
    """Show live what a service does: routes, pools, caches, limits, event loop."""
    where = web.metrics_url(url)

    def look() -> Look:
        found = web.scrape(where, token=token)
        return Look(samples=found, at=monotonic())

    console = render.console()
    before = look()
    if once:
        time.sleep(interval)
        console.print(screen(where, before, look()))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        live.update(Text(f"{where}: the first numbers come after {interval:g} s."), refresh=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(interval)
                try:
                    after = look()
                    live.update(screen(where, before, after), refresh=True)
                    before = after
                except Failed as error:
                    # A service that is deployed anew comes back.
                    live.update(Text(str(error), style="bold red"), refresh=True)
                    with suppress(Failed):
                        before = look()


def screen(where: str, before: Look, after: Look) -> RenderableType:
    """Everything worth seeing of the time between two looks.

    Raises:
        Failed: The numbers of the two are not of one service, or it started anew between them.
    """
    if names := fallen(before.samples, after.samples):
        msg = (
            f"{names[0]} fell between two scrapes of {where}, so nothing can be said of the time "
            "between. Either the service was started anew, or its workers do not share their "
            "numbers: see fastobs doctor."
        )
        raise Failed(msg)
    gained = increase({ALL: before.samples}, {ALL: after.samples})
    seconds = after.at - before.at
    routes = rows.routes(gained, seconds=seconds)
    tables = (
        render.levels(rows.levels(after.samples, gained)),
        render.caches(rows.caches(gained)),
        render.limits(rows.limits(gained)),
        render.blocks(rows.blocks(gained)),
    )
    asked: RenderableType = render.routes(routes) if routes else Text("No route was asked.")
    head = Text(" · ".join([where, *_summary(after.samples, gained, routes, seconds)]))
    return Group(head, Text(), asked, *_spaced(tables))


def _summary(
    now: Samples, gained: Samples, routes: list[rows.Route], seconds: float
) -> Iterator[str]:
    yield f"last {seconds:.1f} s"
    if workers := live_workers(now):
        yield f"{workers} {'worker' if workers == 1 else 'workers'}"
    yield f"{sum(row.requests for row in routes) / seconds:.1f} req/s"
    yield f"{sum(total(now, catalogue.HTTP_ACTIVE.name).values()):.0f} in flight"
    lag = histograms(gained, catalogue.LOOP_LAG).get((), Histogram({}))
    yield f"loop lag P99 {render.seconds(lag.quantile(0.99))}"


def _spaced(tables: tuple[Table, ...]) -> Iterator[RenderableType]:
    for table in tables:
        if table.row_count:
            yield Text()
            yield table
