"""Functions that count themselves: ``lru_cache``, ``cache``, and all that have a ``cache_info()`` like theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import _lru_cache_wrapper, cached_property
from types import FunctionType
from typing import Any
from weakref import ref

from fastobs import catalogue
from fastobs._contain import contained
from fastobs.cells import Reading

from . import Kit, Probe
from ._caches import Counted
from ._names import of_the_app

__all__ = ["CachedFunctions", "probe"]

COMPONENT = "probes.functools"

DECORATORS = 20
"""Around a function are hardly more."""

BY_NAME = ("aiocache", "cashews", "fastapi_cache")
"""Libraries whose cached functions are called as the app calls them."""

MADE_OF: dict[type, str] = {
    staticmethod: "__func__",
    classmethod: "__func__",
    property: "fget",
    cached_property: "func",
}
"""Where these have the function that they were made of."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return CachedFunctions(kit)


class Entry:
    """A cached function."""

    __slots__ = ("__weakref__", "counted", "given", "name", "obj", "wanted")

    def __init__(self, obj: ref[Any], wanted: str) -> None:
        self.obj = obj
        self.wanted = wanted
        self.given = self.name = ""
        self.counted = Counted()


class CachedFunctions(Probe):
    """The caches family, for cached functions of any library.

    Nothing is hooked: the functions count, and are asked. Misses are not loads (one that fails is
    counted, too), so there is nothing to tell about evictions, load time or stampedes.
    """

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._entries: dict[int, Entry] = {}
        self._seen = -1
        # Caches of cachebox in variables, by name; they take no weak references.
        self._mute: dict[str, int] = {}

    @property
    def kinds(self) -> tuple[type, ...]:
        # Those that an object of the app's holds; functions and classes of modules are walked here.
        mute = getattr(sys.modules.get("cachebox"), "BaseCacheImpl", None)
        return (_lru_cache_wrapper,) if mute is None else (_lru_cache_wrapper, mute)

    def begin_anew(self) -> None:
        # What was counted before the fork is the parent's.
        self._walk()
        for entry in list(self._entries.values()):
            function = entry.obj()
            # Others may have locks, which a thread of the parent's may hold.
            if type(function) is _lru_cache_wrapper:
                info = function.cache_info()
                entry.counted.leave_out(hits=info.hits, misses=info.misses)

    def watch(self, obj: Any, name: str | None) -> bool:
        obj = _within(obj)
        if obj is None:
            return False
        entry = self._entry(obj, _declared(obj))
        if name is not None and name != entry.given:
            entry.given, entry.name = name, ""
        return True

    def found(self, obj: Any, name: str) -> None:
        if not _counts_itself(obj):
            self._mute[name] = id(obj)
        elif of_the_app(obj.__module__):
            self._entry(obj, _declared(obj))
        elif not _is_import(obj):
            # A function of somebody else's that the app caches.
            self._entry(obj, name)

    def read(self) -> Iterator[Reading]:
        self._walk()
        for entry in list(self._entries.values()):
            with contained(COMPONENT):
                yield from self._readings(entry)

    def status(self) -> Iterator[tuple[str, str]]:
        self._walk()
        for entry in list(self._entries.values()):
            function = entry.obj()
            if function is not None:
                yield (
                    entry.name or entry.given or entry.wanted,
                    f"cached function ({_library(function)})",
                )

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        functions = [entry.obj() for entry in list(self._entries.values())]
        counted = {id(getattr(function, "cache", None)) for function in functions}
        for name, cache in self._mute.items():
            if cache not in counted:
                line = f'value = probe(cache.get(key)), with probe = fastobs.cache("{name}")'
                yield name, f"cachebox only counts for cached functions; write {line}"

    def _walk(self) -> None:
        """Look for cached functions and methods in the app's modules, if there is something new."""
        modules = [module for name, module in list(sys.modules.items()) if of_the_app(name)]
        size = sum(len(vars(module)) for module in modules)
        if size == self._seen:
            return
        self._seen = size
        for module in modules:
            for name, value in list(vars(module).items()):
                # By type(), not isinstance(): a proxy may fail when it is asked for its __class__.
                if issubclass(type(value), type):
                    if value.__module__ == module.__name__:
                        self._walk_class(value)
                else:
                    self._look_at(value, f"{module.__name__}.{name}")

    def _walk_class(self, cls: type) -> None:
        for name, value in list(vars(cls).items()):
            if issubclass(type(value), type):
                if value.__qualname__ == f"{cls.__qualname__}.{name}":
                    self._walk_class(value)
            else:
                # Of static and class methods, and of properties, the function.
                made_of = MADE_OF.get(type(value))
                function = value if made_of is None else getattr(value, made_of)
                self._look_at(function, f"{cls.__module__}.{cls.__qualname__}.{name}")

    def _look_at(self, value: Any, name: str) -> None:
        function = _within(value)
        if function is None:
            return
        if function is value:
            self.found(function, name)
        elif of_the_app(function.__module__):
            # Below a decorator of somebody else's it is the app's, or an import. If that one caches, too,
            # it has the name.
            within = _is_cached_around(value)
            self._entry(function, f"{_declared(function)}#2" if within else _declared(function))

    def _entry(self, obj: Any, wanted: str) -> Entry:
        key = id(obj)
        entry = self._entries.get(key)
        if entry is None:
            kept = ref(obj, lambda _: self._entries.pop(key, None))
            entry = self._entries[key] = Entry(kept, wanted)
        return entry

    def _readings(self, entry: Entry) -> Iterator[Reading]:
        function = entry.obj()
        if function is None:
            return
        if not entry.name:
            entry.name = self.kit.names.claim(entry, entry.given or entry.wanted)
        info = function.cache_info()
        entry.counted.tell(self.kit.meters, entry.name, hits=info.hits, misses=info.misses)
        entries = info.currsize if hasattr(info, "currsize") else info.length
        yield Reading(catalogue.CACHE_ENTRIES, (entry.name,), entries)
        if (most := _most(info)) is not None:
            yield Reading(catalogue.CACHE_MAX, (entry.name,), most)


