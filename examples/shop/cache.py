"""A cache that is written by hand, as most are, with a fastobs probe around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from cachetools import TTLCache

import fastobs


class Store(Protocol):
    async def get(self, key: str) -> str | None: ...

    async def set(self, key: str, value: str) -> None: ...

    async def close(self) -> None: ...


class Cache:
    """Cache-aside: look, else load and keep."""

    def __init__(self, name: str, *, redis_url: str | None, seconds: float, entries: int) -> None:
        self.probe = fastobs.cache(name)
        self.store: Store = (
            _Redis(redis_url, prefix=name, seconds=seconds)
            if redis_url
            else _InProcess(entries, seconds=seconds, evicted=self.probe.evict)
        )

    async def get(self, key: str, load: Callable[[], Awaitable[str]]) -> str:
        value = self.probe(await self.store.get(key))
        if value is not None:
            return value
        with self.probe.load(key):
            loaded = await load()
        await self.store.set(key, loaded)
        return loaded

    async def close(self) -> None:
        await self.store.close()


class _InProcess:
    def __init__(self, entries: int, *, seconds: float, evicted: Callable[[], object]) -> None:
        self._entries = _Entries(entries, seconds=seconds, evicted=evicted)

    async def get(self, key: str) -> str | None:
        return self._entries.get(key)

    async def set(self, key: str, value: str) -> None:
        self._entries[key] = value

    async def close(self) -> None:
        self._entries.clear()


class _Entries(TTLCache[str, str]):
    """Tells when an entry had to make room for another one."""

    def __init__(self, entries: int, *, seconds: float, evicted: Callable[[], object]) -> None:
        super().__init__(maxsize=entries, ttl=seconds)
        self._evicted = evicted

    def popitem(self) -> tuple[str, str]:
        self._evicted()
        return super().popitem()


class _Redis:
    def __init__(self, url: str, *, prefix: str, seconds: float) -> None:
        from redis.asyncio import Redis

        self._client: Any = Redis.from_url(url, decode_responses=True)
        self._prefix = prefix
        self._milliseconds = round(seconds * 1000)

    async def get(self, key: str) -> str | None:
        found: str | None = await self._client.get(f"{self._prefix}:{key}")
        return found

    async def set(self, key: str, value: str) -> None:
        await self._client.set(f"{self._prefix}:{key}", value, px=self._milliseconds)

    async def close(self) -> None:
        await self._client.aclose()
