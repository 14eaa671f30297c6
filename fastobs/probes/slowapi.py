"""slowapi's limiters: they decide through limits, and lend their name to what decides for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from slowapi import Limiter

from . import Kit, Probe

__all__ = ["SlowAPI", "probe"]


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return SlowAPI(kit)


class SlowAPI(Probe):
    """The limits family, for slowapi: nothing is hooked, since limits tells every decision."""

    kinds = (Limiter,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._named: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
            return False
        if name is not None:
            self._lend(obj, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        if obj not in self._named:
            self._lend(obj, name)

    def status(self) -> Iterator[tuple[str, str]]:
        for _, name in list(self._named.items()):
            yield name, "slowapi Limiter"

    def _lend(self, limiter: Limiter, name: str) -> None:
        name = self._named[limiter] = self.kit.names.claim(limiter, name)
        # Private: the public property gives the second one only while the first is out of order.
        for strategy in (limiter._limiter, limiter._fallback_limiter):
            if strategy is not None:
                self.kit.names.lend(strategy, name)
