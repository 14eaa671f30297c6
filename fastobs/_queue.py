"""How long a request waited in front of us, by what the proxy says."""

from __future__ import annotations

import re

from ._exchange import Exchange

__all__ = ["queued"]

STAMP = re.compile(rb"(?:t=)?(\d{9,20}(?:\.\d{1,9})?)", re.ASCII)
BEYOND = 1e11
"""No time in seconds is above it (the year 5138), and none of ours in milliseconds below."""
SKEW = 1.0
"""Seconds by which the proxy's clock may be ahead of ours."""
MOST = 600.0
"""Seconds; who says more has another clock, or made it up."""


def queued(exchange: Exchange, arrived: float) -> float | None:
    """Seconds from the proxy to us, by ``X-Request-Start``; None if it does not say, or nonsense.

    The header is ``t=`` and the time, or the time alone, in seconds, milli-, micro- or nanoseconds
    since 1970, whichever makes sense: proxies differ.

    Args:
        exchange: Whose header it is.
        arrived: When it came to us, in seconds since 1970.
    """
    stamp = STAMP.fullmatch(exchange.request_headers.get(b"x-request-start", b"").strip())
    if stamp is None:
        return None
    sent = float(stamp[1])
    while sent > BEYOND:
        sent /= 1000
    waited = arrived - sent
    return max(waited, 0.0) if -SKEW <= waited <= MOST else None
