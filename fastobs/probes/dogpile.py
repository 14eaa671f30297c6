"""Regions of dogpile.cache: used by hand, or by their decorators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from time import perf_counter
from typing import Any

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE

from fastobs._contain import contain
from fastobs._exchange import CURRENT
from fastobs.config import Settings

from . import Kit, Probe
from ._caches import Caches, Loads, answered, asks
from ._hooks import Hooks

__all__ = ["Dogpile", "probe"]

COMPONENT = "probes.dogpile"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Dogpile(kit)


class Created:
    """What was created within one call, and whether creating it was what failed."""

    __slots__ = ("failed", "keys")

    def __init__(self) -> None:
        self.keys = 0
        self.failed = False


class Dogpile(Probe):
    """The caches family, for dogpile.cache.

    Below a region its backend is asked twice for what is not there, before and after the lock; so
    the region's own methods are hooked, and what had to be created was a miss.
    """

    kinds = (CacheRegion,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._caches = Caches(kit, lambda region: region.name or "dogpile region")
        self._loads = Loads()

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._hooks.wrap(CacheRegion, "get", self._around_get)
        self._hooks.wrap(CacheRegion, "get_multi", self._around_get_multi)
        self._hooks.wrap(CacheRegion, "get_or_create", self._around_create)
        self._hooks.wrap(CacheRegion, "get_or_create_multi", self._around_create_multi)

    def detach(self) -> None:
        self._hooks.undo()
        self._caches.tallies.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, CacheRegion):
            return False
        self._caches.watch(obj, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        # The region's own name is the better one.
        self._caches.found(obj, obj.name or name)

    def status(self) -> Iterator[tuple[str, str]]:
        for name, _ in self._caches.named():
            yield name, "dogpile CacheRegion"

    # What follows runs within the app's calls: it must not raise.

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, tallies, current = self._hooks, self._caches.tallies, CURRENT.get

        def get(region: Any, _key: Any = NO_VALUE, *args: Any, **kwargs: Any) -> Any:
            # As `_ask` and `_count` do, without a call where nobody asks.
            exchange = None if current() is None or not hooks.on else asks()
            try:
                if args or kwargs or _key is NO_VALUE:
                    args = args if _key is NO_VALUE else (_key, *args)
                    value = original(region, *args, **kwargs)
                else:
                    # As most do. To unpack what is not there takes as long as a call.
                    value = original(region, _key)
            except Exception:
                self._count(region, errors=1)
                raise
            finally:
                if exchange is not None:
                    answered(exchange)
            try:
                # There is none while nothing is hooked.
                tally = tallies[id(region)]
                row = tally.misses if value is NO_VALUE else tally.hits
                row.cells[row.at] += 1.0
            except KeyError:
                self._count(region, hits=value is not NO_VALUE, misses=value is NO_VALUE)
            except Exception as error:
                contain(COMPONENT, error)
            return value

        return get

    def _around_get_multi(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_multi(region: Any, *args: Any, **kwargs: Any) -> Any:
            values = self._ask(region, original, args, kwargs)
            misses = sum(value is NO_VALUE for value in values)
            self._count(region, hits=len(values) - misses, misses=misses)
            return values

        return get_multi

    def _around_create(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_or_create(
            region: Any, key: Any, creator: Callable[..., Any], *args: Any, **kwargs: Any
        ) -> Any:
            created = Created()
            creating = self._creating(region, creator, created, key)
            value = self._ask(region, original, (key, creating, *args), kwargs, created)
            self._count(region, hits=not created.keys, misses=created.keys)
            return value

        return get_or_create

    def _around_create_multi(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_or_create_multi(
            region: Any, keys: Any, creator: Callable[..., Any], *args: Any, **kwargs: Any
        ) -> Any:
            created = Created()
            creating = self._creating(region, creator, created)
            values = self._ask(region, original, (keys, creating, *args), kwargs, created)
            hits = max(0, len(values) - created.keys)
            self._count(region, hits=hits, misses=created.keys)
            return values

        return get_or_create_multi

    def _ask(
        self,
        region: Any,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        created: Created | None = None,
    ) -> Any:
        """Call the region's method; within a request its time is the part ``cache``."""
        exchange = asks() if self._hooks.on else None
        try:
            return original(region, *args, **kwargs)
        except Exception:
            if created is not None and created.failed:
                self._count(region, misses=created.keys)
            else:
                self._count(region, errors=1)
            raise
        finally:
            answered(exchange)

    def _creating(
        self, region: Any, creator: Callable[..., Any], created: Created, key: Any = None
    ) -> Callable[..., Any]:
        def create(*args: Any, **kwargs: Any) -> Any:
            # A runner may do it in a thread of its own, after the value was answered as a hit.
            answered(CURRENT.get())
            started = perf_counter()
            created.keys += 1 if key is not None else len(args)
            try:
                value = creator(*args, **kwargs)
            except Exception:
                created.failed = True
                raise
            finally:
                asks()
            self._loaded(region, (key,) if key is not None else args, started)
            return value

        if not self._hooks.on:
            return creator
        if region.async_creation_runner is None:
            return create
        try:
            # The app's runner may look at what it is given.
            return wraps(creator)(create)
        except Exception as error:
            contain(COMPONENT, error)
            return creator

    def _count(self, region: Any, *, hits: int = 0, misses: int = 0, errors: int = 0) -> None:
        if not self._hooks.on:
            return
        try:
            tally = self._caches.tally(region)
            if hits:
                tally.hits.add(hits)
            if misses:
                tally.misses.add(misses)
            if errors:
                tally.errors.add(errors)
        except Exception as error:
            contain(COMPONENT, error)

    def _loaded(self, region: Any, keys: tuple[Any, ...], started: float) -> None:
        if not self._hooks.on:
            return
        try:
            tally = self._caches.tally(region)
            # Of several keys that are loaded at once it is one load.
            self._loads.ended(tally, region, keys, started)
        except Exception as error:
            contain(COMPONENT, error)
