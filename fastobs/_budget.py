"""What may happen so often in a minute: a bucket of tokens that fills as time passes."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """So many per minute, all at once if need be; what exceeds it is counted.

    Args:
        per_minute: How many.
        clock: Seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._most = float(per_minute)
        self._left = self._most
        self._asked = clock()
        self._suppressed = 0

    def take(self) -> int | None:
        """How many were refused since the last one that was not; None if this one is refused."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._asked) * self._most / 60)
        self._asked = now
        if self._left < 1:
            self._suppressed += 1
            return None
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
