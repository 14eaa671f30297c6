"""The users' own prometheus_client metrics, carried to whichever worker is asked.

prometheus_client keeps them in the memory of each process. Each worker writes its own into its slot
now and then; the one that is asked adds them up. Counters, histograms and summaries are sums over all
workers that ever were; gauges and the like are shown of each live worker, with the label ``worker``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family

from .bridge import foreign
from .slots import is_live, numbers

__all__ = ["Carry"]

SUMMED = frozenset({"counter", "histogram", "summary"})
Sample = tuple[str, tuple[tuple[str, str], ...], float]


class Plain:
    """A family as it is written: name, type, help, samples."""

    __slots__ = ("help", "kind", "name", "samples")

    def __init__(self, name: str, kind: str, text: str, samples: list[Sample]) -> None:
        self.name = name
        self.kind = kind
        self.help = text
        self.samples = samples


class Carry:
    """This worker's part of the users' metrics, and the sum of all."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._folder: Path | None = None
        self._slot = 0
        self._before: list[Plain] = []
        self._left_out: Callable[[str], None] = _ignore
        self._lock = threading.Lock()

    def enter(self, folder: Path, slot: int, left_out: Callable[[str], None]) -> None:
        """Share from now on; go on where the slot's last owner stopped.

        Args:
            folder: Where siblings are.
            slot: This worker's.
            left_out: Told what could not be read.
        """
        self._folder, self._slot, self._left_out = folder, slot, left_out
        self._before = [one for one in self._read(slot) if one.kind in SUMMED]

    def leave(self) -> None:
        """Share no more."""
        self._folder = None
        self._before = []
        # A forked child may have been made while its parent wrote.
        self._lock = threading.Lock()

    def publish(self) -> None:
        """Write this worker's part, in one step.

        Raises:
            OSError: There is no room.
        """
        with self._lock:
            if self._folder is None:
                return
            path = self._path(self._slot)
            # Nobody else writes to this slot, and whoever dies meanwhile leaves no further file.
            new = path.with_suffix(".new")
            data = [[one.name, one.kind, one.help, one.samples] for one in self._own()]
            if data or path.exists():
                new.write_text(json.dumps(data))
                new.replace(path)

    def families(self) -> list[Family]:
        """The users' metrics of all workers; of this one alone if there are no others."""
        if self._folder is None:
            return foreign(self._registry)
        whole = _Whole()
        whole.take(self._own(), str(self._slot), live=True)
        for slot in numbers(self._folder):
            if slot != self._slot and (found := self._read(slot)):
                whole.take(found, str(slot), live=is_live(self._folder, slot))
        return list(whole.families())

    def _own(self) -> list[Plain]:
        whole = _Whole()
        whole.take(self._before, "", live=False)
        now = [
            Plain(
                family.name,
                family.type,
                family.documentation,
                [
                    (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
                    for sample in family.samples
                ],
            )
            for family in foreign(self._registry)
        ]
        whole.take([one for one in now if one.kind in SUMMED], "", live=True)
        return [*whole.plain(), *(one for one in now if one.kind not in SUMMED)]

    def _read(self, slot: int) -> list[Plain]:
        path = self._path(slot)
        try:
            return _parse(path.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError):
            # Not by us, or not whole: the others are still worth showing.
            self._left_out(f"{path.name} is damaged")
            return []

    def _path(self, slot: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{slot}.users"


class _Whole:
    """Families of several workers, put together."""

    def __init__(self) -> None:
        self._heads: dict[str, tuple[str, str]] = {}
        self._samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def take(self, found: Iterable[Plain], worker: str, *, live: bool) -> None:
        for one in found:
            summed = one.kind in SUMMED
            if not summed and not live:
                continue
            self._heads.setdefault(one.name, (one.kind, one.help))
            samples = self._samples.setdefault(one.name, {})
            for name, labels, value in one.samples:
                if name.endswith("_created"):
                    continue
                key = (name, labels if summed else (*labels, ("worker", worker)))
                samples[key] = samples.get(key, 0.0) + value if summed else value

    def plain(self) -> Iterator[Plain]:
        for name, (kind, text) in self._heads.items():
            samples = [(*key, value) for key, value in self._samples[name].items()]
            yield Plain(name, kind, text, samples)

    def families(self) -> Iterator[Family]:
        for one in self.plain():
            family = Family(one.name, one.help, one.kind)
            for name, labels, value in one.samples:
                family.add_sample(name, dict(labels), value)
            yield family


def _parse(text: str) -> list[Plain]:
    data: Any = json.loads(text)
    return [
        Plain(
            name,
            kind,
            about,
            [
                (sample, tuple((label, of) for label, of in labels), float(value))
                for sample, labels, value in samples
            ],
        )
        for name, kind, about, samples in data
    ]


def _ignore(what: str) -> None:
    """Alone there is nothing to leave out."""
