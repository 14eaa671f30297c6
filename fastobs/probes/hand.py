"""Probes for what nobody can find by itself: caches and limiters written by hand."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from time import perf_counter
from typing import TypeVar

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._decisions import Limit
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram

from ._names import Label
from ._never import Judge

__all__ = ["CacheProbe", "LimiterProbe", "Load"]

T = TypeVar("T")

LIMITS = 100
"""Limits of one limiter whose rows are remembered; who has more makes them from data."""


class CacheProbe:
    """Counts what a cache does; it keeps nothing itself.

    ``value = probe(store.get(key))`` counts a hit or a miss and hands the value on.

    Args:
        label: The label ``cache``.
        meters: Asked at the first event, so that a probe may be made before the app.
        tell: Takes a line of the log.
    """

    def __init__(
        self,
        label: Label,
        meters: Callable[[], Meters],
        tell: Callable[[tuple[str, dict[str, object]]], None],
    ) -> None:
        self._label = label
        self._meters = meters
        self._judge = Judge(label.name, tell)
        # A place for each that loads. Threads come and go, and without a lock nobody waits for one that a
        # fork has left locked.
        self._loading: dict[Hashable, list[None]] = {}

    def __call__(self, value: T, *, missing: object = None) -> T:
        """Count a look-up that gave ``value``; it missed if that is the value for missing."""
        try:
            rows = self._rows
            (rows.misses if value is missing else rows.hits).add()
        except Exception as error:
            contain("probes.hand", error)
        return value

    def hit(self, count: int = 1) -> None:
        """So many look-ups found something."""
        try:
            self._rows.hits.add(count)
        except Exception as error:
            contain("probes.hand", error)

    def miss(self, count: int = 1) -> None:
        """So many look-ups found nothing."""
        try:
            self._rows.misses.add(count)
        except Exception as error:
            contain("probes.hand", error)

    def error(self, count: int = 1) -> None:
        """So many look-ups failed; that is neither a hit nor a miss."""
        try:
            self._rows.errors.add(count)
        except Exception as error:
            contain("probes.hand", error)

    def evict(self, count: int = 1) -> None:
        """So many entries had to make room for others."""
        try:
            self._rows.evictions.add(count)
        except Exception as error:
            contain("probes.hand", error)

    def load(self, key: Hashable = None) -> Load:
        """Time the loading of a value: ``with`` or ``async with``.

        Args:
            key: What is loaded. If it is being loaded already, in this process, that is a stampede.
        """
        return Load(self, key)

    @cached_property
    def _rows(self) -> _Rows:
        return _Rows(self._meters(), self._label.name)


class _Rows:
    """All series of one cache, so that they exist from its first event."""

    def __init__(self, meters: Meters, name: str) -> None:
        self.hits, self.misses, self.errors = (
            meters.counter(catalogue.CACHE_REQUESTS, name, result)
            for result in ("hit", "miss", "error")
        )
        self.evictions = meters.counter(catalogue.CACHE_EVICTIONS, name)
        self.loads: Histogram = meters.histogram(catalogue.CACHE_LOAD, name)
        self.stampedes = meters.counter(catalogue.CACHE_STAMPEDES, name)


class Load:
    """One loading of a value."""

    __slots__ = ("_beside", "_key", "_probe", "_started")

    def __init__(self, probe: CacheProbe, key: Hashable) -> None:
        self._probe = probe
        self._key = key
        self._beside: list[None] = []
        self._started = 0.0

    def __enter__(self) -> None:
        try:
            self._begin()
        except Exception as error:
            contain("probes.hand", error)

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        except Exception as error:
            contain("probes.hand", error)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _begin(self) -> None:
        self._started = perf_counter()
        if self._key is not None:
            self._beside = beside = self._probe._loading.setdefault(self._key, [])
            if beside:
                self._probe._rows.stampedes.add()
            beside.append(None)

    def _end(self) -> None:
        probe = self._probe
        rows = probe._rows
        rows.loads.observe(perf_counter() - self._started)
        if not probe._judge.over:
            probe._judge.look(rows.hits, rows.misses)
        if self._key is not None:
            self._beside.pop()
            if not self._beside:
                # Who has come since then is not seen by the next one, at worst.
                probe._loading.pop(self._key, None)


class LimiterProbe:
    """Counts what a rate limiter decides.

    Args:
        label: The label ``limiter``.
        meters: Asked at the first event, so that a probe may be made before the app.
    """

    def __init__(self, label: Label, meters: Callable[[], Meters]) -> None:
        self._label = label
        self._ask = meters
        self._limits: dict[str, Limit] = {}

    def decision(
        self,
        allowed: T,
        *,
        limit: object = "",
        remaining: float | None = None,  # noqa: ARG002 - for findings; a series per caller would be too many
    ) -> T:
        """Count a decision and hand it on: ``if not probe.decision(used < most): ...``.

        Args:
            allowed: What was decided; true if the request may pass.
            limit: What was checked, like ``"5 per minute"``; one of few, never made from data.
            remaining: How many more the caller may send.
        """
        try:
            text = limit if type(limit) is str else str(limit)
            try:
                known = self._limits[text]
            except KeyError:
                known = self._limit(text)
            known.decide("allowed" if allowed else "limited")
        except Exception as error:
            contain("probes.hand", error)
        return allowed

    def _limit(self, text: str) -> Limit:
        limit = Limit(self._meters, self._label.name, text)
        if len(self._limits) < LIMITS:
            self._limits[text] = limit
        return limit

    @cached_property
    def _meters(self) -> Meters:
        return self._ask()
