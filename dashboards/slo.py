"""How much error budget is left, and how fast does it burn?"""

from __future__ import annotations

from alerts import slo
from alerts.thresholds import Thresholds
from fastobs.promql import ALERTS, gauge, largest

from .charts import gauge as dial
from .charts import line, stat, timeline, timeseries
from .kit import JOB, Chart, Steps, query, worse_below

__all__ = ["budget", "overview"]

SCOPE = (JOB, 'slo=~"$slo"')
RULES = "needs the recording rules of alerts/"
YOUNG = f"{RULES}, and traffic since they were loaded"
LEGEND = "{{job}}, {{slo}}"
SPENT = 0.0
WINDOWS = ("5m", "1h", "6h")


def overview() -> list[Chart]:
    """The number beside the targets."""
    return [
        stat(
            "Error budget left",
            "May we still take risks? Of 30 days, the objective that is worst off.",
            query(f"min({slo.REMAINING.where(JOB)})", "30 days", maybe_empty=YOUNG),
            unit="percentunit",
            width=3,
            steps=worse_below(SPENT),
            no_value="no rules",
            alert="http/FastobsErrorBudgetExhausted",
            board="fastobs-slo",
        )
    ]


def budget(limits: Thresholds) -> list[Chart]:
    """What is left, what burns, and what was said about it."""
    return [
        dial(
            "Budget left (30 days)",
            "May we still take risks?",
            query(slo.REMAINING.where(*SCOPE), LEGEND, maybe_empty=YOUNG),
            unit="percentunit",
            steps=worse_below(SPENT),
            alert="http/FastobsErrorBudgetExhausted",
        ),
        timeseries(
            "Burn rate",
            "How many times too fast is the budget spent? At 1 it lasts exactly 30 days. A page "
            "comes when a long and its short window are over the same line.",
            *(query(_burn(window), f"{window}, {LEGEND}", maybe_empty=YOUNG) for window in WINDOWS),
            unit="none",
            width=16,
            steps=_lines(limits),
            alert="http/FastobsErrorBudgetBurn",
        ),
        timeseries(
            "Bad requests",
            "Which share of requests broke the promise?",
            query(slo.error_ratio("5m").where(*SCOPE), LEGEND, maybe_empty=YOUNG),
            query(
                f'{slo.BUDGET}{{slo=~"$slo"}}',
                "allowed, {{slo}}",
                maybe_empty=RULES,
            ),
            unit="percentunit",
            width=12,
            board="fastobs-route",
            overrides=[line("allowed")],
        ),
        timeseries(
            "Budget over time",
            "When did we spend it?",
            query(slo.REMAINING.where(*SCOPE), LEGEND, maybe_empty=YOUNG),
            unit="percentunit",
            width=12,
            low=None,
            high=1,
            steps=worse_below(SPENT),
            alert="http/FastobsErrorBudgetExhausted",
        ),
        _alerts(),
    ]


def _burn(window: str) -> str:
    return f"{slo.error_ratio(window).where(*SCOPE)} / on (slo) group_left () {slo.BUDGET}"


def _lines(limits: Thresholds) -> Steps:
    return [
        {"color": "green", "value": None},
        {"color": "yellow", "value": limits.burn_3d},
        {"color": "orange", "value": limits.burn_1d},
        {"color": "red", "value": limits.burn_6h},
        {"color": "dark-red", "value": limits.burn_1h},
    ]


def _alerts() -> Chart:
    firing = gauge(ALERTS, 'alertname="FastobsErrorBudgetBurn"', 'alertstate="firing"', *SCOPE)
    return timeline(
        "Burn alerts",
        "Which burn alert fired when? All instances, whatever is chosen above.",
        query(
            largest(firing, by=["slo", "window", "severity"]),
            "{{slo}}, {{window}}, {{severity}}",
            maybe_empty="nothing burns",
        ),
        texts={"1": ("firing", "red")},
        width=24,
        tall=5,
    )
