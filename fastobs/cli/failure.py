"""What a command says when it cannot do what it was asked to."""

from __future__ import annotations

from fastobs.errors import FastobsError

__all__ = ["Failed"]


class Failed(FastobsError):  # noqa: N818 - it says what happened
    """What is wrong, why, and what to do; one line for stderr."""
