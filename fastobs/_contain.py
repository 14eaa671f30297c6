"""Our bug is not the user's outage: exceptions of ours end here, counted and logged once per place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["contain", "contained", "report_to"]

logger = logging.getLogger("fastobs")

_logged: set[tuple[str, str]] = set()
_counters: list[Callable[[str], None]] = []


def report_to(count: Callable[[str], None]) -> None:
    """Have every contained error counted by its component."""
    _counters[:] = [count]


def contain(component: str, error: Exception) -> None:
    """Count an error of ours and log it, once per component and type.

    Call it from ``except Exception as error`` around our own code, never around the user's.

    Raises:
        Exception: The error itself, under ``FASTOBS_STRICT=1``, which our tests set.
    """
    # Asked first: what follows tells others that it is over, and they may go on to another setting.
    strict = os.environ.get("FASTOBS_STRICT") == "1"
    for count in _counters:
        count(component)
    place = (component, type(error).__qualname__)
    if place not in _logged:
        _logged.add(place)
        logger.error(
            "fastobs: %s failed and was contained; your request was not affected. "
            "Further errors of this kind are counted in fastobs_instrumentation_errors_total.",
            component,
            exc_info=error,
        )
    if strict:
        raise error


@contextmanager
def contained(component: str) -> Iterator[None]:
    """`contain` as a block, for code that is not on the request path."""
    try:
        yield
    except Exception as error:
        contain(component, error)
