"""Meters: catalogue metrics as live counters, gauges and histograms over rows of cells."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence
from dataclasses import dataclass
from math import isnan, nan
from time import time
from typing import Any, NamedTuple, Protocol, TypeVar

from fastobs import catalogue
from fastobs._contain import contain
from fastobs.catalogue import Metric

from .store import MemoryStore, Store

__all__ = ["Counter", "Exemplar", "Gauge", "Histogram", "Meters", "Reader", "Reading", "Row"]

OTHER = "_other"
"""What a label says when its metric has too many label sets."""

BOUNDED = frozenset(
    {
        catalogue.METHOD,
        catalogue.STATUS,
        catalogue.POOL_STATE,
        "outcome",
        "result",
        "source",
        "state",
    }
)
"""Labels that keep their value in the overflow series: they have few, and alerts read them."""


class Exemplar(NamedTuple):
    """One observation that leads to a trace."""

    trace_id: str
    span_id: str
    value: float
    at: float
    """Seconds since the epoch."""


class Row:
    """The cells of one label set."""

    __slots__ = ("at", "cells", "metric", "template", "values")
    width = 1

    def __init__(
        self,
        metric: Metric,
        values: tuple[str, ...],
        cells: MutableSequence[float],
        at: int,
    ) -> None:
        self.metric = metric
        self.values = values
        self.cells = cells
        self.at = at
        self.template: Any = None
        """The renderer's cache: this row's lines with holes for the numbers."""


class Counter(Row):
    """What only ever goes up."""

    __slots__ = ()

    def add(self, amount: float = 1.0) -> None:
        self.cells[self.at] += amount

    @property
    def value(self) -> float:
        return self.cells[self.at]


class Gauge(Row):
    """What goes up and down; NaN is "not there", and is not shown."""

    __slots__ = ()

    def add(self, amount: float) -> None:
        self.cells[self.at] += amount

    def set(self, value: float) -> None:
        self.cells[self.at] = value

    @property
    def value(self) -> float:
        return self.cells[self.at]

    @property
    def present(self) -> bool:
        return not isnan(self.cells[self.at])


class Histogram(Row):
    """A distribution: a cell per bucket, one for what is above them, one for the sum."""

    __slots__ = ("bounds", "exemplars", "sum_at")

    def __init__(
        self,
        metric: Metric,
        values: tuple[str, ...],
        cells: MutableSequence[float],
        at: int,
    ) -> None:
        super().__init__(metric, values, cells, at)
        self.bounds = metric.buckets
        self.sum_at = at + len(metric.buckets) + 1
        self.exemplars: list[Exemplar | None] | None = None

    def observe(self, value: float) -> None:
        # The index is worked out before the statement that must not be interrupted.
        at = self.at + bisect_left(self.bounds, value)
        self.cells[at] += 1.0
        at = self.sum_at
        self.cells[at] += value

    def remember(self, value: float, trace_id: str, span_id: str) -> None:
        """Keep the latest exemplar of the bucket that ``value`` falls into."""
        if self.exemplars is None:
            self.exemplars = [None] * (len(self.bounds) + 1)
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(trace_id, span_id, value, time())

    @property
    def buckets(self) -> list[float]:
        """Observations by bucket, not cumulated; the last is above all bounds."""
        return list(self.cells[self.at : self.sum_at])

    @property
    def count(self) -> float:
        return sum(self.cells[self.at : self.sum_at])

    @property
    def sum(self) -> float:
        return self.cells[self.sum_at]


KINDS: dict[str, type[Row]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe answers when it is asked: the value of one series now.

    For a counter the value is what the watched object counts; if it falls (a cache was cleared, an
    object replaced) the series goes on from where it was.
    """

    metric: Metric
    values: tuple[str, ...]
    value: float


class Reader(Protocol):
    """Something that can be asked for readings."""

    def read(self) -> Iterable[Reading]:
        """The readings now; called from the scrape's thread, and must not block."""
        ...


