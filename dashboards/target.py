"""Does Prometheus reach the service, and do alerts reach you?"""

from __future__ import annotations

from fastobs.promql import ALERTS, UP, count, gauge, largest, or_zero, total

from .charts import stat, timeline
from .kit import SCOPE, Chart, query

__all__ = ["alerts", "instances", "scrapes"]

OURS = 'alertname=~"Fastobs.+"'


def instances() -> list[Chart]:
    """The number beside the targets."""
    return [
        stat(
            "Instances",
            "How many instances answer scrapes, of how many?",
            query(or_zero(total(gauge(UP, *SCOPE))), "up"),
            query(or_zero(count(gauge(UP, *SCOPE))), "known"),
            unit="none",
            width=3,
            alert="target/FastobsTargetDown",
            board="fastobs-runtime",
        )
    ]


def alerts() -> list[Chart]:
    """What fires now, and what fired."""
    # Not every alert has an instance; some speak of a job, one of nothing.
    firing = gauge(ALERTS, OURS, 'alertstate="firing"', 'severity!="none"', 'job=~"$job|"')
    return [
        timeline(
            "Firing alerts",
            "Which alert fired when? All instances, whatever is chosen above.",
            query(
                largest(firing, by=["alertname", "severity"]),
                "{{alertname}}, {{severity}}",
                maybe_empty="nothing is wrong",
            ),
            texts={"1": ("firing", "red")},
            board="fastobs-slo",
        )
    ]


def scrapes() -> list[Chart]:
    """Which instance answered when."""
    return [
        timeline(
            "Scrape health",
            "When was which instance down?",
            query(largest(gauge(UP, *SCOPE), by=["instance"]), "{{instance}}"),
            texts={"0": ("down", "red"), "1": ("up", "green")},
            width=24,
            tall=4,
            alert="target/FastobsTargetDown",
        )
    ]
