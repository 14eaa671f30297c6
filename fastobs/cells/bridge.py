"""prometheus_client at both ends: our cells as its collector, its users' metrics in our exposition."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from fastobs import catalogue

from .meters import Histogram, Meters, Row

__all__ = ["CellsCollector", "foreign", "write"]

_ours = threading.local()
"""Set while we render, so that our own collector stays silent and nothing is shown twice."""


class CellsCollector(Collector):
    """The cells as a collector of prometheus_client, for apps that have an endpoint of their own.

    The process metrics are left out: prometheus_client's own registry has them.
    """

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def describe(self) -> Iterable[Family]:
        # Otherwise the registry would collect once at registration, before the probes are ready.
        return []

    def collect(self) -> Iterator[Family]:
        if getattr(_ours, "rendering", False):
            return
        self._meters.refresh()
        view = self._meters.view()
        for metric, rows in self._meters:
            if not metric.name.startswith("process_"):
                family = Family(metric.name.removesuffix("_total"), metric.help, metric.kind)
                for row in rows:
                    for worker, numbers in view.numbers(row):
                        _add(family, row, worker, numbers)
                yield family


def foreign(registry: CollectorRegistry) -> list[Family]:
    """What else is in the registry: the user's own metrics."""
    _ours.rendering = True
    try:
        return [
            family
            for family in registry.collect()
            if family.name not in catalogue.CATALOGUE
            and f"{family.name}_total" not in catalogue.CATALOGUE
        ]
    finally:
        _ours.rendering = False


def write(families: list[Family], *, openmetrics: bool) -> str:
    """Families in one of the text formats, by prometheus_client, without ``# EOF``."""
    generate = generate_openmetrics if openmetrics else generate_latest
    return generate(_Families(families)).decode().removesuffix("# EOF\n")


class _Families(CollectorRegistry):
    """Families that were collected already, in the shape that the renderers ask for."""

    def __init__(self, families: list[Family]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Family]:
        return iter(self._families)


def _add(family: Family, row: Row, worker: str, numbers: Sequence[float]) -> None:
    metric = row.metric
    labels: dict[str, Any] = dict(zip(metric.labels, row.values, strict=True))
    if metric.per_worker:
        labels["worker"] = worker
    if isinstance(row, Histogram):
        cumulated = list(accumulate(numbers[:-1]))
        bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
        for le, count in zip(bounds, cumulated, strict=True):
            family.add_sample(f"{metric.name}_bucket", {**labels, "le": le}, count)
        family.add_sample(f"{metric.name}_count", labels, cumulated[-1])
        family.add_sample(f"{metric.name}_sum", labels, numbers[-1])
    else:
        family.add_sample(metric.name, labels, numbers[0])
