"""Meters: catalogue metrics as live counters, gauges and histograms over rows of cells."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812
from time import time
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from fastobs import catalogue
from fastobs._contain import contain
from fastobs.catalogue import Metric

from .store import EXEMPLAR_WIDTH, EXEMPLARS, NUMBERS, Key, MemoryStore, Place, Store, View

__all__ = [
    "Counter",
    "Exemplar",
    "Gauge",
    "Histogram",
    "Meters",
    "Reader",
    "Reading",
    "Row",
]

OTHER = "_other"
"""What a label says when its metric has too many label sets."""

BOUNDED = frozenset(
    {
        catalogue.METHOD,
        catalogue.STATUS,
        catalogue.POOL_STATE,
        "outcome",
        "result",
        "sent",
        "source",
        "state",
    }
)
"""Labels that keep their value in the overflow series: they have few, and alerts read them."""


WORDS = Struct(">6I")


class Exemplar(NamedTuple):
    """One observation that leads to a trace. Ids are hex, ``at`` is seconds since the epoch."""

    trace_id: str
    span_id: str
    value: float
    at: float

    @staticmethod
    def cells(trace: int, span: int, value: float, at: float) -> array[float]:
        words = WORDS.unpack(trace.to_bytes(16, "big") + span.to_bytes(8, "big"))
        return array("d", (*words, value, at, sum(words) + 1.0))

    @classmethod
    def read(cls, cells: Sequence[float]) -> Exemplar | None:
        """None for what is none, or is being written by another process just now."""
        if len(cells) != EXEMPLAR_WIDTH:
            return None
        *words, value, at, check = cells
        if check != sum(words) + 1.0:
            return None
        try:
            ids = WORDS.pack(*map(int, words)).hex()
        except (OverflowError, ValueError, StructError):
            return None
        return cls(ids[:32], ids[32:], value, at)


class Row:
    """The cells of one label set.

    Where they are may change once, when the process joins its siblings: so a statement that writes
    reads ``cells`` and ``at`` itself, and makes no call in between.
    """

    __slots__ = ("_store", "at", "cells", "metric", "shared", "template", "values")
    width = 1

    def __init__(self, metric: Metric, values: tuple[str, ...], store: Store) -> None:
        self.metric = metric
        self.values = values
        self.template: Any = None
        """The renderer's cache: this row's lines with holes for the numbers."""
        self._settle(store)

    def move(self, store: Store) -> None:
        """Go on in another store, and take along what was counted so far."""
        before = self.numbers(self.cells)
        old = self.cells
        self._settle(store)
        if old is not self.cells:
            self._carry(before)

    def begin_anew(self, store: Store) -> None:
        """Go on in another store from zero."""
        self._settle(store)

    def numbers(self, column: Sequence[float]) -> Sequence[float]:
        """This row's part of a column of cells."""
        return column[self.at : self.at + self.width]

    def is_shown(self, numbers: Sequence[float]) -> bool:  # noqa: ARG002 - gauges want them
        """Whether these numbers are a series, and not only room for one."""
        return True

    @property
    def exemplar_place(self) -> Place | None:
        """Where this row's exemplars are, if it has had some."""
        return None

    @property
    def exemplar_width(self) -> int:
        """How many cells they take."""
        return 0

    def _settle(self, store: Store) -> None:
        self._store = store
        place = store.claim(Key(self.metric.name, self.values), self.width, NUMBERS)
        self.cells: MutableSequence[float] = place.cells
        self.at = place.at
        self.shared = place.shared

    def _carry(self, numbers: Sequence[float]) -> None:
        for index, amount in enumerate(numbers):
            self.cells[self.at + index] += amount


class Counter(Row):
    """What only ever goes up."""

    __slots__ = ()

    def add(self, amount: float = 1.0) -> None:
        self.cells[self.at] += amount

    @property
    def value(self) -> float:
        return self.cells[self.at]


class Gauge(Row):
    """What goes up and down. Its second cell says whether it is there at all."""

    __slots__ = ()
    width = 2

    def add(self, amount: float) -> None:
        self.cells[self.at] += amount
        self.cells[self.at + 1] = 1.0

    def set(self, value: float) -> None:
        self.cells[self.at] = float(value)
        self.cells[self.at + 1] = 1.0

    def begin_anew(self, store: Store) -> None:
        """In a forked child nothing is under way; what was measured has to be measured again."""
        counts = self.present and not self.metric.per_worker
        super().begin_anew(store)
        if counts and self.metric.merge == "sum":
            self.set(0.0)

    def hide(self) -> None:
        """What it measured is gone; it is not shown until it is set again."""
        self.cells[self.at + 1] = 0.0

    @property
    def value(self) -> float:
        return self.cells[self.at]

    @property
    def present(self) -> bool:
        return self.cells[self.at + 1] != 0.0

    def is_shown(self, numbers: Sequence[float]) -> bool:
        return numbers[1] != 0.0


