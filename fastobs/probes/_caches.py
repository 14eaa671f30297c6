"""What adapters for caches share: the counts of one cache, and loads between a miss and a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextvars import ContextVar
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar
from weakref import ref

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT, Exchange
from fastobs._parts import enter, leave
from fastobs.cells import Meters

from . import Kit
from ._never import Judge

__all__ = ["Caches", "Counted", "Loads", "Tally", "answered", "asks", "decorated", "timed"]

COMPONENT = "probes.caches"

T = TypeVar("T")

REMEMBERED = 1000
"""Keys whose latest load is remembered."""

OPEN, OPEN_OF_REQUEST = 8, 64
"""Misses of one task, and of a request, that may still become loads."""

OF_REQUEST = "fastobs.cache_misses"
"""Where the scope of a request has those of all its tasks and threads."""


class Tally:
    """The series of one cache; all exist from its first event."""

    __slots__ = ("_judge", "_loads", "_stampedes", "errors", "hits", "misses")

    def __init__(self, meters: Meters, name: str, judge: Judge | None = None) -> None:
        self._judge = judge
        self.hits, self.misses, self.errors = (
            meters.counter(catalogue.CACHE_REQUESTS, name, result)
            for result in ("hit", "miss", "error")
        )
        self._loads = meters.histogram(catalogue.CACHE_LOAD, name)
        self._stampedes = meters.counter(catalogue.CACHE_STAMPEDES, name)

    def load(self, seconds: float, *, crowded: bool) -> None:
        """A value was loaded; ``crowded`` if somebody else loaded the same at the same time."""
        self._loads.observe(seconds)
        if crowded:
            self._stampedes.add()
        if self._judge is not None and not self._judge.over:
            self._judge.look(self.hits, self.misses)


class Counted:
    """What a cache has counted itself: told once, whatever it is called by then."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told = (0.0, 0.0, 0.0)

    def tell(
        self,
        meters: Meters,
        name: str,
        *,
        hits: float,
        misses: float,
        evictions: float | None = None,
    ) -> None:
        """Count what has come since the last time; given is all that there ever was."""
        now = (hits, misses, evictions or 0.0)
        before, self._told = self._told, now
        if any(less < more for less, more in zip(now, before, strict=True)):
            # It was cleared, and has begun at zero with all of them.
            before = (0.0, 0.0, 0.0)
        counters = [
            meters.counter(catalogue.CACHE_REQUESTS, name, "hit"),
            meters.counter(catalogue.CACHE_REQUESTS, name, "miss"),
        ]
        if evictions is not None:
            counters.append(meters.counter(catalogue.CACHE_EVICTIONS, name))
        for counter, all_of_them, told in zip(counters, now, before, strict=False):
            counter.add(all_of_them - told)

    def leave_out(self, *, hits: float, misses: float, evictions: float = 0.0) -> None:
        """So much is not to be told: somebody else does."""
        self._told = hits, misses, evictions


class Entry:
    """A cache that is an object of the app's."""

    __slots__ = ("given", "name", "obj")

    def __init__(self, obj: ref[Any], name: str) -> None:
        self.obj = obj
        self.name = name
        self.given = False


class Caches:
    """The caches of one adapter, by object, with their names.

    Args:
        describe: What a cache is called that is in no variable; also what status() says it is.

    Attributes:
        tallies: By the id of the cache, of those that have had events: `tally` without a call.
    """

    def __init__(self, kit: Kit, describe: Callable[[Any], str]) -> None:
        self._kit = kit
        self._describe = describe
        self._entries: dict[int, Entry] = {}
        self.tallies: dict[int, Tally] = {}

    def tally(self, cache: Any) -> Tally:
        """Where this cache's events are counted."""
        try:
            return self.tallies[id(cache)]
        except KeyError:
            return self._first(cache)

    def _first(self, cache: Any) -> Tally:
        entry = self._entries.get(id(cache))
        if entry is None:
            # It may be in a variable that nobody has looked at yet.
            self._kit.look()
            entry = self._entry(cache, self._describe(cache))
        judge = Judge(entry.name, self._kit.tell)
        tally = self.tallies[id(cache)] = Tally(self._kit.meters, entry.name, judge)
        return tally

    def watch(self, cache: Any, name: str | None) -> None:
        """The user handed it over, perhaps with a name, which is better than any other."""
        if name is None:
            return
        entry = self._entry(cache, name)
        if not entry.given or entry.name != name:
            entry.name = self._kit.names.claim(cache, name)
            entry.given = True
            # What is counted from now on, is counted under that.
            self.tallies.pop(id(cache), None)

    def found(self, cache: Any, name: str) -> None:
        """A variable holds it."""
        self._entry(cache, name)

    def named(self) -> Iterator[tuple[str, Any]]:
        """Every cache that is still there, with its name."""
        for entry in list(self._entries.values()):
            cache = entry.obj()
            if cache is not None:
                yield entry.name, cache

    def status(self) -> Iterator[tuple[str, str]]:
        """For `Probe.status`."""
        for name, cache in self.named():
            yield name, self._describe(cache)

    def _entry(self, cache: Any, name: str) -> Entry:
        key = id(cache)
        entry = self._entries.get(key)
        if entry is None:
            obj = ref(cache, lambda _: self._forget(key))
            entry = self._entries[key] = Entry(obj, self._kit.names.claim(cache, name))
        return entry

    def _forget(self, key: int) -> None:
        self.tallies.pop(key, None)
        self._entries.pop(key, None)


