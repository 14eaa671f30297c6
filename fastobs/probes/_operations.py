"""How long operations of a store take, by the names that its clients send: a few of them are labels."""

from __future__ import annotations

from re import Pattern

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram

__all__ = ["NAMES", "Operations"]

NAMES = 200
"""Different names that become a label each; stores have no more commands that are used."""

OTHER = "_OTHER"


class Operations:
    """The rows of one system.

    Args:
        meters: Where they are.
        system: As the semantic conventions call it.
        name: What may become a label; whatever else an app sends is `OTHER`.
    """

    def __init__(self, meters: Meters, system: str, name: Pattern[str]) -> None:
        self._meters = meters
        self._system = system
        self._name = name
        self._names: set[str] = set()
        self._rows: dict[tuple[str, str], Histogram] = {}

    def row(self, name: str, error: str = "") -> Histogram:
        """Where an operation of this name is counted that ended like this."""
        row = self._rows.get((name, error))
        if row is None:
            label = name if name in self._names or self._is_taken(name) else OTHER
            row = self._meters.histogram(catalogue.DB_DURATION, self._system, label, error)
            if label is not OTHER:
                self._rows[name, error] = row
        return row

    def _is_taken(self, name: str) -> bool:
        if len(self._names) >= NAMES or not self._name.fullmatch(name):
            return False
        self._names.add(name)
        return True
