"""The HTTP cache: whether a caller that asks if its copy is still good may keep it (304)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from fastobs import catalogue
from fastobs._exchange import Exchange, Finish, Signal
from fastobs.cells import Meters
from fastobs.cells.meters import Counter

__all__ = ["NAME", "revalidations"]

NAME = "http"
"""The label ``cache``. What each route answered is in the http family, by status."""

RESULTS: dict[int | None, str] = {304: "hit", 200: "miss"}
"""By status; what else is answered says nothing of a copy."""

BY_TAG, BY_TIME = b"if-none-match", b"if-modified-since"


def revalidations(meters: Meters) -> Iterator[tuple[bytes, Signal]]:
    """Signals by the header that asks for them: 304 is a hit, the whole answer again a miss."""
    yield BY_TAG, _Revalidations(meters)
    # With a tag the time is ignored (RFC 9110, 13.1.3), and the request is told of already.
    yield BY_TIME, _Revalidations(meters, unless=BY_TAG)


class _Revalidations:
    def __init__(self, meters: Meters, *, unless: bytes = b"") -> None:
        self._meters = meters
        self._unless = unless

    def __call__(self, exchange: Exchange) -> Finish | None:
        # For other methods the header is a condition for a change, and no question to a cache.
        if exchange.method not in {"GET", "HEAD"} or self._unless in exchange.request_headers:
            return None
        return self._finish

    def _finish(self, exchange: Exchange) -> None:
        if exchange.status in RESULTS:
            self._rows[exchange.status].add()

    @cached_property
    def _rows(self) -> dict[int | None, Counter]:
        # Both exist from the first one on: a ratio of one series alone would have gaps.
        return {
            status: self._meters.counter(catalogue.CACHE_REQUESTS, NAME, result)
            for status, result in RESULTS.items()
        }
