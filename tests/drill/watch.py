"""Inflicts a fault, and writes down what Alertmanager was told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from tests import parts

from .faults import Drill, Stage, ask

__all__ = ["Alarm", "Outcome", "rehearse", "rest"]

DETECTED_WITHIN = 150.0
"""Seconds; the most patient alert of the drills waits an hour, divided by the usual pace."""
RESOLVED_WITHIN = 210.0
AFTERWARDS = 8.0
"""Seconds that the fault goes on once it was detected, for other alerts to come."""
POLL = 0.25
RANK = {"none": 0, "warning": 1, "critical": 2}
SHOPPING = ("/api/v1/products/{}", "/api/v1/products?after={}", "/api/v1/products/{}/reviews")


class Alarm(NamedTuple):
    """An alert as the on-call knows it."""

    name: str
    severity: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a drill went. Times are seconds from the begin and from the end of the fault."""

    drill: Drill
    detected: float | None = None
    resolved: float | None = None
    early: set[Alarm] = field(default_factory=set)
    """What fired before there was a fault."""
    fired: set[Alarm] = field(default_factory=set)
    """What fired from the begin of the fault on, muted ones included."""
    reached: set[Alarm] = field(default_factory=set)
    """What was not muted by a worse one."""

    @property
    def expected(self) -> Alarm:
        return Alarm(self.drill.alert, self.drill.severity)

    @property
    def symptoms(self) -> set[Alarm]:
        """Others that are right: they tell what users notice, or the next degree of the same."""
        names = self.drill.symptoms | {self.drill.alert}
        return {alarm for alarm in self.fired if alarm.name in names} - {self.expected}

    @property
    def surprises(self) -> set[Alarm]:
        """Others, whatever their severity."""
        return self.early | (self.fired - self.symptoms - {self.expected})

    @property
    def passed(self) -> bool:
        """It came, it went, and nothing as loud came that is wrong."""
        least = RANK[self.drill.severity]
        wrong = [alarm for alarm in self.surprises if RANK[alarm.severity] >= least]
        return self.detected is not None and self.resolved is not None and not wrong

    def line(self) -> str:
        """One line for the terminal."""
        came = "never" if self.detected is None else f"after {self.detected:.0f} s"
        went = "never" if self.resolved is None else f"after {self.resolved:.0f} s"
        others = ", ".join(
            f"{alarm.name} ({alarm.severity}{', before the fault' if alarm in self.early else ''})"
            for alarm in sorted(self.surprises)
        )
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.drill.name}: {self.drill.alert} came {came}, "
            f"went {went}; {len(self.symptoms)} symptoms; unexpected: {others or 'none'}"
        )


def rehearse(drill: Drill, stage: Stage) -> Outcome:
    """Calm, fault, calm."""
    outcome = Outcome(drill=drill)
    parts.eventually(stage.is_complete, within=60)
    with _repeated(partial(_shop, stage), clients=3, every=0.25):
        _follow(stage, lambda found: outcome.early.update(map(_alarm, found)), drill.calm)
        with _repeated(partial(drill.inflict, stage), clients=drill.clients, every=drill.every):
            began = time.monotonic()

            def note(found: list[dict[str, Any]]) -> bool:
                outcome.fired.update(map(_alarm, found))
                outcome.reached.update(
                    _alarm(alert) for alert in found if alert["status"]["state"] == "active"
                )
                return any(map(partial(_is_expected, drill), found))

            if _follow(stage, note, DETECTED_WITHIN):
                outcome.detected = time.monotonic() - began
                _follow(stage, lambda found: note(found) and False, AFTERWARDS)
        ended = time.monotonic()
        if outcome.detected is not None and _follow(
            stage, lambda found: not note(found), RESOLVED_WITHIN
        ):
            outcome.resolved = time.monotonic() - ended
    return outcome


def rest(stage: Stage, seconds: float) -> set[Alarm]:
    """Everything that Alertmanager is told while there is nothing but ordinary requests."""
    told: set[Alarm] = set()
    parts.eventually(stage.is_complete, within=60)
    with _repeated(partial(_shop, stage), clients=3, every=0.25):
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while time.monotonic() < deadline:
            told.update(map(_alarm, stage.alertmanager.alerts()))
            pause.wait(1.0)
    return told


def _follow(
    stage: Stage, question: Callable[[list[dict[str, Any]]], object], within: float
) -> bool:
    """Show it the alerts again and again; whether it said yes in time."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while time.monotonic() < deadline:
        alerts = stage.alertmanager.alerts()
        if question([one for one in alerts if one["labels"]["severity"] != "none"]):
            return True
        pause.wait(POLL)
    return False


def _alarm(alert: dict[str, Any]) -> Alarm:
    return Alarm(alert["labels"]["alertname"], alert["labels"]["severity"])


def _is_expected(drill: Drill, alert: dict[str, Any]) -> bool:
    alarm = Alarm(drill.alert, drill.severity)
    return _alarm(alert) == alarm and drill.labels.items() <= alert["labels"].items()


def _shop(stage: Stage) -> None:
    """A light load of ordinary requests."""
    ask(random.choice(SHOPPING).format(random.randint(1, 40)), stage)


@contextmanager
def _repeated(blow: Callable[[], object], *, clients: int, every: float) -> Iterator[None]:
    over = threading.Event()

    def strike() -> None:
        while not over.wait(every):
            blow()

    threads = [threading.Thread(target=strike, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
