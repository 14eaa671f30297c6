"""What holds the event loop: one thread that looks at each loop from outside.

A `Heart` beats on the loop; while a beat is overdue, the `Watchdog` looks at what the loop's thread
runs, and tells of it as a `Block` when the beat has come. Nothing of asyncio is patched, and a
request pays nothing: whose it is stands in the context of the running task. On the same thread a
`tail.Tail` samples the requests that take long already, and keeps that of the slow ones.
"""

from __future__ import annotations

from .blocks import Block, Blocks
from .heart import Heart
from .watch import Watchdog, refusal, watchdog_of

__all__ = ["Block", "Blocks", "Heart", "Watchdog", "refusal", "watchdog_of"]
