"""The boards, each a question, composed of the families' panels."""

from __future__ import annotations

from typing import Any

from grafanalib import core

from alerts.slo import BUDGET
from alerts.thresholds import THRESHOLDS, Thresholds
from fastobs.catalogue import (
    BUILD_INFO,
    HTTP_DURATION,
    METHOD,
    POOL,
    POOL_MAX,
    PROCESS_START,
    ROUTE,
    TARGET_INFO,
)
from fastobs.promql import ALERTS, count, gauge, over, select

from . import caches, health, http, limits, pools, runtime, slo, target, telemetry
from .kit import DATASOURCE, JOB, SCOPE, Board, Row, Variable, flow

__all__ = ["boards"]


def boards(thresholds: Thresholds = THRESHOLDS) -> list[Board]:
    """Every board that is shipped, with its colours where alerts with these thresholds fire."""
    return [
        _overview(thresholds),
        _route(thresholds),
        _slo(thresholds),
        _pools(thresholds),
        _caches_and_limits(thresholds),
        _runtime(thresholds),
        _telemetry(thresholds),
    ]


def _overview(thresholds: Thresholds) -> Board:
    strip = [
        *http.targets(thresholds),
        *runtime.cpu_of_limit(thresholds),
        *target.instances(),
        *slo.overview(),
    ]
    return _board(
        "overview",
        "Overview",
        "Is the service healthy, and if not, where do I look next?",
        Row(title="Targets", charts=strip),
        Row(title="Rate, errors, duration", charts=http.red(thresholds)),
        Row(title="By route", charts=http.routes(thresholds)),
        Row(
            title="Saturation",
            charts=[
                *pools.overview(thresholds),
                *runtime.overview(thresholds),
                *caches.overview(),
                *limits.overview(),
            ],
        ),
        Row(title="Health", charts=[*health.checks(), *target.alerts()]),
    )


def _route(thresholds: Thresholds) -> Board:
    method = f"label_values({select(HTTP_DURATION, *SCOPE, suffix='_count')}, {METHOD})"
    route = f"label_values({select(HTTP_DURATION, *SCOPE, suffix='_count')}, {ROUTE})"
    chosen = (*SCOPE, f'{ROUTE}=~"$route"')
    return _board(
        "route",
        "Route",
        "What is wrong with this one route?",
        Row(title="$method $route", charts=http.of_route(thresholds)),
        Row(title="Its time", charts=[http.where_the_time_goes(chosen)]),
        Row(
            title="Its details",
            charts=[
                *http.details(thresholds),
                pools.repeated(chosen, thresholds),
                runtime.blocked_by(chosen),
                limits.by_source(chosen),
            ],
        ),
        # .* and not .+: requests that matched no route have an empty one, and count as well.
        variables=(
            _choice("route", "Route", route, everything=".*"),
            _choice("method", "Method", method),
        ),
    )


def _slo(thresholds: Thresholds) -> Board:
    names = f"label_values({BUDGET}, slo)"
    return _board(
        "slo",
        "SLO",
        "How much error budget is left, and how fast does it burn?",
        Row(title="Budget", charts=slo.budget(thresholds)),
        variables=(_choice("slo", "Objective", names),),
    )


def _pools(thresholds: Thresholds) -> Board:
    names = f"label_values({gauge(POOL_MAX, *SCOPE)}, {POOL})"
    return _board(
        "pools",
        "Pools",
        "Do requests wait for a connection, and who holds them?",
        Row(title="Use, saturation, errors", charts=pools.saturation(thresholds)),
        Row(title="Who holds them", charts=pools.callers(thresholds)),
        Row(
            title="Database operations",
            charts=[*pools.operations(), pools.repeated(SCOPE, thresholds, width=6)],
        ),
        Row(title="Outgoing HTTP", charts=pools.clients(thresholds)),
        variables=(_choice("pool", "Pool", names),),
    )


def _caches_and_limits(thresholds: Thresholds) -> Board:
    return _board(
        "caches-and-limits",
        "Caches and limits",
        "Does the cache help, and whom do we turn away?",
        Row(title="Caches", charts=caches.all_of_it(thresholds)),
        Row(title="Rate limits", charts=limits.all_of_it(thresholds)),
    )


def _runtime(thresholds: Thresholds) -> Board:
    return _board(
        "runtime",
        "Runtime",
        "Is the Python process the bottleneck?",
        Row(title="Event loop", charts=runtime.event_loop(thresholds)),
        Row(title="Queues before it", charts=runtime.threads(thresholds)),
        Row(title="Process", charts=runtime.process(thresholds)),
        Row(title="Workers", charts=[*runtime.workers(), *target.scrapes()]),
    )


def _telemetry(thresholds: Thresholds) -> Board:
    return _board(
        "telemetry",
        "Telemetry",
        "Can the other boards be trusted?",
        Row(title="Delivery", charts=telemetry.delivery(thresholds)),
        Row(title="Collection", charts=telemetry.collection(thresholds)),
        Row(title="What runs", charts=telemetry.versions()),
    )


def _board(
    name: str, title: str, asks: str, *rows: Row, variables: tuple[Variable, ...] = ()
) -> Board:
    return Board(
        uid=f"fastobs-{name}",
        title=f"fastobs / {title}",
        description=asks,
        tags=["fastobs"],
        refresh="30s",
        annotations=core.Annotations(list=_annotations()),
        links=[_other_boards()],
        panels=flow(rows),
        templating=core.Templating(list=[*_common(), *variables]),
    )


def _common() -> tuple[Variable, ...]:
    jobs = f"label_values({gauge(BUILD_INFO)}, job)"
    instances = f"label_values({gauge(BUILD_INFO, JOB)}, instance)"
    return (
        Variable(name="datasource", label="Data source", type="datasource", query="prometheus"),
        _choice("job", "Job", jobs),
        _choice("instance", "Instance", instances),
    )


def _choice(name: str, label: str, values: str, *, everything: str = ".+") -> Variable:
    return Variable(name=name, label=label, query=values, all_value=everything)


def _other_boards() -> core.DashboardLink:
    return core.DashboardLink(
        asDropdown=True,
        icon="external link",
        includeVars=True,
        keepTime=True,
        tags=["fastobs"],
        title="fastobs",
        type="dashboards",
    )


def _annotations() -> list[dict[str, Any]]:
    version = "service_version"
    now = count(gauge(TARGET_INFO, *SCOPE), by=[version])
    deploys = f"{now} unless on ({version}) {now[:-1]} offset 5m)"
    restarts = f"{over('changes', PROCESS_START, *SCOPE, window='2m')} > 0"
    firing = gauge(ALERTS, 'alertname=~"Fastobs.+"', 'alertstate="firing"', JOB)
    return [
        _annotation("Deploys", "blue", deploys, "version {{service_version}}"),
        _annotation("Restarts", "orange", restarts, "{{instance}} worker {{worker}} restarted"),
        _annotation("Alerts", "red", firing, "{{alertname}} ({{severity}})"),
    ]


def _annotation(name: str, color: str, expression: str, title: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expression,
        "hide": False,
        "iconColor": color,
        "name": name,
        "step": "60s",
        "titleFormat": title,
    }
