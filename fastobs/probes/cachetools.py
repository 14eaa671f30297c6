"""Caches of cachetools: in variables, behind ``@cached``, or handed to `fastobs.watch`.

A cache is watched by giving this one instance a subclass of its class. It works like before, and
what pickle and copy make of it is of the class that the app chose.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from math import isfinite
from threading import get_ident
from types import FunctionType, MethodType
from typing import Any
from weakref import ref

from cachetools import Cache

from fastobs import catalogue
from fastobs._contain import contained
from fastobs.cells import Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._caches import Counted

__all__ = ["CacheTools", "probe"]

COMPONENT = "probes.cachetools"

REMEMBERED = 1000
"""Keys that were missed and may yet be loaded."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return CacheTools(kit)


class Tally:
    """What one cache did.

    Attributes:
        quiet: Threads that are within an operation whose look-ups are not the app's.
        missed: Hashes of keys that were asked for with ``in``, in vain. Who has loaded such a one may
            read it back from the cache: that is the same look-up, and no hit.
    """

    __slots__ = ("evictions", "hits", "missed", "misses", "quiet")

    def __init__(self) -> None:
        self.hits = self.misses = self.evictions = 0
        self.quiet: set[int] = set()
        self.missed: set[int] = set()

    @property
    def silent(self) -> bool:
        return bool(self.quiet) and get_ident() in self.quiet

    def miss(self, place: int) -> None:
        """A key of this hash was asked for, and is not there."""
        self.misses += 1
        if len(self.missed) >= REMEMBERED:
            # Most were never loaded.
            self.missed.clear()
        self.missed.add(place)

    def read_back(self, key: Any) -> bool:
        """Whether the key was missed before, and has been loaded since; asked once."""
        place = hash(key)
        if place not in self.missed:
            return False
        self.missed.discard(place)
        return True


class Entry:
    """A cache, or a cached function whose cache is a plain mapping.

    Attributes:
        hindrance: What keeps it from being watched, as the line that would help.
    """

    def __init__(self, obj: Any) -> None:
        self.obj = ref(obj)
        self.what = f"cachetools {type(obj).__name__}"
        self.given = self.variable = self.name = self.hindrance = ""
        self.tally = Tally()
        self.counted = Counted()
        self.base: type | None = None

    @property
    def wanted(self) -> str:
        return self.given or self.variable or self.what

    def swap(self) -> None:
        """Have the instance count."""
        cache = self.obj()
        if not isinstance(cache, Cache) or self.base is not None:
            return
        base = type(cache)
        try:
            cache.__class__ = _counting(base, self.tally)
        except TypeError:
            self.hindrance = "its class cannot be extended; use fastobs.cache(name) around it"
        else:
            self.base = base

    def restore(self) -> None:
        """Have the instance be as it was."""
        cache = self.obj()
        if cache is not None and self.base is not None:
            cache.__class__ = self.base
        self.base = None


