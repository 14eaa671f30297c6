"""What fastapi-cache2 caches: every decorated endpoint or function is a cache of its own name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from fastapi_cache import Backend, FastAPICache

from fastobs._contain import contain, contained
from fastobs._exchange import CURRENT
from fastobs.config import Settings

from . import Kit, Probe
from ._caches import Loads, Tally, answered, asks, decorated, timed
from ._hooks import Hooks

__all__ = ["FastAPICaches", "probe"]

COMPONENT = "probes.fastapi_cache"
DECORATOR = "fastapi_cache.decorator"
BY_HAND = "fastapi-cache"
"""The name of look-ups that no decorator makes."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return FastAPICaches(kit)


class FastAPICaches(Probe):
    """The caches family, for fastapi-cache2.

    The backend's class is hooked when a decorator asks for the backend first: by then it is there,
    whichever it is.
    """

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._hooked: set[type] = set()
        self._tallies: dict[str, Tally] = {}
        self._loads = Loads()

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        plain = FastAPICache.__dict__["get_backend"]

        def get_backend(cls: type[FastAPICache]) -> Backend:
            backend: Backend = plain.__func__(cls)
            if type(backend) not in self._hooked:
                self._hook(type(backend))
            return backend

        hooked = classmethod(get_backend)
        FastAPICache.get_backend = hooked  # type: ignore[assignment, method-assign]

        def undo() -> None:
            if FastAPICache.__dict__["get_backend"] is hooked:
                FastAPICache.get_backend = plain  # type: ignore[method-assign]

        self._hooks.undone_by(undo)

    def detach(self) -> None:
        self._hooks.undo()
        self._hooked.clear()

    def status(self) -> Iterator[tuple[str, str]]:
        for name in list(self._tallies):
            yield name, "cached by fastapi-cache2"

    # What follows runs within the app's calls: it must not raise.

    def _hook(self, backend: type) -> None:
        if not self._hooks.on:
            return
        with contained(COMPONENT):
            self._hooked.add(backend)
            for name, around in (("get_with_ttl", self._around_get), ("set", self._around_set)):
                # The class that defines it may be a base that another backend shares.
                owner = next((cls for cls in backend.__mro__ if name in cls.__dict__), None)
                if owner is not None and not hasattr(owner.__dict__[name], "_fastobs"):
                    self._hooks.wrap(owner, name, around)

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tally_of, look = self._tally, self._look

        # Not async itself: only here, not in the coroutine, the caller's frame is next.
        def get_with_ttl(backend: Any, key: str) -> Any:
            tally = tally_of()
            looking = original(backend, key)
            return looking if tally is None else look(looking, backend, tally, key)

        get_with_ttl._fastobs = True  # type: ignore[attr-defined]
        return get_with_ttl

    def _around_set(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def set(backend: Any, key: str, *args: Any, **kwargs: Any) -> Any:  # noqa: A001 - its name
            storing = original(backend, key, *args, **kwargs)
            done = await (timed(storing) if self._hooks.on else storing)
            self._stored(backend, key)
            return done

        set._fastobs = True  # type: ignore[attr-defined]
        return set

    def _stored(self, backend: Any, key: str) -> None:
        if not self._hooks.on:
            return
        try:
            self._loads.stored(backend, key)
        except Exception as error:
            contain(COMPONENT, error)

    async def _look(self, looking: Any, backend: Any, tally: Tally, key: str) -> Any:
        # `timed` would be one more coroutine; outside of a request nobody asks.
        exchange = None if CURRENT.get() is None else asks()
        try:
            found = await looking
        except Exception:
            tally.errors.add()
            raise
        finally:
            if exchange is not None:
                answered(exchange)
        try:
            if found[1] is None:
                tally.misses.add()
                self._loads.missed(tally, backend, key)
            else:
                tally.hits.add()
        except Exception as error:
            contain(COMPONENT, error)
        return found

    def _tally(self) -> Tally | None:
        """Where a look-up is counted; None if it is not."""
        if not self._hooks.on:
            return None
        try:
            # Beyond this method and the hook.
            name = decorated(sys._getframe(2), DECORATOR) or BY_HAND
            tally = self._tallies.get(name)
            if tally is None:
                tally = self._tallies[name] = Tally(self.kit.meters, name)
        except Exception as error:
            contain(COMPONENT, error)
            return None
        return tally
