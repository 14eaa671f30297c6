"""Two rate limiters: slowapi's by decorator, and one written by hand."""

from __future__ import annotations

from time import monotonic

from cachetools import TTLCache
from fastapi import HTTPException, status
from slowapi import Limiter
from slowapi.util import get_remote_address

import fastobs

# The decorator also holds on included routers; limits that slowapi takes from its middleware do not.
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)


class Checkouts:
    """So many orders per customer and window; each worker counts for itself."""

    def __init__(self, most: int, *, window: float) -> None:
        self._most = most
        self._window = window
        self._seen: TTLCache[tuple[int, int], int] = TTLCache(maxsize=10_000, ttl=window)
        self._probe = fastobs.limiter("checkout")
        self._limit = f"{most} per {window:g} seconds"

    def check(self, customer: int) -> None:
        """Raise 429 for the order that is one too many."""
        window = int(monotonic() / self._window)
        used = self._seen.get((customer, window), 0)
        left = self._most - used
        if not self._probe.decision(left > 0, limit=self._limit, remaining=max(left - 1, 0)):
            raise HTTPException(
                status.HTTP_429_TOO_MANY_REQUESTS,
                "Too many orders at once; try again in a moment.",
                headers={"Retry-After": str(round(self._window))},
            )
        self._seen[customer, window] = used + 1
