"""Rate limiters of the limits library, which is also the one under slowapi."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from weakref import WeakSet

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


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Limits(kit)


class Limits(Probe):
    """The limits family, for limits: every strategy's decisions."""

    kinds = (strategies.RateLimiter, aio.RateLimiter)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._mine: WeakSet[Any] = WeakSet()
        # By the limiter's name and the identity of what is allowed: to hash or to print that takes longer
        # than all the rest. It is kept, so that its id is nobody else's.
        self._limits: dict[tuple[str, int], tuple[Limit, Any]] = {}

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
        def hit(strategy: Any, item: Any, *identifiers: str, **options: Any) -> bool:
            try:
                allowed = original(strategy, item, *identifiers, **options)
            except Exception:
                self._decided(strategy, item, "error")
                raise
            self._decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _around_awaited(
        self, original: Callable[..., Awaitable[bool]]
    ) -> Callable[..., Awaitable[bool]]:
        async def hit(strategy: Any, item: Any, *identifiers: str, **options: Any) -> bool:
            try:
                allowed = await original(strategy, item, *identifiers, **options)
            except Exception:
                self._decided(strategy, item, "error")
                raise
            self._decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _decided(self, strategy: Any, item: Any, outcome: str) -> None:
        if not self._hooks.on:
            return
        try:
            name = self.kit.names.of(strategy)
            if name is None:
                # It may be in a variable, or belong to what is in one.
                self.kit.look()
                self.found(strategy, "limits")
                name = self.kit.names.of(strategy) or ""
            # The identifiers say who calls: they are no labels. The item says what is allowed.
            known = self._limits.get((name, id(item)))
            if known is None:
                known = self._remember(name, item)
            known[0].decide(outcome)
        except Exception as error:
            contain(COMPONENT, error)

    def _remember(self, name: str, item: Any) -> tuple[Limit, Any]:
        # An app may make a new one for every call.
        if len(self._limits) >= LIMITS:
            self._limits.clear()
        known = self._limits[name, id(item)] = (Limit(self.kit.meters, name, str(item)), item)
        return known


def _subclasses(base: type) -> Iterator[type]:
    """Every class below this one that says itself what a hit does."""
    cls: type
    for cls in base.__subclasses__():
        if "hit" in cls.__dict__:
            yield cls
        yield from _subclasses(cls)
