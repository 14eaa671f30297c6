"""The table of docs/drills.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import cpu_count, getloadavg
from pathlib import Path

from alerts.pace import Pace

from .watch import Alarm, Outcome

__all__ = ["PAGE", "page", "rested"]

PAGE = Path(__file__).parents[2] / "docs" / "drills.md"


NEVER = "The last run: none yet."
LAST = re.compile(r"^The last run: .*(?:\n.+)*", re.MULTILINE)


def page(outcomes: Sequence[Outcome], pace: Pace, before: str = "") -> str:
    """The page about a run of all drills.

    Args:
        outcomes: How they went.
        pace: How much faster the rules were.
        before: The page until now; what it says about calm is kept.
    """
    said = found[0] if (found := LAST.search(before)) else NEVER
    return "\n".join([*_head(pace), *map(_row, outcomes), *_foot(outcomes), *CALM, said]) + "\n"


def rested(before: str, *, minutes: float, requests: float, wrong: Sequence[str]) -> str:
    """The page with what a run without a fault has shown, instead of what it said about the last one."""
    said = (
        f"The last run: {minutes:g} minutes, {requests:,.0f} requests, on {cpu_count()} processors at a load average of\n"
        f"{getloadavg()[2]:.0f}, other work of the machine included: {', '.join(wrong) or 'no alert but the watchdog'}."
    )
    # As a function: the words are no template.
    return LAST.sub(lambda _: said, before)


def _head(pace: Pace) -> tuple[str, ...]:
    return (
        "<!-- Made by `make drill`; do not edit. -->",
        "# Drills",
        "",
        "`make drill` breaks the shop in one way after another and asks Alertmanager what it was told;",
        "`make drill ARGS='--only blocked-loop'` does one. Each drill has a shop with two workers, a Prometheus",
        "with the rules of `alerts/` and an Alertmanager with the example's inhibition to itself, and a light",
        f"load of ordinary requests. In the rules every window and every `for` is {pace.faster:g} times shorter, and",
        f"{pace.least} seconds at least; thresholds are as shipped. (`pool_checkout_age` is shortened, too.)",
        "",
        f"Times are seconds of one run on {cpu_count()} processors, at a load average of {getloadavg()[2]:.0f},",
        f"other work of the machine included. With the rules as shipped, expect up to {pace.faster:g} times as much.",
        "A machine with more to do than it can starves event loops, and with windows this short the loop's",
        "alert says so; such an alert is in the last column like any other.",
        "",
        "| drill | fault | must fire | came after | went after | symptoms that fired, too | anything else |",
        "|---|---|---|---|---|---|---|",
    )


CALM = (
    "",
    "## Half an hour without a fault",
    "",
    "`make drill ARGS='--calm 30'` is the opposite: ordinary load and the rules exactly as shipped, in which no",
    "alert may fire but the watchdog.",
    "",
)


def _row(outcome: Outcome) -> str:
    drill = outcome.drill
    cells = (
        drill.name,
        drill.fault,
        f"{drill.alert} ({drill.severity})",
        _seconds(outcome.detected),
        _seconds(outcome.resolved),
        _names(outcome.symptoms, outcome.reached),
        _surprises(outcome),
    )
    return f"| {' | '.join(cells)} |"


def _surprises(outcome: Outcome) -> str:
    before = _names(outcome.early, outcome.early)
    said = (
        f"before the fault: {before}" if before else "",
        _names(outcome.surprises - outcome.early, outcome.reached),
    )
    return "; ".join(filter(None, said)) or "nothing"


def _foot(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    passed = sum(outcome.passed for outcome in outcomes)
    return (
        "",
        f"{passed} of {len(outcomes)} drills passed: the alert came and went, and nothing of its severity or worse",
        "fired that is not a symptom. A symptom in brackets was muted by a worse degree of itself.",
    )


def _seconds(value: float | None) -> str:
    return "**never**" if value is None else f"{value:.0f} s"


def _names(alarms: Iterable[Alarm], reached: set[Alarm]) -> str:
    said = (f"{name} {severity}" for name, severity in sorted(alarms))
    quiet = {f"{name} {severity}" for name, severity in set(alarms) - reached}
    return ", ".join(f"({one})" if one in quiet else one for one in said)