class _Miss:
    __slots__ = ("at", "open", "place", "tally")

    def __init__(self, tally: Tally, place: int, at: float) -> None:
        self.tally = tally
        self.place = place
        self.at = at
        self.open = True


_misses: ContextVar[tuple[_Miss, ...]] = ContextVar("fastobs_cache_misses", default=())


class Loads:
    """Times how values are loaded, and notices when several load the same at once.

    Who misses a key and then stores it has loaded it, if it is one task or thread, or one request.
    That two loads were at the same time is told when the second one ends: a key that is missed and
    never stored is no load. Of keys only hashes are kept.
    """

    def __init__(self) -> None:
        self._ended: dict[int, float] = {}
        self._lock = Lock()

    def missed(self, tally: Tally, cache: object, key: Hashable) -> None:
        """This task may begin to load it."""
        place = hash((id(cache), key))
        others = []
        for miss in _misses.get():
            if miss.place == place:
                # Who asks again begins again.
                miss.open = False
            elif miss.open:
                others.append(miss)
        missed = _Miss(tally, place, perf_counter())
        _misses.set((*others[1 - OPEN :], missed))
        exchange = CURRENT.get()
        if exchange is not None:
            found = exchange.scope.get(OF_REQUEST)
            if found is None:
                # Two threads of a request may get here at once.
                found = exchange.scope.setdefault(OF_REQUEST, [])
            found.append(missed)
            del found[:-OPEN_OF_REQUEST]

    def stored(self, cache: object, key: Hashable) -> None:
        """If this task missed it before, that was a load."""
        place = hash((id(cache), key))
        exchange = CURRENT.get()
        others = () if exchange is None else exchange.scope.get(OF_REQUEST, ())
        for miss in (*_misses.get(), *others):
            if miss.open and miss.place == place:
                # Tasks that were made since have it, too.
                miss.open = False
                self._end(miss.tally, place, miss.at)
                return

    def ended(self, tally: Tally, cache: object, key: Hashable, started: float) -> None:
        """A load that began then ends now."""
        self._end(tally, hash((id(cache), key)), started)

    def _end(self, tally: Tally, place: int, started: float) -> None:
        now = perf_counter()
        with self._lock:
            before = self._ended.pop(place, None)
            self._ended[place] = now
            if len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]
        tally.load(now - started, crowded=before is not None and before > started)


async def timed(operation: Awaitable[T]) -> T:
    """Await an operation of a cache; within a request its time is the part ``cache``."""
    exchange = asks()
    if exchange is None:
        return await operation
    try:
        return await operation
    finally:
        answered(exchange)


def asks() -> Exchange | None:
    """The request that asks a cache from now on, if one does."""
    try:
        exchange = CURRENT.get()
        if exchange is not None:
            enter(exchange, "cache", perf_counter())
    except Exception as error:
        contain(COMPONENT, error)
        return None
    return exchange


def answered(exchange: Exchange | None) -> None:
    """The request has what it `asks` for."""
    try:
        if exchange is not None:
            leave(exchange, "cache", perf_counter())
    except Exception as error:
        contain(COMPONENT, error)


def decorated(frame: Any, package: str) -> str | None:
    """The cached function for which a decorator of this package calls, if that is its frame.

    Caches with one store for everything are not told for which function they are asked: only
    their decorators know it, as ``func`` or ``async_iterator``. None if the frame is somebody else's.
    """
    if not frame.f_globals.get("__name__", "").startswith(package):
        return None
    known = frame.f_locals
    function = known.get("func") or known.get("async_iterator")
    return None if function is None else f"{function.__module__}.{function.__qualname__}"
