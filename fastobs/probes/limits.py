"""Rate limiters of the limits library, which is also the one under slowapi."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from inspect import Parameter, signature
from threading import RLock
from typing import Any
from weakref import WeakSet, ref

from limits import strategies
from limits.aio import strategies as aio

from fastobs._contain import contain
from fastobs._decisions import Limit
from fastobs._exchange import CURRENT
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["Limits", "probe"]

COMPONENT = "probes.limits"

LIMITS = 100
"""Limits that are remembered."""

NONE: Any = object()
"""An identifier that was not given."""

USUAL = [
    ("item", Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty),
    ("identifiers", Parameter.VAR_POSITIONAL, Parameter.empty),
    ("cost", Parameter.KEYWORD_ONLY, 1),
]
"""What a hit of the library's takes, behind ``self``."""

Known = tuple[Limit, ref[Any], Any]
"""A limit, while the limiter is there; what is allowed is kept, so that its id is nobody else's."""


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
        self._hooked: WeakSet[type] = WeakSet()
        # By the identity of the limiter and of what is allowed: to hash or to print that takes longer
        # than all the rest.
        self._limits: dict[tuple[int, int], Known] = {}
        # Those that know themselves where their hook counts.
        self._quick: WeakSet[Any] = WeakSet()
        self._lock = RLock()
        # They know their limiter by its name.
        kit.names.on_lend.append(self._forget)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        for base in self.kinds:
            for strategy in _below(base):
                self._hook(strategy)

    def detach(self) -> None:
        self._hooks.undo()
        self._hooked.clear()
        self._forget()

    def begin_anew(self) -> None:
        self._lock = RLock()

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
        if self._hooks.on:
            # It may have been defined since.
            for cls in type(strategy).__mro__:
                self._hook(cls)
        self._mine.add(strategy)
        self.kit.names.lend(strategy, self.kit.names.claim(strategy, name))

    def _hook(self, cls: type) -> None:
        original = vars(cls).get("hit")
        if original is None or cls in self.kinds or cls in self._hooked:
            return
        # Who asks another one, as by super(), decides nothing itself.
        code = getattr(original, "__code__", None)
        if "hit" not in getattr(code, "co_names", ()):
            self._hooked.add(cls)
            awaited = issubclass(cls, aio.RateLimiter)
            self._hooks.wrap(cls, "hit", self._around_awaited if awaited else self._around)

    # What follows runs within the app's calls: it must not raise.

    def _around(self, original: Callable[..., bool]) -> Callable[..., bool]:
        if not _is_usual(original):
            return self._around_any(original)
        decided, current = self._decided, CURRENT.get

        def hit(
            strategy: Any,
            item: Any,
            _one: str = NONE,
            _two: str = NONE,
            *more: str,
            cost: int = 1,
        ) -> bool:
            try:
                # One or two are usual. To pack and to unpack them takes longer than to count.
                if _two is NONE and _one is not NONE:
                    allowed = original(strategy, item, _one, cost=cost)
                elif more or _one is NONE:
                    allowed = original(strategy, item, *_given(_one, _two, *more), cost=cost)
                else:
                    allowed = original(strategy, item, _one, _two, cost=cost)
            except Exception:
                decided(strategy, item, "error")
                raise
            try:
                if allowed and current() is None:
                    row = strategy._fastobs_rows[id(item)]
                    row.cells[row.at] += 1.0
                    return allowed
            except (AttributeError, KeyError):
                pass
            except Exception as error:
                contain(COMPONENT, error)
                return allowed
            decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _around_awaited(
        self, original: Callable[..., Awaitable[bool]]
    ) -> Callable[..., Awaitable[bool]]:
        if not _is_usual(original):
            return self._around_any_awaited(original)
        decided, current = self._decided, CURRENT.get

        async def hit(
            strategy: Any,
            item: Any,
            _one: str = NONE,
            _two: str = NONE,
            *more: str,
            cost: int = 1,
        ) -> bool:
            try:
                if _two is NONE and _one is not NONE:
                    allowed = await original(strategy, item, _one, cost=cost)
                elif more or _one is NONE:
                    allowed = await original(strategy, item, *_given(_one, _two, *more), cost=cost)
                else:
                    allowed = await original(strategy, item, _one, _two, cost=cost)
            except Exception:
                decided(strategy, item, "error")
                raise
            try:
                if allowed and current() is None:
                    row = strategy._fastobs_rows[id(item)]
                    row.cells[row.at] += 1.0
                    return allowed
            except (AttributeError, KeyError):
                pass
            except Exception as error:
                contain(COMPONENT, error)
                return allowed
            decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _around_any(self, original: Callable[..., bool]) -> Callable[..., bool]:
        decided = self._decided

        def hit(strategy: Any, item: Any, *args: Any, **options: Any) -> bool:
            try:
                allowed = original(strategy, item, *args, **options)
            except Exception:
                decided(strategy, item, "error")
                raise
            decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _around_any_awaited(
        self, original: Callable[..., Awaitable[bool]]
    ) -> Callable[..., Awaitable[bool]]:
        decided = self._decided

        async def hit(strategy: Any, item: Any, *args: Any, **options: Any) -> bool:
            try:
                allowed = await original(strategy, item, *args, **options)
            except Exception:
                decided(strategy, item, "error")
                raise
            decided(strategy, item, "allowed" if allowed else "limited")
            return allowed

        return hit

    def _decided(self, strategy: Any, item: Any, outcome: str) -> None:
        if not self._hooks.on:
            return
        try:
            known = self._limits.get((id(strategy), id(item))) or self._remember(strategy, item)
            known[0].decide(outcome)
            if outcome == "allowed" and CURRENT.get() is None:
                self._quicken(strategy, item, known)
        except Exception as error:
            contain(COMPONENT, error)

    def _remember(self, strategy: Any, item: Any) -> Known:
        name = self.kit.names.of(strategy)
        if name is None:
            # It may be in a variable, or belong to what is in one.
            self.kit.look()
            self.found(strategy, "limits")
            name = self.kit.names.of(strategy) or ""
        key = id(strategy), id(item)
        gone = ref(strategy, lambda _: self._limits.pop(key, None))
        # The identifiers say who calls: they are no labels. The item says what is allowed.
        limit = Limit(self.kit.meters, name, str(item))
        known = limit, gone, item
        with self._lock:
            # An app may make a new one for every call.
            if len(self._limits) >= LIMITS:
                self._forget()
            if self.kit.names.of(strategy) == name:
                self._limits[key] = known
        return known

    def _quicken(self, strategy: Any, item: Any, known: Known) -> None:
        """Let the hook itself count what is allowed outside of requests."""
        key = id(strategy), id(item)
        row = known[0].rows.get("allowed")
        with self._lock:
            # Only of what is kept the ids are nobody else's.
            if row is not None and self._limits.get(key) is known:
                self._quick.add(strategy)
                # To look it up anywhere else takes as long as to count.
                vars(strategy).setdefault("_fastobs_rows", {})[key[1]] = row

    def _forget(self) -> None:
        with self._lock:
            self._limits.clear()
            for strategy in list(self._quick):
                vars(strategy).pop("_fastobs_rows", None)
            self._quick.clear()


def _is_usual(hit: Callable[..., object]) -> bool:
    """Whether it takes what the library's own do: ``(self, item, *identifiers, cost=1)``."""
    try:
        _, *parameters = signature(hit).parameters.values()
    except ValueError:
        return False
    return [(one.name, one.kind, one.default) for one in parameters] == USUAL


def _given(one: str, two: str, *more: str) -> tuple[str, ...]:
    if one is NONE:
        return ()
    return (one,) if two is NONE else (one, two, *more)


def _below(base: type) -> Iterator[type]:
    """Every class below this one."""
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)
