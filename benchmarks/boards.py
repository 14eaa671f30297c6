"""`python -m benchmarks.boards`: how long Prometheus works on a board that shows an hour of the shop.

The shop runs under load for a moment; what it shows before and after is stretched to an hour of scrapes, in a
database that Prometheus then serves. A board's queries are asked one after the other, which is longer than
Grafana takes, and each round is asked anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import cpu_count, getloadavg
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dashboards.expressions import Expression, expressions
from examples.running import under_load
from fastobs.promql import SCRAPE_DURATION, SCRAPE_SAMPLES, UP
from tests import parts
from tests.parts.process import own_folder
from tests.parts.programs import MissingPart

__all__ = ["an_hour", "samples_of", "seconds_of"]

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_suffix(".md")
PROGRAMS = ("prometheus", "prometheus-3")
HOUR = 3600
SCRAPE = 15
"""Seconds between scrapes, and between the points of a graph: what most services have."""
WINDOW = f"{4 * SCRAPE}s"
"""What Grafana makes of its rate interval then."""
ROUNDS = 3

Series = tuple[str, str]
"""A name, and the labels as they are written."""


@contextmanager
def an_hour(*, users: int = 10, seconds: int = 20) -> Iterator[tuple[Path, float]]:
    """A database with an hour of the shop under load, and the moment at which it ends.

    Prometheus writes into the database that it serves: one at a time.
    """
    with own_folder("hour") as folder:
        before, after = _shown(folder, users=users, seconds=seconds)
        end = float(int(time.time()) // SCRAPE * SCRAPE)
        samples = folder / "hour.om"
        with samples.open("w") as file:
            file.writelines(_lines(before, after, end))
        data = folder / "data"
        parts.promtool("tsdb", "create-blocks-from", "openmetrics", samples, data)
        yield data, end


def seconds_of(prometheus: parts.Prometheus, board: str, end: float) -> float:
    """What all queries of a board take together; the middle one of a few rounds."""
    asked = [each for each in expressions(window=WINDOW) if each.board == board]
    return median(sum(_took(prometheus, each, end) for each in asked) for _ in range(ROUNDS))


def samples_of(prometheus: parts.Prometheus, board: str, end: float) -> int:
    """How many samples all queries of a board read: its work, whatever else the machine has to do."""
    return sum(
        _stats(prometheus, each, end)["samples"]["totalQueryableSamples"]
        for each in expressions(window=WINDOW)
        if each.board == board
    )


def _took(prometheus: parts.Prometheus, asked: Expression, end: float) -> float:
    """By Prometheus' own watch: what reading its answer takes us is not its work."""
    seconds: float = _stats(prometheus, asked, end)["timings"]["execTotalTime"]
    return seconds


def _stats(prometheus: parts.Prometheus, asked: Expression, end: float) -> dict[str, Any]:
    span = {"start": end - HOUR, "end": end, "step": SCRAPE}
    path, moments = ("query", {"time": end}) if asked.instant else ("query_range", span)
    answer = prometheus.api(path, query=asked.expr, stats="all", **moments)
    stats: dict[str, Any] = answer["stats"]
    return stats


def _shown(
    folder: Path, *, users: int, seconds: int
) -> tuple[dict[Series, float], dict[Series, float]]:
    environment = {
        "SHOP_DATABASE_URL": f"sqlite:///{folder}/shop.db",
        "FASTOBS_WORKERS_DIRECTORY": str(folder),
    }
    with parts.serve(
        "examples.shop.app:app", workers=2, env=environment, ready="/_fastobs/readyz"
    ) as shop:
        before = _scraped(shop)
        under_load(shop.url, users=users, seconds=seconds)
        return before, _scraped(shop)


def _scraped(shop: parts.Server) -> dict[Series, float]:
    found = {
        (sample.name, _labels(sample.labels)): sample.value
        for family in text_string_to_metric_families(shop.get("/metrics").body)
        for sample in family.samples
    }
    own = {UP.name: 1.0, SCRAPE_DURATION.name: 0.01, SCRAPE_SAMPLES.name: float(len(found))}
    return {**found, **{(name, _labels({})): value for name, value in own.items()}}


def _labels(labels: dict[str, str]) -> str:
    here = {"job": "shop", "instance": "127.0.0.1:8000", **labels}
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in here.items()
    }
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


def _lines(before: dict[Series, float], after: dict[Series, float], end: float) -> Iterator[str]:
    """Every series of the end, from what it was at the begin (a new one from nothing) in even steps."""
    steps = HOUR // SCRAPE
    for (name, labels), last in after.items():
        first = before.get((name, labels), 0.0)
        for step in range(steps + 1):
            value = first + (last - first) * step / steps
            yield f"{name}{{{labels}}} {value!r} {end - HOUR + step * SCRAPE:.0f}\n"
    yield "# EOF\n"


def main() -> None:
    """Measure every board on every Prometheus that is here, and write the page."""
    names = list(dict.fromkeys(each.board for each in expressions(window=WINDOW)))
    measured: dict[str, dict[str, float]] = {}
    read: dict[str, dict[str, int]] = {}
    with an_hour() as (data, end):
        for program in PROGRAMS:
            try:
                with parts.prometheus(program=program, data=data) as prometheus:
                    series = len(prometheus.api("series", **{"match[]": '{job="shop"}'}))
                    measured[program] = {name: seconds_of(prometheus, name, end) for name in names}
                    read[program] = {name: samples_of(prometheus, name, end) for name in names}
            except MissingPart as missing:
                print(missing)
    PAGE.write_text("\n".join(_page(names, measured, read, series)) + "\n")
    print(PAGE.read_text())


def _page(
    names: list[str],
    measured: dict[str, dict[str, float]],
    read: dict[str, dict[str, int]],
    series: int,
) -> Iterator[str]:
    yield "<!-- Made by `python -m benchmarks.boards`; do not edit. -->"
    yield "# What a board costs Prometheus"
    yield ""
    yield f"An hour of the shop with two workers, {series} series, a scrape every {SCRAPE} s. All queries of a board one"
    yield f"after the other, the median of {ROUNDS} rounds, on {cpu_count()} processors that had other work, too."
    yield "Given is the time that Prometheus says it worked; writing, sending and reading the answers is not in it."
    yield f"The machine's load average was {getloadavg()[0]:.0f}. The overview's budget is 0.5 s; what is read does not depend on the"
    yield "machine, and `make test` holds the overview to it."
    yield "Counters rise evenly, and there are no recorded series and no alerts: panels that show those cost nothing here."
    yield ""
    yield f"| board | {' | '.join(measured)} |"
    yield f"|---|{'---|' * len(measured)}"
    for name in names:
        cells = (
            f"{1000 * times[name]:.0f} ms, {read[program][name] / 1e6:.1f} million samples"
            for program, times in measured.items()
        )
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
