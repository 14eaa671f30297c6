"""Waiting for what must come, without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from tests.parts import PATIENCE

__all__ = ["until"]


async def until(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Let the loop run until it is so.

    Raises:
        TimeoutError: It did not come; a test that waits for ever would say nothing.
    """
    end = monotonic() + within
    while not condition():
        if monotonic() > end:
            msg = f"It did not come within {within} s."
            raise TimeoutError(msg)
        await asyncio.sleep(0)
