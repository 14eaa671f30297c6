"""What a scrape costs: the duration histogram with many label sets, ours and prometheus_client's."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import process_time

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as theirs_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fastobs import catalogue
from fastobs._endpoint import exposition, zipped
from fastobs.cells import Meters
from fastobs.cells.render import render

__all__ = ["Scrape", "time_scrapes"]

METRIC = catalogue.HTTP_DURATION

generate_openmetrics: Callable[[CollectorRegistry], bytes] = theirs_openmetrics.generate_latest


@dataclass(frozen=True, slots=True)
class Scrape:
    """One way to answer, by both: milliseconds and bytes."""

    title: str
    ours: float
    theirs: float
    ours_bytes: int
    theirs_bytes: int


def time_scrapes(label_sets: int, *, repeats: int) -> list[dict[str, object]]:
    """Render the same observations with both, in turn."""
    meters, registry = Meters(), CollectorRegistry()
    names = tuple(METRIC.labels)
    theirs = Histogram(METRIC.name, METRIC.help, names, buckets=METRIC.buckets, registry=registry)
    chance = random.Random(1)
    for number in range(label_sets):
        values = ("GET", f"/items/{{item_id}}/{number}", "200", "")
        ours = meters.histogram(METRIC, *values)
        child = theirs.labels(*values)
        for _ in range(100):
            seconds = chance.lognormvariate(-3, 1.5)
            ours.observe(seconds)
            child.observe(seconds)
    _same(meters, registry)

    def plain() -> bytes:
        return b"".join(exposition(meters, list, openmetrics=False))

    def openmetrics() -> bytes:
        return b"".join(exposition(meters, list, openmetrics=True))

    return [
        asdict(_compare(title, mine, yours, repeats))
        for title, mine, yours in (
            ("text", plain, lambda: generate_latest(registry)),
            ("OpenMetrics", openmetrics, lambda: generate_openmetrics(registry)),
            (
                "text, gzip (ours level 1, theirs 9)",
                lambda: zipped(exposition(meters, list, openmetrics=False)),
                lambda: gzip.compress(generate_latest(registry)),
            ),
        )
    ]


def _same(meters: Meters, registry: CollectorRegistry) -> None:
    """Both say the same, or the comparison means nothing."""
    ours, theirs = (
        {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            if family.name == METRIC.name
            for sample in family.samples
            if not sample.name.endswith(("_sum", "_created"))
        }
        for text in (
            "".join(render(meters, openmetrics=False)),
            generate_latest(registry).decode(),
        )
    )
    if ours != theirs:
        msg = "fastobs and prometheus_client do not show the same numbers."
        raise RuntimeError(msg)


def _compare(
    title: str, ours: Callable[[], bytes], theirs: Callable[[], bytes], repeats: int
) -> Scrape:
    mine, yours = [], []
    for _ in range(repeats):
        mine.append(_took(ours))
        yours.append(_took(theirs))
    return Scrape(title, median(mine), median(yours), len(ours()), len(theirs()))


def _took(answer: Callable[[], bytes]) -> float:
    started = process_time()
    answer()
    return (process_time() - started) * 1e3
