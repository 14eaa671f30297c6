"""Where an alert leads: to its runbook and to its board."""

from __future__ import annotations

import re

from fastobs.catalogue import POOL, ROUTE

__all__ = ["GRAFANA", "RUNBOOKS", "board_url", "runbook_url"]

GRAFANA = "http://127.0.0.1:3000"
"""Grafana of the compose stack; `fastobs alerts export --grafana` names another one."""
RUNBOOKS = "https://github.com/fastobs/fastobs/blob/main/docs/runbooks"
"""`fastobs alerts export --runbooks` and `fastobs dashboards export --runbooks` name others."""

VARIABLES = {"job": "job", "instance": "instance", POOL: "pool", ROUTE: "route", "slo": "slo"}
"""What a board lets choose, by the label that an alert says it with."""


def runbook_url(family: str, alert: str) -> str:
    """Where the runbook explains an alert: a heading in the family's file."""
    return f"{RUNBOOKS}/{family}.md#{alert.lower()}"


def board_url(uid: str, text: str) -> str:
    """The board of an alert, with what the alert speaks of chosen.

    Args:
        uid: The board's.
        text: What the alert says; it speaks of labels that it has, and no others can be chosen.
    """
    spoken = set(re.findall(r"\$labels\.(\w+)", text))
    chosen = [
        # Prometheus fills it in, and no space keeps a YAML file from breaking the line here.
        f"var-{variable}={{{{$labels.{label}|urlquery}}}}"
        for label, variable in VARIABLES.items()
        if label in spoken
    ]
    return f"{GRAFANA}/d/{uid}" + ("?" + "&".join(chosen) if chosen else "")
