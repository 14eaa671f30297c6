"""Samples of ``/metrics``: parsed, compared over time, added over workers. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

from fastobs import catalogue
from fastobs.catalogue import Metric

Labels = frozenset[tuple[str, str]]
Samples = Mapping[str, Mapping[Labels, float]]
"""Values by sample name and labels, as they stand in one scrape."""
Workers = Mapping[str, Samples]
"""One scrape of each worker, or of all of them at once under `ALL`."""

ALL = "all workers"


def parse(text: str) -> Samples:
    """The samples of a scrape in the Prometheus text format."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][frozenset(sample.labels.items())] = sample.value
    return dict(samples)


def live_workers(samples: Samples) -> int:
    """How many workers this scrape speaks for; 0 when it does not say."""
    return int(sum(select(samples, catalogue.WORKERS.name, state="live").values()))


def gather(ask: Callable[[], tuple[str, Samples]], *, workers: int, tries: int = 200) -> Workers:
    """Ask until every worker has answered once.

    Args:
        ask: Scrapes whichever worker accepts; returns who that was, and what it said.
        workers: How many there are. When one scrape speaks for all of them, one is enough.
        tries: Questions after which it is given up.

    Raises:
        LookupError: Some worker never answered.
    """
    seen: dict[str, Samples] = {}
    for _ in range(tries):
        worker, samples = ask()
        if live_workers(samples) >= workers:
            return {ALL: samples}
        seen[worker] = samples
        if len(seen) >= workers:
            return seen
    msg = f"Only {len(seen)} of {workers} workers answered /metrics in {tries} tries."
    raise LookupError(msg)


def increase(before: Workers, after: Workers) -> Samples:
    """What every sample gained in each worker, added up.

    A worker that was not there before started from zero, and so did a counter that fell. Of use
    for counters and histograms only.
    """
    gained: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    for worker, samples in after.items():
        earlier = before.get(worker, {})
        for name, values in samples.items():
            known = earlier.get(name, {})
            for labels, value in values.items():
                start = known.get(labels, 0.0)
                gained[name][labels] += value - start if value >= start else value
    return {name: dict(values) for name, values in gained.items()}


def fallen(before: Samples, after: Samples) -> list[str]:
    """The names of counters and histograms of the whole service that fell or vanished.

    What they gained is not known then: the service started anew, or another worker answered, which
    does not know of the first.
    """
    return sorted(
        {
            name
            for metric in catalogue.CATALOGUE.values()
            if metric.kind != "gauge" and not metric.per_worker
            for name in _sample_names(metric)
            for labels, value in before.get(name, {}).items()
            if after.get(name, {}).get(labels, 0.0) < value
        }
    )


def select(samples: Samples, name: str, **where: str) -> dict[Labels, float]:
    """The samples with this name and these labels."""
    wanted = where.items()
    return {
        labels: value for labels, value in samples.get(name, {}).items() if wanted <= set(labels)
    }


def total(samples: Samples, name: str, *by: str, **where: str) -> dict[tuple[str, ...], float]:
    """Sums by the values of some labels; a label that is absent is ``""``, as in PromQL."""
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for labels, value in select(samples, name, **where).items():
        sums[_key(labels, by)] += value
    return dict(sums)


class Histogram:
    """Cumulative counts by upper bound."""

    def __init__(self, buckets: Mapping[float, float]) -> None:
        self._buckets = sorted(buckets.items())

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return iter(self._buckets)

    @property
    def count(self) -> float:
        return self._buckets[-1][1] if self._buckets else 0.0

    def quantile(self, q: float) -> float:
        """As Prometheus's ``histogram_quantile``: linear inside the bucket, NaN when empty.

        Beyond the last finite bound nothing is known, hence that bound is the answer.
        """
        if not self.count:
            return math.nan
        rank = q * self.count
        lower, below = 0.0, 0.0
        for upper, cumulative in self._buckets:
            if cumulative >= rank:
                if math.isinf(upper):
                    return lower
                inside = cumulative - below
                return lower + (upper - lower) * ((rank - below) / inside if inside else 0.0)
            lower, below = upper, cumulative
        return lower


def histograms(
    samples: Samples, metric: Metric, *by: str, **where: str
) -> dict[tuple[str, ...], Histogram]:
    """One histogram for each combination of label values, the others added up."""
    buckets: dict[tuple[str, ...], dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for labels, value in select(samples, f"{metric.name}_bucket", **where).items():
        buckets[_key(labels, by)][float(dict(labels)["le"])] += value
    return {key: Histogram(counts) for key, counts in buckets.items()}


def _sample_names(metric: Metric) -> tuple[str, ...]:
    if metric.kind == "histogram":
        return (f"{metric.name}_bucket", f"{metric.name}_count", f"{metric.name}_sum")
    return (metric.name,)


def _key(labels: Labels, by: Iterable[str]) -> tuple[str, ...]:
    values = dict(labels)
    return tuple(values.get(name, "") for name in by)
