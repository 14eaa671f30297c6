"""The one door for optional libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtra

__all__ = ["need"]


@contextmanager
def need(setting: str, *, extra: str) -> Iterator[None]:
    """Import what a setting asks for; absent, say what to install.

    Raises:
        MissingExtra: The library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        msg = (
            f"{setting} needs {missing.name!r}, which is not installed. "
            f"Run: pip install 'fastobs[{extra}]'"
        )
        raise MissingExtra(msg, name=missing.name) from missing