class CacheTools(Probe):
    """The caches family, for cachetools."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._entries: dict[int, Entry] = {}
        self._attached = False

    @property
    def kinds(self) -> tuple[type, ...]:
        # Before cachetools 8 a cached function is a function. A cached method is an attribute of
        # its object from its first use on.
        modules = (sys.modules.get(f"cachetools.{name}") for name in ("_cached", "_cachedmethod"))
        wrappers = (getattr(module, "_WrapperBase", FunctionType) for module in modules)
        return (Cache, FunctionType, *wrappers)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._attached = True
        for entry in list(self._entries.values()):
            entry.swap()

    def detach(self) -> None:
        self._attached = False
        for entry in list(self._entries.values()):
            entry.restore()

    def begin_anew(self) -> None:
        for entry in list(self._entries.values()):
            tally = entry.tally
            # Of threads that are not there; another may come to have the number of one.
            tally.quiet.clear()
            # What was counted before the fork is the parent's.
            entry.counted.leave_out(hits=tally.hits, misses=tally.misses, evictions=tally.evictions)

    def watch(self, obj: Any, name: str | None) -> bool:
        entry = self._entry(obj)
        if entry is None:
            return False
        if name is not None and name != entry.given:
            entry.given, entry.name = name, ""
        return True

    def found(self, obj: Any, name: str) -> None:
        entry = self._entry(obj)
        if entry is not None:
            entry.variable = entry.variable or name

    def read(self) -> Iterator[Reading]:
        for entry in list(self._entries.values()):
            with contained(COMPONENT):
                yield from self._readings(entry)

    def status(self) -> Iterator[tuple[str, str]]:
        for entry in list(self._entries.values()):
            if not entry.hindrance:
                yield entry.name or entry.wanted, entry.what

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        for entry in list(self._entries.values()):
            if entry.hindrance:
                yield entry.wanted, entry.hindrance

    def _entry(self, obj: Any) -> Entry | None:
        function = None
        if not isinstance(obj, Cache):
            # Not hasattr(): what makes up its attributes as it goes has all of them.
            if "cache_key" not in getattr(obj, "__dict__", ()):
                return None
            function, obj = obj, obj.cache
            if isinstance(function, MethodType):
                # Before a cached method had a wrapper for each object, it asked whose cache is meant.
                obj = obj(function.__self__)
                if not isinstance(obj, Cache):
                    return None
        # A plain mapping cannot be watched, but its function may count.
        subject = obj if isinstance(obj, Cache) else function
        key = id(subject)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(subject)
            entry.obj = ref(subject, lambda _: self._entries.pop(key, None))
            # None if it does not count itself, in releases where every cached function has it.
            if subject is function and getattr(function, "cache_info", None) is None:
                of_a_class = type(function).__module__ == "cachetools._cachedmethod"
                decorator = "cachedmethod" if of_a_class else "cached"
                entry.hindrance = f"write @{decorator}(..., info=True), then it counts"
        if self._attached:
            entry.swap()
        return entry

    def _readings(self, entry: Entry) -> Iterator[Reading]:
        obj = entry.obj()
        if obj is None or entry.hindrance:
            return
        if not entry.name:
            entry.name = self.kit.names.claim(entry, entry.wanted)
        name = entry.name
        if isinstance(obj, Cache):
            tally = entry.tally
            entry.counted.tell(
                self.kit.meters,
                name,
                hits=tally.hits,
                misses=tally.misses,
                evictions=tally.evictions,
            )
            # Not len(): a cache with expiry tidies itself up then, and that is for the app's threads.
            yield Reading(catalogue.CACHE_ENTRIES, (name,), Cache.__len__(obj))
            if (most := _most(obj)) is not None:
                yield Reading(catalogue.CACHE_MAX, (name,), most)
        else:
            info = obj.cache_info()
            entry.counted.tell(self.kit.meters, name, hits=info.hits, misses=info.misses)
            yield Reading(catalogue.CACHE_ENTRIES, (name,), info.currsize)


def _most(cache: Any) -> float | None:
    """The most entries; None if entries have sizes, since then the limit is no number of entries."""
    counts_entries = cache.getsizeof is Cache.getsizeof
    return cache.maxsize if counts_entries and isfinite(cache.maxsize) else None


def _counting(base: type, tally: Tally) -> type:
    """A subclass for one instance. One base only and no slots: else the layout differs."""
    methods: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__slots__": (),
        **_look_ups(base, tally),
        **_views(base),
        **_removals(base, tally),
        **_duplications(base),
    }
    return type(base.__name__, (base,), methods)


def _look_ups(base: Any, tally: Tally) -> dict[str, Callable[..., Any]]:
    get, contains = base.__getitem__, base.__contains__

    def __getitem__(cache: Any, key: Any) -> Any:  # noqa: N807
        # Before: older releases ask within it whether the key is there.
        read_back = tally.missed and tally.read_back(key)
        try:
            value = get(cache, key)
        except KeyError:
            tally.misses += not tally.silent
            raise
        # Without a call, as mostly.
        if not read_back and (not tally.quiet or not tally.silent):
            tally.hits += 1
        return value

    def __getitem_or_load__(cache: Any, key: Any) -> Any:  # noqa: N807
        # With a __missing__ of its own the cache always gives a value.
        present = contains(cache, key)
        value = get(cache, key)
        if present:
            tally.hits += not tally.silent
        else:
            tally.misses += not tally.silent
        return value

    def __contains__(cache: Any, key: Any) -> Any:  # noqa: N807
        # Also get() asks so first. If it is there, the look-up that follows is the hit.
        present = contains(cache, key)
        if present:
            # Another look-up has begun.
            if tally.missed:
                tally.missed.discard(hash(key))
        elif not tally.silent:
            tally.miss(hash(key))
        return present

    plain = base.__missing__ is Cache.__missing__
    return {
        "__getitem__": __getitem__ if plain else __getitem_or_load__,
        "__contains__": __contains__,
    }


class _Unasked(Mapping[Any, Any]):
    """A cache, for who goes through all of it: that is no look-up."""

    __slots__ = ("_cache", "_get")

    def __init__(self, cache: Any, get: Callable[..., Any]) -> None:
        self._cache = cache
        self._get = get

    def __getitem__(self, key: Any) -> Any:
        return self._get(self._cache, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cache)

    def __len__(self) -> int:
        return len(self._cache)

    def __repr__(self) -> str:
        return repr(self._cache)


def _views(base: Any) -> dict[str, Callable[..., Any]]:
    """What comparing two caches takes, too. That ``dict(cache)`` means all of it, nobody can see."""
    get = base.__getitem__
    methods: dict[str, Callable[..., Any]] = {}
    if base.items is Mapping.items:
        methods["items"] = lambda cache: ItemsView(_Unasked(cache, get))
    if base.values is Mapping.values:
        methods["values"] = lambda cache: ValuesView(_Unasked(cache, get))
    return methods


def _removals(base: Any, tally: Tally) -> dict[str, Callable[..., Any]]:
    def quietly(method: Callable[..., Any]) -> Callable[..., Any]:
        def quiet(cache: Any, *args: Any, **kwargs: Any) -> Any:
            if tally.silent:
                return method(cache, *args, **kwargs)
            tally.quiet.add(get_ident())
            try:
                return method(cache, *args, **kwargs)
            finally:
                tally.quiet.discard(get_ident())

        return quiet

    take = quietly(base.popitem)

    def popitem(cache: Any) -> Any:
        item = take(cache)
        tally.evictions += 1
        return item

    def clear(cache: Any) -> None:
        # What MutableMapping does, without telling of evictions.
        try:
            while True:
                take(cache)
        except KeyError:
            pass

    # setdefault() comes after a look-up that missed, and pop() is no look-up.
    methods = {
        "setdefault": quietly(base.setdefault),
        "pop": quietly(base.pop),
        "popitem": popitem,
    }
    if base.clear is MutableMapping.clear:
        methods["clear"] = clear
    return methods


def _duplications(base: Any) -> dict[str, Callable[..., Any]]:
    def __reduce_ex__(cache: Any, protocol: int) -> tuple[Any, ...]:  # noqa: N807
        _, _, *rest = base.__reduce_ex__(cache, protocol)
        # Not __newobj__: pickle checks that it makes the object's own class.
        return (copyreg._reconstructor, (base, object, None), *rest)  # type: ignore[attr-defined]

    def __copy__(cache: Any) -> Any:  # noqa: N807
        double = base.__copy__(cache)
        double.__class__ = base
        return double

    # Before cachetools 8 copy goes the way of pickle.
    copying = {"__copy__": __copy__} if hasattr(base, "__copy__") else {}
    return {"__reduce_ex__": __reduce_ex__, **copying}
