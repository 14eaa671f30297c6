"""What the example for Alertmanager mutes, asked of a real one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from alerts.kit import Alert
from tests import parts

from .test_rules import RULES, labels_of

EXAMPLE = Path(__file__).parents[2] / "examples/stack/alertmanager/alertmanager.yml"
CONFIG: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
ALERTS = [rule for _, rule in RULES if isinstance(rule, Alert)]
SEVERITIES = {(alert.name, alert.severity) for alert in ALERTS}

POOL = {"instance": "a:1", "worker": "0", "db_client_connection_pool_name": "main"}
BURN = {"slo": "availability", "window": "1h"}

Labels = dict[str, str]


def firing(name: str, severity: str, **labels: str) -> Labels:
    assert (name, severity) in SEVERITIES
    return {"alertname": name, "severity": severity, "job": "shop", **labels}


CASES = [
    (
        "the worse degree mutes the other one of the same worker",
        firing("FastobsEventLoopBlocked", "critical", instance="a:1", worker="0"),
        [firing("FastobsEventLoopBlocked", "warning", instance="a:1", worker="0")],
        [firing("FastobsEventLoopBlocked", "warning", instance="a:1", worker="1")],
    ),
    (
        "a budget's page mutes its ticket, not that of the other objective",
        firing("FastobsErrorBudgetBurn", "critical", **BURN),
        [firing("FastobsErrorBudgetBurn", "warning", slo="availability", window="3d")],
        [firing("FastobsErrorBudgetBurn", "warning", slo="latency", window="3d")],
    ),
    (
        "a page about failures mutes the plain lines of that service",
        firing("FastobsErrorBudgetBurn", "critical", **BURN),
        [
            firing("FastobsErrorRatioHigh", "warning", slo="availability"),
            firing("FastobsErrorRatioHigh", "critical", slo="availability"),
        ],
        [
            firing("FastobsErrorRatioHigh", "critical", slo="availability") | {"job": "other"},
            firing("FastobsLatencyP99High", "warning"),
        ],
    ),
    (
        "a ticket about failures mutes no page",
        firing("FastobsErrorBudgetBurn", "warning", slo="availability", window="3d"),
        [],
        [firing("FastobsErrorRatioHigh", "critical", slo="availability")],
    ),
    (
        "a page about slowness mutes the ticket, and not the page about what is slower still",
        firing("FastobsErrorBudgetBurn", "critical", slo="latency", window="1h"),
        [firing("FastobsLatencyP99High", "warning")],
        [
            firing("FastobsLatencyP99High", "critical"),
            firing("FastobsErrorRatioHigh", "critical", slo="availability"),
        ],
    ),
    (
        "an empty pool mutes that it is nearly full and waited for",
        firing("FastobsPoolExhausted", "critical", **POOL),
        [
            firing("FastobsPoolSaturated", "warning", **POOL),
            firing("FastobsPoolWaitHigh", "warning", db_client_connection_pool_name="main"),
            firing("FastobsPoolWaitHigh", "critical", db_client_connection_pool_name="main"),
        ],
        [
            firing("FastobsPoolSaturated", "warning", **{**POOL, "worker": "1"}),
            firing("FastobsPoolWaitHigh", "critical", db_client_connection_pool_name="other"),
        ],
    ),
    (
        "a dependency that answers nobody mutes that it does not answer somebody",
        firing("FastobsDependencyDown", "critical", check="db"),
        [firing("FastobsHealthCheckFailing", "warning", check="db")],
        [firing("FastobsHealthCheckFailing", "warning", check="cache")],
    ),
    (
        "an instance that does not answer has no other tickets, but a page about it stays",
        firing("FastobsTargetDown", "warning", instance="a:1"),
        [firing("FastobsFileDescriptorsHigh", "warning", instance="a:1", worker="0")],
        [
            firing("FastobsFileDescriptorsHigh", "warning", instance="b:1", worker="0"),
            firing("FastobsMemoryNearLimit", "critical", instance="a:1"),
        ],
    ),
    (
        "a service that is down has no other problems",
        firing("FastobsServiceDown", "critical"),
        [
            firing("FastobsTargetDown", "warning", instance="a:1"),
            firing("FastobsErrorRatioHigh", "critical", slo="availability"),
        ],
        [firing("FastobsErrorRatioHigh", "critical", slo="availability") | {"job": "other"}],
    ),
]


@pytest.fixture(scope="module")
def manager() -> Iterator[parts.Alertmanager]:
    with parts.alertmanager(config=CONFIG) as running:
        yield running


@pytest.mark.integration
@pytest.mark.parametrize(
    ("cause", "muted", "heard"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_cause_mutes_its_echo_and_nothing_else(manager, request, cause, muted, heard):
    """Whoever is called is called about one thing."""
    # Each case is in a world of its own, or the causes of the others would mute, too.
    world = re.sub(r"\W+", "-", request.node.callspec.id)
    sent = [mine(alert, world) for alert in (cause, *muted, *heard)]
    post(manager, sent)
    settle(manager, world)

    found = {frozenset(one["labels"].items()): one["status"]["state"] for one in manager.alerts()}
    states = [found[frozenset(alert.items())] for alert in sent]
    assert states == ["active"] + ["suppressed"] * len(muted) + ["active"] * len(heard)


@pytest.mark.integration
def test_one_incident_is_one_page(manager):
    """What a full pool sets off comes in one message, and with nothing of another service."""
    incident = [
        firing("FastobsPoolExhausted", "critical", **POOL),
        firing("FastobsPoolTimeouts", "critical", db_client_connection_pool_name="main"),
        firing("FastobsLatencyP99High", "critical"),
    ]
    elsewhere = firing("FastobsLatencyP99High", "critical")
    sent = [*(mine(alert, "incident") for alert in incident), mine(elsewhere, "elsewhere")]
    post(manager, sent)

    def pages() -> list[set[str]]:
        groups = json.loads(parts.get(f"http://{manager.address}/api/v2/alerts/groups").body)
        return [
            {alert["labels"]["alertname"] for alert in group["alerts"]}
            for group in groups
            if group["receiver"]["name"] == "on-call"
            and group["labels"]["job"] in {sent[0]["job"], sent[-1]["job"]}
        ]

    parts.eventually(lambda: sum(map(len, pages())) == len(sent))
    assert sorted(map(sorted, pages())) == [
        ["FastobsLatencyP99High"],
        ["FastobsLatencyP99High", "FastobsPoolExhausted", "FastobsPoolTimeouts"],
    ]


@pytest.mark.integration
def test_the_watchdog_is_never_muted(manager):
    """Not even by a service that is down: it has no job."""
    down = mine(firing("FastobsServiceDown", "critical"), "watchdog")
    watchdog = {"alertname": "FastobsWatchdog", "severity": "none"}
    post(manager, [down, watchdog])
    settle(manager, "watchdog")

    (found,) = [one for one in manager.alerts() if one["labels"] == watchdog]
    assert found["status"]["state"] == "active"
    assert [one["name"] for one in found["receivers"]] == ["dead-man-switch"]


def test_amtool_accepts_the_example():
    """As Alertmanager will."""
    assert "SUCCESS" in parts.amtool("check-config", EXAMPLE)


@pytest.mark.parametrize("rule", CONFIG["inhibit_rules"], ids=str)
def test_both_sides_have_the_labels_that_must_be_equal(rule):
    """A label that neither has is equal; then one pool's problem would mute another's."""
    for side in ("source_matchers", "target_matchers"):
        names = [word.split('"')[1] for word in rule[side] if word.startswith("alertname =")]
        for alert in [alert for alert in ALERTS if alert.name in names]:
            assert set(rule["equal"]) <= labels_of(alert.expr) | {"job", "instance"}
        assert {name for name in names if "+" not in name} <= {alert.name for alert in ALERTS}


def test_what_tells_two_alerts_of_a_name_apart_is_compared():
    """Of each alert with two degrees, every label but the window; else one worker mutes another."""
    (degrees,) = [rule for rule in CONFIG["inhibit_rules"] if "alertname" in rule["equal"]]
    pages = {alert.name for alert in ALERTS if alert.severity == "critical"}

    for alert in ALERTS:
        if alert.severity == "warning" and alert.name in pages:
            assert labels_of(alert.expr) - {"le"} <= set(degrees["equal"]), alert.name


def settle(manager: parts.Alertmanager, world: str) -> None:
    """Wait until all that was sent before has been looked at: what mutes is, one after the other."""
    cause = firing("FastobsServiceDown", "critical")
    echo = firing("FastobsTargetDown", "warning", instance="a:1")
    last = [mine(alert, f"{world}-settled") for alert in (cause, echo)]
    post(manager, last)

    def is_muted() -> bool:
        found = manager.alerts(
            filter=[f'{name}="{last[1][name]}"' for name in ("job", "alertname")]
        )
        return [one["status"]["state"] for one in found] == ["suppressed"]

    parts.eventually(is_muted)


def mine(alert: Labels, world: str) -> Labels:
    return alert | {"job": f"{alert['job']}-{world}"}


def post(manager: parts.Alertmanager, alerts: list[Labels]) -> None:
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    url = f"http://{manager.address}/api/v2/alerts"
    with urlopen(
        Request(url, body, {"Content-Type": "application/json"}), timeout=parts.PATIENCE
    ) as answer:
        assert answer.status == 200
