"""Caches of cashews: the commands that look up and store, by hand or by its decorators."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from cashews import Cache
from cashews.wrapper.commands import CommandWrapper

from fastobs._contain import contain, contained
from fastobs._exchange import CURRENT
from fastobs.config import Settings

from . import Kit, Probe
from ._caches import Caches, Loads, Tally, answered, asks, decorated, timed
from ._hooks import Hooks, alike

__all__ = ["Cashews", "probe"]

COMPONENT = "probes.cashews"
DECORATORS = "cashews.decorators."
DECORATED = "_wrap"
"""What they call what they make of a function."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return Cashews(kit)


class Cashews(Probe):
    """The caches family, for cashews.

    One cache serves all functions of an app: a decorated one is counted under its own name, and
    what is looked up by hand under the cache's.
    """

    kinds = (Cache,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._caches = Caches(kit, lambda _: "cashews Cache")
        self._functions: dict[str, Tally] = {}
        self._loads = Loads()

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._hooks.wrap(CommandWrapper, "get", self._around_get)
        self._hooks.wrap(CommandWrapper, "get_many", self._around_get_many)
        self._hooks.wrap(CommandWrapper, "set", self._around_set)
        self._hooks.wrap(CommandWrapper, "set_many", self._around_set_many)

    def detach(self) -> None:
        self._hooks.undo()
        self._caches.tallies.clear()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, Cache):
            return False
        self._caches.watch(obj, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        self._caches.found(obj, name)

    def status(self) -> Iterator[tuple[str, str]]:
        yield from self._caches.status()
        for name in list(self._functions):
            yield name, "function cached by cashews"

    # What follows runs within the app's calls: it must not raise.

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tallies, current, frame_of = self._caches.tallies, CURRENT.get, sys._getframe

        async def look_outside(cache: Any, key: Any) -> Any:
            try:
                value = await original(cache, key)
            except Exception:
                self._failed(cache)
                raise
            if value is None:
                self._missed(cache, key)
                return value
            try:
                # As `Caches.tally` and `add` do; there is none while nothing is hooked.
                row = tallies[id(cache)].hits
                row.cells[row.at] += 1.0
            except KeyError:
                self._hit(cache)
            except Exception as error:
                contain(COMPONENT, error)
            return value

        # Not async itself: only here, not in the coroutine, the caller's frame is next.
        def get(cache: Any, key: Any, default: Any = None) -> Any:
            # A decorator that knows its function has a default of its own, but for that of iterators:
            # this is by hand.
            if default is None and frame_of(1).f_code.co_name != DECORATED:
                if current() is None:
                    return look_outside(cache, key)
                tally = tallies.get(id(cache)) or self._tally(cache)
            else:
                tally = self._tally(cache)
            looking = original(cache, key, default)
            return looking if tally is None else self._look(looking, cache, tally, key, default)

        def get_any(cache: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
            tally = self._tally(cache)
            looking = original(cache, key, *args, **kwargs)
            default = args[0] if args else kwargs.get("default")
            return looking if tally is None else self._look(looking, cache, tally, key, default)

        return get if alike(get, original) else get_any

    def _around_get_many(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_many(cache: Any, *keys: Any, **kwargs: Any) -> Any:
            tally = self._tally(cache)
            looking = original(cache, *keys, **kwargs)
            if tally is None:
                return looking
            return self._look_many(looking, cache, tally, keys, kwargs.get("default"))

        return get_many

    def _around_set(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def set(cache: Any, key: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A001 - its name
            storing = original(cache, key, *args, **kwargs)
            done = await (timed(storing) if self._hooks.on else storing)
            self._stored(cache, (key,))
            return done

        return set

    def _around_set_many(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def set_many(cache: Any, pairs: Any, *args: Any, **kwargs: Any) -> Any:
            storing = original(cache, pairs, *args, **kwargs)
            done = await (timed(storing) if self._hooks.on else storing)
            self._stored(cache, pairs)
            return done

        return set_many

    def _stored(self, cache: Any, keys: Iterable[str]) -> None:
        if not self._hooks.on:
            return
        try:
            for key in keys:
                self._loads.stored(cache, key)
        except Exception as error:
            contain(COMPONENT, error)

    def _hit(self, cache: Any) -> None:
        if not self._hooks.on:
            return
        with contained(COMPONENT):
            self._caches.tally(cache).hits.add()

    def _missed(self, cache: Any, key: Any) -> None:
        if not self._hooks.on:
            return
        try:
            tally = self._caches.tally(cache)
            tally.misses.add()
            self._loads.missed(tally, cache, key)
        except Exception as error:
            contain(COMPONENT, error)

    def _failed(self, cache: Any) -> None:
        if not self._hooks.on:
            return
        with contained(COMPONENT):
            self._caches.tally(cache).errors.add()

    async def _look(
        self, looking: Awaitable[Any], cache: Any, tally: Tally, key: Any, default: Any
    ) -> Any:
        # `timed` would be one more coroutine; outside of a request nobody asks.
        exchange = None if CURRENT.get() is None else asks()
        try:
            value = await looking
        except Exception:
            tally.errors.add()
            raise
        finally:
            if exchange is not None:
                answered(exchange)
        try:
            # A value that is the very object given as default cannot be told from a miss; the
            # decorators have one of their own.
            if value is default:
                tally.misses.add()
                self._loads.missed(tally, cache, key)
            else:
                # As `add` does.
                row = tally.hits
                row.cells[row.at] += 1.0
        except Exception as error:
            contain(COMPONENT, error)
        return value

    async def _look_many(
        self,
        looking: Awaitable[Any],
        cache: Any,
        tally: Tally,
        keys: Iterable[Any],
        default: Any,
    ) -> Any:
        try:
            values = await timed(looking)
        except Exception:
            tally.errors.add()
            raise
        try:
            for key, value in zip(keys, values, strict=False):
                if value is default:
                    tally.misses.add()
                    self._loads.missed(tally, cache, key)
                else:
                    tally.hits.add()
        except Exception as error:
            contain(COMPONENT, error)
        return values

    def _tally(self, cache: Any) -> Tally | None:
        """Where a look-up is counted; None if it is not."""
        if not self._hooks.on:
            return None
        try:
            # Beyond this method and the hook.
            frame = sys._getframe(2)
            # What `decorated` asks first, without a call.
            by_hand = not frame.f_globals.get("__name__", "").startswith(DECORATORS)
            name = None if by_hand else decorated(frame, DECORATORS)
            if not by_hand and "chunk_number" in frame.f_locals:
                # What an iterator gave is kept one by one, under one key that was asked for first.
                return None
            if name is None:
                return self._caches.tallies.get(id(cache)) or self._caches.tally(cache)
            tally = self._functions.get(name)
            if tally is None:
                tally = self._functions[name] = Tally(self.kit.meters, name)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return tally
