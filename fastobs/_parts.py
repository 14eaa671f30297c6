"""Where a request's time goes: every moment belongs to one part, the one that began last."""

from __future__ import annotations

from ._exchange import Exchange

__all__ = ["Parts", "enter", "leave"]


class Parts(dict[str, float]):
    """Seconds by part, and which parts are going on.

    Parts may lie within each other (a query in a section), beside each other (two queries at once)
    or across each other. A moment is counted once and for the part that began last, so that the
    parts of a request never add up to more than its duration.
    """

    __slots__ = ("_open", "_since")

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, part: str, now: float) -> None:
        """The part begins."""
        self._turn(now)
        self._open.append(part)

    def leave(self, part: str, now: float) -> None:
        """The part ends; if it goes on several times, one of them does."""
        self._turn(now)
        going_on = self._open
        for at in range(len(going_on) - 1, -1, -1):
            if going_on[at] == part:
                del going_on[at]
                return

    def settle(self, now: float) -> None:
        """The request ends: what goes on in a task that outlives it is not its time any more."""
        self._turn(now)
        self._open.clear()

    def _turn(self, now: float) -> None:
        if self._open:
            part = self._open[-1]
            self[part] = self.get(part, 0.0) + now - self._since
        self._since = now


def enter(exchange: Exchange | None, part: str, now: float) -> None:
    """The part begins for this exchange; nothing happens outside one, and in a closed one.

    Args:
        exchange: Whose time it is.
        part: One of `catalogue.PART`, or a section's name.
        now: Seconds, as ``perf_counter`` says.
    """
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is not Parts:
        # Made with the first part: many requests have none.
        parts = exchange.parts = Parts()
        exchange.noted = True
    parts.enter(part, now)


def leave(exchange: Exchange | None, part: str, now: float) -> None:
    """The part ends."""
    if exchange is None or exchange.closed:
        return
    parts = exchange.parts
    if type(parts) is Parts:
        parts.leave(part, now)