class Histogram(Row):
    """A distribution: a cell per bucket, one for what is above them, one for the sum."""

    __slots__ = ("_exemplars", "bounds", "last", "marks", "width")
    width: int

    def __init__(self, metric: Metric, values: tuple[str, ...], store: Store) -> None:
        self.bounds = metric.buckets
        self.width = len(metric.buckets) + 2
        self.last = len(metric.buckets) + 1
        """The cell of the sum."""
        self._exemplars: Place | None = None
        self.marks: tuple[list[float], list[str]] = [], []
        """The renderer's other cache: of each bucket, the time of the latest exemplar and its text."""
        super().__init__(metric, values, store)

    def observe(self, value: float) -> None:
        index = bisect_left(self.bounds, value)
        self.cells[self.at + index] += 1.0
        self.cells[self.at + self.last] += value

    def remember(self, value: float, trace: int, span: int) -> None:
        """Keep this as the latest exemplar of the bucket that ``value`` falls into."""
        if self._exemplars is None:
            key = Key(self.metric.name, self.values)
            self._exemplars = self._store.claim(key, self.exemplar_width, EXEMPLARS)
        cells, at, _ = self._exemplars
        at += bisect_left(self.bounds, value) * EXEMPLAR_WIDTH
        cells[at : at + EXEMPLAR_WIDTH] = Exemplar.cells(trace, span, value, time())

    @property
    def exemplar_place(self) -> Place | None:
        return self._exemplars

    @property
    def exemplar_width(self) -> int:
        return (len(self.bounds) + 1) * EXEMPLAR_WIDTH

    @property
    def buckets(self) -> list[float]:
        """Observations by bucket, not cumulated; the last is above all bounds."""
        return list(self.cells[self.at : self.at + self.last])

    @property
    def count(self) -> float:
        return sum(self.buckets, 0.0)

    @property
    def sum(self) -> float:
        return self.cells[self.at + self.last]

    def _settle(self, store: Store) -> None:
        self._exemplars = None
        super()._settle(store)


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
        self._store: Store = store or MemoryStore()
        self._rows: dict[str, dict[tuple[str, ...], Row]] = {
            name: {} for name in catalogue.CATALOGUE
        }
        self._lock = threading.RLock()
        self._asking = threading.RLock()
        self._readers: dict[Any, tuple[Reader, _Memory]] = {}
        self._memories: WeakKeyDictionary[Reader, _Memory] = WeakKeyDictionary()
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

    def view(self) -> View:
        """All numbers now, of this process and its siblings."""
        self.hear()
        return self._store.view()

    def hear(self) -> None:
        """Have the rows that siblings have made, too."""
        for key in self._store.strangers():
            metric = catalogue.CATALOGUE.get(key.metric)
            if metric is not None and len(key.values) == len(metric.labels):
                self._row(metric, key.values)

    def move(self, store: Store) -> None:
        """Go on in another store; nothing that was counted is lost."""
        with self._lock:
            self._store = store
            for rows in self._rows.values():
                for row in rows.values():
                    row.move(store)

    def begin_anew(self, store: Store) -> None:
        """Go on in another store from zero: in a forked child, what was counted is the parent's."""
        self._lock = threading.RLock()
        self._asking = threading.RLock()
        self._store = store
        for rows in self._rows.values():
            for row in rows.values():
                row.begin_anew(store)

    def ask(self, reader: Reader) -> None:
        """Read from this probe whenever the metrics are shown.

        What it has counted already, it may have said before: then only what came since is added.
        """
        memory = self._memories.setdefault(reader, _Memory())
        self._readers[id(reader)] = (reader, memory)

    def forget(self, reader: Reader) -> None:
        """Ask this probe no more; its gauges disappear."""
        if (known := self._readers.pop(id(reader), None)) is not None:
            known[1].fade(keep=set())

    def refresh(self) -> None:
        """Ask every probe now."""
        # Who was asked first and told last would seem to have begun at zero, and be counted again.
        with self._asking:
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
                row = rows[values] = KINDS[metric.kind](metric, values, self._store)
        return row

    def _overflowed(self, metric: Metric) -> None:
        self.counter(catalogue.SELF_OVERFLOW, metric.name).add()


class _Memory:
    """What a probe said last, so that counters never fall and absent gauges disappear."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], Gauge] = {}

    def take(self, meters: Meters, readings: Iterable[Reading]) -> None:
        seen = set()
        # Above a metric's limit, several are one.
        together: dict[Gauge, float] = {}
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
                value = reading.value
                if (others := together.get(gauge)) is not None:
                    value = max(value, others) if reading.metric.merge == "max" else value + others
                together[gauge] = value
                gauge.set(value)
                self._gauges[key] = gauge
        self.fade(keep=seen)

    def fade(self, keep: set[tuple[str, tuple[str, ...]]]) -> None:
        gone = {self._gauges.pop(key) for key in self._gauges.keys() - keep}
        for gauge in gone.difference(self._gauges.values()):
            gauge.hide()


ZERO_FROM_THE_START = tuple(
    metric
    for metric in catalogue.CATALOGUE.values()
    if metric.kind == "counter" and not metric.labels and not metric.per_worker
)
