"""Limiters of pyrate-limiter, which is also the one under fastapi-limiter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable
from typing import Any
from weakref import WeakSet, ref

from pyrate_limiter import Limiter

from fastobs._contain import contain
from fastobs._decisions import Limit
from fastobs._exchange import CURRENT
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks, alike

__all__ = ["PyrateLimiter", "probe"]

COMPONENT = "probes.pyrate_limiter"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return PyrateLimiter(kit)


class Known(Limit):
    """The limit of a limiter, while that is there.

    Attributes:
        row: Where it counts what is allowed outside of requests; None before it was.
    """

    __slots__ = ("_gone", "row")

    def __init__(self, meters: Meters, limiter: str, limit: str, gone: ref[Any]) -> None:
        super().__init__(meters, limiter, limit)
        self._gone = gone
        self.row: Any = None


class PyrateLimiter(Probe):
    """The limits family, for pyrate-limiter: what every limiter decides."""

    kinds = (Limiter,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._mine: WeakSet[Any] = WeakSet()
        # By the id of the limiter, while it is there.
        self._limits: dict[int, Known] = {}
        # They know their limiter by its name.
        kit.names.on_lend.append(self._limits.clear)

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._hooks.wrap(Limiter, "try_acquire", self._around)
        self._hooks.wrap(Limiter, "try_acquire_async", self._around_awaited)
        # Private, and the only way that a decorated def function goes.
        if "_try_acquire" in Limiter.__dict__:
            self._hooks.wrap(Limiter, "_try_acquire", self._around_decorated)

    def detach(self) -> None:
        self._hooks.undo()
        self._limits.clear()

    def read(self) -> Iterator[Reading]:
        # The rates of a limiter may change.
        self._limits.clear()
        yield from ()

    def watch(self, obj: Any, name: str | None) -> bool:
        if not isinstance(obj, Limiter):
            return False
        if name is not None:
            self._call(obj, name)
        return True

    def found(self, obj: Any, name: str) -> None:
        if self.kit.names.of(obj) is None:
            self._call(obj, name)

    def status(self) -> Iterator[tuple[str, str]]:
        for limiter in list(self._mine):
            yield self.kit.names.of(limiter) or "", "pyrate-limiter Limiter"

    def _call(self, limiter: Any, name: str) -> None:
        self._mine.add(limiter)
        self.kit.names.lend(limiter, self.kit.names.claim(limiter, name))

    # What follows runs within the app's calls: it must not raise.

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        limits, current = self._limits, CURRENT.get

        def try_acquire(
            limiter: Any,
            name: Any = "pyrate",
            weight: Any = 1,
            blocking: Any = True,  # noqa: FBT002 - as the library has it
            timeout: Any = -1,
        ) -> Any:
            try:
                allowed = original(limiter, name, weight, blocking, timeout)
            except Exception:
                self._decided(limiter, "error")
                raise
            if allowed is not True:
                return self._told(limiter, allowed)
            try:
                if current() is None:
                    # As `decide` does: a call takes as long as that.
                    row = limits[id(limiter)].row
                    row.cells[row.at] += 1.0
                    return True
            except (AttributeError, KeyError):
                pass
            except Exception as error:
                contain(COMPONENT, error)
                return True
            self._decided(limiter, "allowed")
            return True

        def try_acquire_any(limiter: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                allowed = original(limiter, *args, **kwargs)
            except Exception:
                self._decided(limiter, "error")
                raise
            return self._told(limiter, allowed)

        return try_acquire if alike(try_acquire, original) else try_acquire_any

    def _around_awaited(
        self, original: Callable[..., Awaitable[bool]]
    ) -> Callable[..., Awaitable[bool]]:
        limits, current = self._limits, CURRENT.get

        async def try_acquire_async(
            limiter: Any,
            name: Any = "pyrate",
            weight: Any = 1,
            blocking: Any = True,  # noqa: FBT002 - as the library has it
            timeout: Any = -1,  # noqa: ASYNC109 - as the library has it
        ) -> bool:
            try:
                allowed = await original(limiter, name, weight, blocking, timeout)
            except Exception:
                self._decided(limiter, "error")
                raise
            try:
                if allowed is True and current() is None:
                    row = limits[id(limiter)].row
                    row.cells[row.at] += 1.0
                    return True
            except (AttributeError, KeyError):
                pass
            except Exception as error:
                contain(COMPONENT, error)
                return allowed
            self._decided(limiter, "allowed" if allowed else "limited")
            return allowed

        async def try_acquire_any(limiter: Any, *args: Any, **kwargs: Any) -> bool:
            return await self._awaited(limiter, original(limiter, *args, **kwargs))

        return try_acquire_async if alike(try_acquire_async, original) else try_acquire_any

    def _around_decorated(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def any_try_acquire(
            limiter: Any, *args: Any, _allow_async_result: bool = True, **kwargs: Any
        ) -> Any:
            if _allow_async_result:
                # From one of the methods above, which tells the outcome itself.
                return original(limiter, *args, **kwargs)
            try:
                allowed = original(limiter, *args, _allow_async_result=False, **kwargs)
            except Exception as error:
                self._decided(limiter, "limited" if isinstance(error, TimeoutError) else "error")
                raise
            self._decided(limiter, "allowed" if allowed else "limited")
            return allowed

        def _try_acquire(
            limiter: Any,
            name: Any,
            weight: Any,
            blocking: Any,
            timeout: Any = -1,
            _force_async: Any = False,  # noqa: FBT002 - as the library has it
            _allow_async_result: Any = True,  # noqa: FBT002 - as the library has it
        ) -> Any:
            if _allow_async_result:
                return original(limiter, name, weight, blocking, timeout, _force_async)
            # Only who decorates a def function asks so.
            given = limiter, name, weight, blocking, timeout, _force_async
            return any_try_acquire(*given, _allow_async_result=False)

        return _try_acquire if alike(_try_acquire, original) else any_try_acquire

    def _told(self, limiter: Any, allowed: Any) -> Any:
        """Tell what a call without ``await`` came to, now or when it is known."""
        if allowed is not True and isawaitable(allowed):
            # Its bucket is an asynchronous one.
            return self._awaited(limiter, allowed)
        self._decided(limiter, "allowed" if allowed else "limited")
        return allowed

    async def _awaited(self, limiter: Any, deciding: Awaitable[bool]) -> bool:
        try:
            allowed = await deciding
        except Exception:
            self._decided(limiter, "error")
            raise
        self._decided(limiter, "allowed" if allowed else "limited")
        return allowed

    def _decided(self, limiter: Any, outcome: str) -> None:
        if not self._hooks.on:
            return
        try:
            known = self._limits.get(id(limiter)) or self._remember(limiter)
            known.decide(outcome)
            if known.row is None:
                known.row = known.rows.get("allowed")
        except Exception as error:
            contain(COMPONENT, error)

    def _remember(self, limiter: Any) -> Known:
        name = self.kit.names.of(limiter)
        if name is None:
            # It may be in a variable.
            self.kit.look()
            self.found(limiter, "pyrate_limiter")
            name = self.kit.names.of(limiter) or ""
        key = id(limiter)
        gone = ref(limiter, lambda _: self._limits.pop(key, None))
        # What is acquired has the caller in its name: that is no label. The rates are.
        known = Known(self.kit.meters, name, _rates(limiter), gone)
        if self.kit.names.of(limiter) == name:
            self._limits[key] = known
        return known


def _rates(limiter: Any) -> str:
    """What is allowed, like ``5 per 60 s``; empty if a factory gives every caller its own bucket."""
    bucket = getattr(limiter.bucket_factory, "bucket", None)
    rates = getattr(bucket, "rates", None)
    if not isinstance(rates, list):
        return ""
    return ", ".join(f"{rate.limit} per {rate.interval / 1000:g} s" for rate in rates)