class Meters:
    """The live metrics of this process.

    Rows are found by dictionary look-up and written without a lock; only making one takes a lock.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or MemoryStore()
        self._rows: dict[str, dict[tuple[str, ...], Row]] = {
            name: {} for name in catalogue.CATALOGUE
        }
        self._lock = threading.Lock()
        self._readers: dict[Any, tuple[Reader, _Memory]] = {}
        for metric in ZERO_FROM_THE_START:
            self._row(metric, ("",) * len(metric.labels))

    def counter(self, metric: Metric, *values: str) -> Counter:
        """The counter of this label set."""
        return self._typed(Counter, metric, values)

    def gauge(self, metric: Metric, *values: str) -> Gauge:
        """The gauge of this label set."""
        return self._typed(Gauge, metric, values)

    def histogram(self, metric: Metric, *values: str) -> Histogram:
        """The histogram of this label set."""
        return self._typed(Histogram, metric, values)

    def rows(self, metric: Metric) -> list[Row]:
        """All rows of a metric, in the order in which they were first used."""
        return list(self._rows[metric.name].values())

    def __iter__(self) -> Iterator[tuple[Metric, list[Row]]]:
        for metric in catalogue.CATALOGUE.values():
            if rows := self.rows(metric):
                yield metric, rows

    def ask(self, reader: Reader) -> None:
        """Read from this probe whenever the metrics are shown."""
        self._readers[id(reader)] = (reader, _Memory())

    def forget(self, reader: Reader) -> None:
        """Ask this probe no more; its gauges disappear."""
        if (known := self._readers.pop(id(reader), None)) is not None:
            known[1].fade(keep=set())

    def refresh(self) -> None:
        """Ask every probe now."""
        for reader, memory in list(self._readers.values()):
            try:
                memory.take(self, reader.read())
            except Exception as error:
                contain(f"probe.{type(reader).__name__}", error)

    def _typed(self, kind: type[R], metric: Metric, values: tuple[str, ...]) -> R:
        row = self._rows[metric.name].get(values)
        if row is None:
            row = self._row(metric, values)
        if not isinstance(row, kind):
            msg = f"{metric.name} is a {metric.kind}, not a {kind.__name__.lower()}."
            raise TypeError(msg)
        return row

    def _row(self, metric: Metric, values: tuple[str, ...]) -> Row:
        if len(values) != len(metric.labels):
            msg = f"{metric.name} has the labels {metric.labels}; it was given {values}."
            raise ValueError(msg)
        rows = self._rows[metric.name]
        with self._lock:
            row = rows.get(values)
            if row is None and len(rows) >= metric.limit:
                values = tuple(
                    value if label in BOUNDED else OTHER
                    for label, value in zip(metric.labels, values, strict=True)
                )
                row = rows.get(values)
                self._overflowed(metric)
            if row is None:
                row = self._make(metric, values)
                rows[values] = row
        return row

    def _make(self, metric: Metric, values: tuple[str, ...]) -> Row:
        width = len(metric.buckets) + 2 if metric.kind == "histogram" else 1
        cells, at = self._store.claim(metric.name, values, width)
        return KINDS[metric.kind](metric, values, cells, at)

    def _overflowed(self, metric: Metric) -> None:
        rows = self._rows[catalogue.SELF_OVERFLOW.name]
        row = rows.get((metric.name,))
        if row is None:
            row = rows[(metric.name,)] = self._make(catalogue.SELF_OVERFLOW, (metric.name,))
        row.cells[row.at] += 1.0


class _Memory:
    """What a probe said last, so that counters never fall and absent gauges disappear."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], Gauge] = {}

    def take(self, meters: Meters, readings: Iterable[Reading]) -> None:
        seen = set()
        for reading in readings:
            key = (reading.metric.name, reading.values)
            if reading.metric.kind == "counter":
                before = self._counted.get(key, 0.0)
                grown = reading.value - before if reading.value >= before else reading.value
                meters.counter(reading.metric, *reading.values).add(grown)
                self._counted[key] = reading.value
            else:
                seen.add(key)
                gauge = meters.gauge(reading.metric, *reading.values)
                gauge.set(reading.value)
                self._gauges[key] = gauge
        self.fade(keep=seen)

    def fade(self, keep: set[tuple[str, tuple[str, ...]]]) -> None:
        for key in self._gauges.keys() - keep:
            self._gauges.pop(key).set(nan)


ZERO_FROM_THE_START = tuple(
    metric
    for metric in catalogue.CATALOGUE.values()
    if metric.kind == "counter" and not metric.labels and not metric.per_worker
)
