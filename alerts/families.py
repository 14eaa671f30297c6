"""The families, and their rule files."""

from __future__ import annotations

from collections.abc import Callable

from . import caches, health, http, limits, pools, runtime, target, telemetry
from .kit import HEADER, Group, render
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["FAMILIES", "file_name", "rendered"]

FAMILIES: dict[str, Callable[[Thresholds], tuple[Group, ...]]] = {
    "http": http.groups,
    "pools": pools.groups,
    "caches": caches.groups,
    "limits": limits.groups,
    "runtime": runtime.groups,
    "health": health.groups,
    "telemetry": telemetry.groups,
    "target": target.groups,
}


def file_name(family: str) -> str:
    """What the family's rule file is called."""
    return f"fastobs-{family}.rules.yml"


def rendered(thresholds: Thresholds = THRESHOLDS, *, header: str = HEADER) -> dict[str, str]:
    """Every rule file, by name."""
    return {
        file_name(name): render(name, groups(thresholds), header=header)
        for name, groups in FAMILIES.items()
    }
