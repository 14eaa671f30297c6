"""Do the dependencies answer?"""

from __future__ import annotations

from fastobs.catalogue import HEALTH_UP
from fastobs.promql import gauge, smallest

from .charts import timeline
from .kit import SCOPE, Chart, query

__all__ = ["checks"]


def checks() -> list[Chart]:
    """Every health check over time."""
    return [
        timeline(
            "Dependencies",
            "When did which dependency fail its health check, on any worker?",
            query(
                smallest(gauge(HEALTH_UP, *SCOPE), by=["check"]),
                "{{check}}",
                maybe_empty="nobody has asked /_fastobs/readyz yet",
            ),
            texts={"0": ("fails", "red"), "1": ("answers", "green")},
            alert="health/FastobsHealthCheckFailing",
            board="fastobs-pools",
        )
    ]
