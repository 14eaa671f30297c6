"""Rate limiters of the limits library, which is also the one under slowapi."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from weakref import WeakSet, ref

from limits import strategies
from limits.aio import strategies as aio

from fastobs._contain import contain
from fastobs._decisions import Limit
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["Limits", "probe"]

COMPONENT = "probes.limits"

LIMITS = 100
"""Limits that are remembered."""

Known = tuple[Limit, int, ref[Any], Any]
"""A limit, as of which names, while the limiter is there; what is allowed is kept, so that its id is
nobody else's."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Limits(kit)


class Limits(Probe):
    """The limits family, for limits: every strategy's decisions."""

    kinds = (strategies.RateLimiter, aio.RateLimiter)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._names = kit.names
        self._mine: WeakSet[Any] = WeakSet()
        # By the identity of the limiter and of what is allowed: to hash or to print that takes longer
        # than all the rest.
        self._limits: dict[tuple[int, int], Known] = {}

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        for strategy in _subclasses(strategies.RateLimiter):
            self._hooks.wrap(strategy, "hit", self._around)
        for strategy in _subclasses(aio.RateLimiter):
            self._hooks.wrap(strategy, "hit", self._around_awaited)

    def detach(self) -> None:
        self._hooks.undo()

    def unknown(self) -> str:
        # A class without one cannot be used.
        return "" if self._hooks.on else "this release decides in a way of its own. Update fastobs."

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, self.kinds):
            return False
        if name is not None:
            self._call(obj, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        if self.kit.names.of(obj) is None:
            self._call(obj, name)

    def status(self) -> Iterator[tuple[str, str]]:
        for strategy in list(self._mine):
            yield self.kit.names.of(strategy) or "", f"limits {type(strategy).__name__}"

    def _call(self, strategy: Any, name: str) -> None:
        self._mine.add(strategy)
        self.kit.names.lend(strategy, self.kit.names.claim(strategy, name))

    # What follows runs within the app's calls: it must not raise.

    def _around(self, original: Callable[..., bool]) -> Callable[..., bool]:
        hooks, decided = self._hooks, self._decided

        def hit(strategy: Any, item: Any, *identifiers: str, **options: Any) -> bool:
            try:
                # To unpack what is not there takes as long as a call.
                allowed = (
                    original(strategy, item, *identifiers, **options)
                    if options
                    else original(strategy, item, *identifiers)
                )
            except Exception:
                if hooks.on:
                    decided(strategy, item, "error")
                raise
            if hooks.on:
                decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _around_awaited(
        self, original: Callable[..., Awaitable[bool]]
    ) -> Callable[..., Awaitable[bool]]:
        hooks, decided = self._hooks, self._decided

        async def hit(strategy: Any, item: Any, *identifiers: str, **options: Any) -> bool:
            try:
                allowed = await original(strategy, item, *identifiers, **options)
            except Exception:
                if hooks.on:
                    decided(strategy, item, "error")
                raise
            if hooks.on:
                decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _decided(self, strategy: Any, item: Any, outcome: str) -> None:
        try:
            known = self._limits.get((id(strategy), id(item)))
            if known is None or known[1] != self._names.lent:
                known = self._remember(strategy, item)
            known[0].decide(outcome)
        except Exception as error:
            contain(COMPONENT, error)

    def _remember(self, strategy: Any, item: Any) -> Known:
        name = self.kit.names.of(strategy)
        if name is None:
            # It may be in a variable, or belong to what is in one.
            self.kit.look()
            self.found(strategy, "limits")
            name = self.kit.names.of(strategy) or ""
        # An app may make a new one for every call.
        if len(self._limits) >= LIMITS:
            self._limits.clear()
        key = id(strategy), id(item)
        gone = ref(strategy, lambda _: self._limits.pop(key, None))
        # The identifiers say who calls: they are no labels. The item says what is allowed.
        limit = Limit(self.kit.meters, name, str(item))
        known = self._limits[key] = (limit, self.kit.names.lent, gone, item)
        return known


def _subclasses(base: type) -> Iterator[type]:
    """Every class below this one that says itself what a hit does."""
    cls: type
    for cls in base.__subclasses__():
        if "hit" in cls.__dict__:
            yield cls
        yield from _subclasses(cls)