def _counts_itself(obj: Any) -> bool:
    """By its type or, for a function, its own attributes: a proxy would say yes to everything."""
    kind = type(obj)
    if kind is _lru_cache_wrapper:
        return True
    attributes = vars(obj) if kind is FunctionType else vars(kind)
    # With a cache_key it is one of cachetools, which has an adapter of its own.
    return (
        "cache_info" in attributes and "cache_key" not in attributes and hasattr(obj, "__wrapped__")
    )


def _within(obj: Any) -> Any:
    """What counts itself: this one, or what is below decorators around it; else None."""
    for _ in range(DECORATORS):
        if _counts_itself(obj):
            return obj
        # One of cachetools has an adapter of its own.
        if type(obj) is not FunctionType or "cache_key" in vars(obj):
            break
        obj = vars(obj).get("__wrapped__")
    return None


def _is_cached_around(obj: Any) -> bool:
    """Whether one of the decorators around what counts itself is another library's cache."""
    while not _counts_itself(obj):
        if obj.__globals__.get("__name__", "").partition(".")[0] in BY_NAME:
            return True
        obj = vars(obj)["__wrapped__"]
    return False


def _declared(obj: Any) -> str:
    return f"{obj.__module__}.{getattr(obj, '__qualname__', type(obj).__name__)}"


def _is_import(obj: Any) -> bool:
    """Whether it is what its own module calls so: the app only imported it."""
    place: Any = sys.modules.get(obj.__module__)
    for name in getattr(obj, "__qualname__", "").split("."):
        place = getattr(place, name, None)
    return place is obj


def _library(obj: Any) -> str:
    # Of a function it is where its cache_info() comes from.
    maker: Any = type(obj)
    if maker is FunctionType:
        maker = obj.cache_info
    return str(maker.__module__).partition(".")[0]


def _most(info: Any) -> float | None:
    """The most entries; None if there is no limit, or perhaps one that is no number of entries."""
    if hasattr(info, "currsize"):
        most: float | None = info.maxsize
        return most
    # cachebox: 0 or the largest int is no limit, and entries may have sizes.
    if 0 < info.maxsize < sys.maxsize and info.length == info.current_size > 0:
        return float(info.maxsize)
    return None
