"""Do the dependencies answer?"""

from __future__ import annotations

from fastobs.catalogue import HEALTH_UP
from fastobs.promql import gauge, largest, smallest

from .kit import Alert, Group
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["groups"]

BOARD = "fastobs-overview"
BY_CHECK = ("job", "check")


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:  # noqa: ARG001 - one signature for all families
    """A dependency that some instances, or all of them, do not reach."""
    return (Group(name="fastobs-health", rules=(_some(), _all())),)


def _some() -> Alert:
    return Alert(
        name="FastobsHealthCheckFailing",
        severity="warning",
        expr=f"{smallest(gauge(HEALTH_UP), by=BY_CHECK)} == 0",
        lasts="5m",
        summary="{{ $labels.check }} does not answer an instance of {{ $labels.job }}.",
        description=(
            "At least one worker fails its health check; the orchestrator takes it out of "
            "service. The board shows which."
        ),
        dashboard=BOARD,
    )


def _all() -> Alert:
    return Alert(
        name="FastobsDependencyDown",
        severity="critical",
        expr=f"{largest(gauge(HEALTH_UP), by=BY_CHECK)} == 0",
        lasts="2m",
        summary="{{ $labels.check }} answers no instance of {{ $labels.job }}.",
        description="Every worker fails this health check; requests that need it fail too.",
        dashboard=BOARD,
    )
