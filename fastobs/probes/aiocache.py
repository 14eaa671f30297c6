"""Caches of aiocache: used by hand, or by its decorators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import FunctionType
from typing import Any

from aiocache import SimpleMemoryCache, cached_stampede, caches
from aiocache.base import BaseCache

from fastobs import catalogue
from fastobs._contain import contain, contained
from fastobs._exchange import CURRENT
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._caches import Caches, Loads, answered, asks, timed
from ._hooks import Hooks

__all__ = ["AioCache", "probe"]

COMPONENT = "probes.aiocache"

NONE: Any = object()
"""A key that was not given by position."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return AioCache(kit)


class Guarded:
    """A call of a function with ``@cached_stampede``, which looks twice: before and after its lock.

    The second look decides; a miss before it is not counted.
    """

    __slots__ = ("cache", "key")

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.key: Any = None

    def looks_again(self, cache: Any, key: Any) -> bool:
        """Whether this miss will be followed by the look that decides."""
        if cache is not self.cache:
            return False
        if self.key is None:
            self.key = key
            return True
        self.cache = None
        return False


_guarded: ContextVar[Guarded | None] = ContextVar("fastobs_aiocache_guarded", default=None)


class AioCache(Probe):
    """The caches family, for aiocache: every cache is a `BaseCache`, and what it does goes through that."""

    # A decorated function has its cache as an attribute.
    kinds = (BaseCache, FunctionType)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._caches = Caches(kit, lambda cache: _alias(cache) or _kind(cache))
        self._loads = Loads()

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._hooks.wrap(BaseCache, "get", self._around_get)
        self._hooks.wrap(BaseCache, "multi_get", self._around_multi_get)
        self._hooks.wrap(BaseCache, "set", self._around_set)
        self._hooks.wrap(BaseCache, "multi_set", self._around_multi_set)
        self._hooks.wrap(cached_stampede, "decorator", _around_guarded)

    def detach(self) -> None:
        self._hooks.undo()
        self._caches.tallies.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        cache = _cache_of(obj)
        if cache is None:
            return False
        self._caches.watch(cache, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        cache = _cache_of(obj)
        if cache is not None:
            # Many functions may share what has an alias.
            self._caches.found(cache, _alias(cache) or name)

    def read(self) -> Iterator[Reading]:
        for name, cache in self._caches.named():
            # Private; other backends do not know how many entries are theirs.
            entries = getattr(cache, "_cache", None)
            if isinstance(cache, SimpleMemoryCache) and isinstance(entries, dict):
                yield Reading(catalogue.CACHE_ENTRIES, (name,), len(entries))

    def status(self) -> Iterator[tuple[str, str]]:
        for name, cache in self._caches.named():
            yield name, _kind(cache)

    # What follows runs within the app's calls: it must not raise.

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, tallies, current = self._hooks, self._caches.tallies, CURRENT.get

        async def get(cache: Any, _key: Any = NONE, *args: Any, **kwargs: Any) -> Any:
            # A coroutine within this one, as `timed` is, would be resumed once more by each wait.
            # Nobody asks outside of a request: that is found out without a call.
            exchange = None if current() is None or not hooks.on else asks()
            default = None
            try:
                if args or kwargs or _key is NONE:
                    if _key is not NONE:
                        args = _key, *args
                    default = args[1] if len(args) > 1 else kwargs.get("default")
                    value = await original(cache, *args, **kwargs)
                else:
                    # As most do. To unpack what is not there takes as long as a call.
                    value = await original(cache, _key)
            except Exception:
                self._failed(cache)
                raise
            finally:
                if exchange is not None:
                    answered(exchange)
            # A value that is the very object given as default cannot be told from a miss.
            key = kwargs.get("key") if _key is NONE else _key
            if value is default:
                self._looked(cache, (key,), (False,))
                return value
            try:
                # As `Caches.tally` and `add` do; there is none while nothing is hooked.
                row = tallies[id(cache)].hits
                row.cells[row.at] += 1.0
            except KeyError:
                self._looked(cache, (key,), (True,))
            except Exception as error:
                contain(COMPONENT, error)
            return value

        return get

    def _around_multi_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def multi_get(cache: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                looking = original(cache, *args, **kwargs)
                values = await (timed(looking) if hooks.on else looking)
            except Exception:
                self._failed(cache)
                raise
            keys = args[0] if args else kwargs.get("keys", ())
            # An iterator is used up by now; then the keys, and so the loads, are unknown.
            keys = keys if hasattr(keys, "__len__") else (None,) * len(values)
            self._looked(cache, keys, [value is not None for value in values])
            return values

        return multi_get

    def _around_set(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def set(cache: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A001 - its name
            storing = original(cache, *args, **kwargs)
            done = await (timed(storing) if hooks.on else storing)
            self._stored(cache, (args[0] if args else kwargs.get("key"),))
            return done

        return set

    def _around_multi_set(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        async def multi_set(cache: Any, *args: Any, **kwargs: Any) -> Any:
            storing = original(cache, *args, **kwargs)
            done = await (timed(storing) if hooks.on else storing)
            pairs = args[0] if args else kwargs.get("pairs", ())
            self._stored(cache, (key for key, _ in pairs))
            return done

        return multi_set

    def _failed(self, cache: Any) -> None:
        if not self._hooks.on:
            return
        with contained(COMPONENT):
            self._caches.tally(cache).errors.add()

    def _looked(self, cache: Any, keys: Iterable[Any], results: Iterable[bool]) -> None:
        if not self._hooks.on:
            return
        try:
            tally = self._caches.tally(cache)
            guarded = _guarded.get()
            for key, hit in zip(keys, results, strict=False):
                if hit:
                    tally.hits.add()
                elif guarded is None or not guarded.looks_again(cache, key):
                    tally.misses.add()
                    if key is not None:
                        self._loads.missed(tally, cache, key)
        except Exception as error:
            contain(COMPONENT, error)

    def _stored(self, cache: Any, keys: Iterable[Any]) -> None:
        if not self._hooks.on:
            return
        try:
            for key in keys:
                self._loads.stored(cache, key)
        except Exception as error:
            contain(COMPONENT, error)


def _around_guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    async def decorator(guard: Any, *args: Any, **kwargs: Any) -> Any:
        token = _guarded.set(Guarded(guard.cache))
        try:
            return await original(guard, *args, **kwargs)
        finally:
            _guarded.reset(token)

    return decorator


def _alias(cache: Any) -> str:
    """What the app's configuration calls it; empty if it is not from there."""
    # Private: to ask for an alias may make its cache.
    made = getattr(caches, "_caches", {})
    return next((alias for alias, one in list(made.items()) if one is cache), "")


def _kind(cache: Any) -> str:
    return f"aiocache {type(cache).__name__}"


def _cache_of(obj: Any) -> Any:
    """The cache that it is, or that is behind a decorated function; else None."""
    if isinstance(obj, FunctionType):
        obj = obj.__dict__.get("cache")
    return obj if isinstance(obj, BaseCache) else None
