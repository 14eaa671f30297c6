"""What an app says about its own resources: `watch`, `cache` and `limiter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ._process import process

if TYPE_CHECKING:
    from .probes.hand import CacheProbe, LimiterProbe

__all__ = ["cache", "limiter", "watch"]

T = TypeVar("T")


def watch(obj: T, *, name: str | None = None) -> T:
    """Have an engine, a pool or a cache watched that is not found by itself, or under this name.

    Args:
        obj: What to watch; it is returned as it is.
        name: What it is called in the metrics; by default its own name, else the variable's.

    Raises:
        TypeError: Nothing here knows this kind of object; the message lists what is known.
    """
    process().probes.watch(obj, name)
    return obj


def cache(name: str) -> CacheProbe:
    """A probe for a cache written by hand: ``value = probe(store.get(key))``."""
    return process().probes.cache(name)


def limiter(name: str) -> LimiterProbe:
    """A probe for a rate limiter written by hand: ``if not probe.decision(used < most): ...``."""
    return process().probes.limiter(name)
