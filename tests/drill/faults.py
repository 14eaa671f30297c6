"""What is done to the shop, and which alert has to say so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from alerts.kit import Severity
from fastobs import catalogue
from fastobs.cells.slots import owner
from tests import parts

__all__ = ["DRILLS", "WORKERS", "Drill", "Stage"]

WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a drill takes place."""

    shop: parts.Server
    prometheus: parts.Prometheus
    alertmanager: parts.Alertmanager
    workers: Path
    """The folder that the workers share."""

    def is_complete(self) -> bool:
        """Whether Prometheus sees every worker."""
        found = self.prometheus.query(f'{catalogue.WORKERS.name}{{state="live"}}')
        return [sample.value for sample in found] == [WORKERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One fault, and what it must lead to.

    Attributes:
        name: What ``--only`` takes.
        fault: In words, for the table.
        inflict: One blow; repeated until the alert has come.
        clients: How many inflict it at the same time.
        every: Seconds between two blows of one client.
        alert: The alert that must fire.
        labels: What it must name.
        symptoms: Other alerts that are right about this fault, for they tell what users notice.
        calm: Seconds of light load before; more if the alert compares with the past.
    """

    name: str
    fault: str
    inflict: Callable[[Stage], object]
    clients: int = 1
    every: float = 0.1
    alert: str
    severity: Severity = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)
    symptoms: frozenset[str] = frozenset()
    calm: float = 25.0


def ask(path: str, stage: Stage) -> None:
    """One request; what it is answered is the business of the shop."""
    with suppress(OSError):
        stage.shop.get(path)


def kill_first_worker(stage: Stage) -> None:
    """Send SIGKILL to the worker in the first slot, if all workers are there."""
    with suppress(OSError, ValueError):
        if stage.is_complete():
            first = min(stage.workers.rglob("0.cells"))
            if pid := owner(first.parent, 0):
                os.kill(pid, signal.SIGKILL)


LATENCY = frozenset({"FastobsLatencyP50High", "FastobsLatencyP99High", "FastobsErrorBudgetBurn"})
ERRORS = frozenset({"FastobsErrorRatioHigh", "FastobsErrorBudgetBurn"})

DRILLS = (
    Drill(
        name="cold-cache",
        fault="a release changes the cache's keys",
        inflict=partial(ask, "/faults/renamed-keys"),
        clients=2,
        alert="FastobsCacheHitRatioDrop",
        labels={"cache": "products"},
        # The usual ratio is that of an hour ago.
        calm=150.0,
    ),
    Drill(
        name="leaked-connection",
        fault="an endpoint forgets its connections",
        inflict=partial(ask, "/faults/leaked-connection"),
        every=1.0,
        alert="FastobsConnectionsLeaked",
        labels={catalogue.ROUTE: "/faults/leaked-connection"},
    ),
    Drill(
        name="lazy-loads",
        fault="a loop of queries (N+1)",
        inflict=partial(ask, "/mistakes/lazy-loads"),
        every=0.5,
        alert="FastobsRepeatedQueries",
        labels={catalogue.ROUTE: "/mistakes/lazy-loads"},
        symptoms=frozenset({"FastobsLatencyP99High"}),
    ),
    Drill(
        name="blocked-loop",
        fault="`time.sleep` in an `async def`",
        inflict=partial(ask, "/mistakes/blocking-call"),
        clients=2,
        every=0.5,
        alert="FastobsEventLoopBlocked",
        symptoms=LATENCY,
    ),
    Drill(
        name="exhausted-pool",
        fault="more callers than the pool has connections",
        inflict=partial(ask, "/mistakes/small-pool"),
        clients=10,
        every=0.01,
        alert="FastobsPoolExhausted",
        severity="critical",
        labels={catalogue.POOL: "shop-cramped"},
        symptoms=LATENCY
        | ERRORS
        | {"FastobsPoolSaturated", "FastobsPoolTimeouts", "FastobsPoolWaitHigh"}
        | {"FastobsRouteLatencyP99High"},
    ),
    Drill(
        name="429-storm",
        fault="one client searches without a pause",
        inflict=partial(ask, "/api/v1/search?q=lamp"),
        alert="FastobsRateLimitSpike",
    ),
    Drill(
        name="errors",
        fault="one request in twenty ends in an exception",
        inflict=partial(ask, "/mistakes/unhandled-error"),
        every=2.0,
        alert="FastobsErrorRatioHigh",
        severity="critical",
        symptoms=ERRORS,
    ),
    Drill(
        name="slow-upstream",
        fault="a partner takes half a second",
        inflict=partial(ask, "/mistakes/slow-upstream"),
        clients=2,
        alert="FastobsRouteLatencyP99High",
        labels={catalogue.ROUTE: "/mistakes/slow-upstream"},
        symptoms=LATENCY,
    ),
    Drill(
        name="killed-worker",
        fault="the kernel kills one worker again and again",
        inflict=kill_first_worker,
        every=1.0,
        alert="FastobsWorkerChurn",
    ),
)
