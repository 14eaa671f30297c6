"""Replies of Redis: told by the adapter that times commands, heard by whoever learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["OBSERVERS", "Observer"]

Observer = Callable[[Sequence[Any], Any, float], None]
"""Called with a command as it was sent, the reply or the exception that came instead of it, and the
seconds that it took; those of a pipeline took as long as it did."""

OBSERVERS: dict[str, Observer] = {}
"""Who wants to know of a command, by its name in capitals, in the task or thread that sent it. They must
be quick; if they raise, that is contained."""
