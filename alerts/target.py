"""Does Prometheus reach the service, and do alerts reach you?"""

from __future__ import annotations

from fastobs.catalogue import BUILD_INFO
from fastobs.promql import UP, gauge, present

from .kit import Alert, Group, Record, bound
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["INSTANCES", "JOBS", "groups"]

BOARD = "fastobs-overview"


def _remembered(name: str, *by: str) -> Record:
    """Where fastobs was seen, for as long as Prometheus scrapes there.

    A rule that reads its own past needs no list of jobs, and does not forget a service that has
    been down for longer than any window.
    """
    on = f"on ({', '.join(by)})"
    return Record(
        name=name,
        expr=f"{present(gauge(BUILD_INFO), by=by)}\n"
        f"or last_over_time({name}[1h]) and {on} {gauge(UP)}",
    )


INSTANCES = _remembered("fastobs:instance:seen", "job", "instance")
JOBS = _remembered("fastobs:job:seen", "job")


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:  # noqa: ARG001 - one signature for all families
    """Targets that stopped to answer, and the alert that always fires."""
    alerts = (_down(), _all_down(), _lost(), _absent(), _watchdog())
    return (Group(name="fastobs-target", rules=(INSTANCES, JOBS, *alerts)),)


def _down() -> Alert:
    return Alert(
        name="FastobsTargetDown",
        severity="warning",
        expr=bound(f"{gauge(UP)} == 0", f"on (job, instance) {INSTANCES}"),
        lasts="2m",
        summary="{{ $labels.instance }} of {{ $labels.job }} does not answer Prometheus.",
        description="Its numbers are missing in every sum since then, and it may be down for users too.",
        dashboard=BOARD,
    )


def _all_down() -> Alert:
    return Alert(
        name="FastobsServiceDown",
        severity="critical",
        expr=f"{JOBS} unless on (job) {gauge(BUILD_INFO)}",
        lasts="1m",
        summary="No instance of {{ $labels.job }} answers Prometheus.",
        description="fastobs was seen in this job before; now no instance sends its series.",
        dashboard=BOARD,
    )


def _lost() -> Alert:
    return Alert(
        name="FastobsJobLost",
        severity="warning",
        expr=f"last_over_time({JOBS}[1h]) unless on (job) {gauge(UP)}",
        lasts="5m",
        summary="Prometheus no longer scrapes {{ $labels.job }}.",
        description=(
            "The job had instances within the last hour; service discovery finds none now. It ends by itself "
            "after an hour if the job was removed on purpose."
        ),
        dashboard=BOARD,
    )


def _absent() -> Alert:
    return Alert(
        name="FastobsAbsent",
        severity="warning",
        expr=f"absent({gauge(BUILD_INFO)})",
        lasts="5m",
        summary="Prometheus receives nothing from fastobs.",
        description=(
            "No target carries the series of fastobs. Is the scrape job configured, and does the "
            "app call instrument()?"
        ),
        dashboard=BOARD,
    )


def _watchdog() -> Alert:
    return Alert(
        name="FastobsWatchdog",
        severity="none",
        expr="vector(1)",
        summary="The way from Prometheus to you works.",
        description=(
            "This alert always fires. Send it to a dead man's switch: when it stops to arrive, "
            "Prometheus or Alertmanager is down."
        ),
        dashboard=BOARD,
    )
