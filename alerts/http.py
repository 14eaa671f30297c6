"""Is the service fast, and does it answer without errors?"""

from __future__ import annotations

from fastobs.catalogue import BUILD_INFO, HTTP_DURATION, METHOD, ROUTE
from fastobs.promql import gauge, present, quantile, rate, total

from . import slo
from .kit import ROUTE_NAME, Alert, Group, Record, Severity, bound, percent
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["P50", "P99", "REQUESTS_BY_ROUTE", "ROUTE_P99", "groups"]

OVERVIEW = "fastobs-overview"
SLO_BOARD = "fastobs-slo"
BY_ROUTE = ("job", ROUTE)
AVAILABILITY = 'slo="availability"'


def _percentile(q: float, name: str) -> Record:
    return Record(
        name=f"fastobs:http_duration_seconds:{name}_5m",
        expr=quantile(q, HTTP_DURATION, by=["job"], window="5m"),
    )


P50 = _percentile(0.5, "p50")
P99 = _percentile(0.99, "p99")
REQUESTS_BY_ROUTE = Record(
    name="fastobs:http_requests:rate5m_by_route",
    expr=total(rate(HTTP_DURATION, window="5m"), by=[*BY_ROUTE, METHOD]),
)
ROUTE_P99 = Record(
    name="fastobs:http_duration_seconds:p99_5m_by_route",
    expr=quantile(0.99, HTTP_DURATION, by=BY_ROUTE, window="5m"),
)


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """Objectives and their budgets, the plain targets, and the recordings for both."""
    return (
        Group(
            name="fastobs-http",
            rules=(
                *slo.records(limits),
                *(P50, P99, REQUESTS_BY_ROUTE, ROUTE_P99),
                *_budgets(limits),
                *_errors(limits),
                *_latency(limits),
                _route_latency(limits),
                *_traffic(limits),
                *_throughput(limits),
            ),
        ),
    )


def _budgets(limits: Thresholds) -> tuple[Alert, ...]:
    return (
        _burn("critical", limits.burn_1h, long="1h", short="5m", lasts="2m", limits=limits),
        _burn("critical", limits.burn_6h, long="6h", short="30m", lasts="15m", limits=limits),
        _burn("warning", limits.burn_1d, long="1d", short="2h", lasts="1h", limits=limits),
        _burn("warning", limits.burn_3d, long="3d", short="6h", lasts="3h", limits=limits),
        Alert(
            name="FastobsErrorBudgetExhausted",
            severity="warning",
            # Three days of history: the first bad hour of a new service is not a spent month.
            expr=bound(
                f"{slo.REMAINING} <= 0",
                f"on (job, slo) max_over_time({slo.requests('5m')}[1d] offset 3d)",
            ),
            lasts="1h",
            summary="{{ $labels.job }} has spent its {{ $labels.slo }} budget of 30 days.",
            description=(
                "{{ $value | humanizePercentage }} of it is left: more requests broke the promise in the "
                "last 30 days than the objective allows. "
                "Prefer repairs to features until the budget is positive again."
            ),
            dashboard=SLO_BOARD,
        ),
    )


def _burn(
    severity: Severity, factor: float, *, long: str, short: str, lasts: str, limits: Thresholds
) -> Alert:
    line = f"on (slo) group_left () ({factor:g} * {slo.BUDGET})"
    return Alert(
        name="FastobsErrorBudgetBurn",
        severity=severity,
        # The short window is on the left: it ends the alert, and its value is steady in a test.
        expr=bound(
            f"{slo.error_ratio(short)} > {line}",
            f"on (job, slo) {slo.error_ratio(long)} > {line}",
            f"on (job, slo) {slo.bad(long)} * {slo.SECONDS[long]} >= {limits.min_bad_events:g}",
        ),
        lasts=lasts,
        labels={"window": long},
        summary=(
            "{{ $labels.job }} spends its {{ $labels.slo }} budget at over "
            f"{factor:g} times the rate that lasts."
        ),
        description=(
            f"Both in the last {long} and in the last {short}; "
            "{{ $value | humanizePercentage }} of requests are bad now. At the rate that lasts, "
            "the budget is spent in exactly 30 days."
        ),
        dashboard=SLO_BOARD,
    )


def _errors(limits: Thresholds) -> tuple[Alert, ...]:
    ratio = slo.error_ratio("5m").where(AVAILABILITY)
    failures = f"{slo.bad('5m').where(AVAILABILITY)} * {slo.SECONDS['5m']}"

    def alert(severity: Severity, line: float, lasts: str) -> Alert:
        return Alert(
            name="FastobsErrorRatioHigh",
            severity=severity,
            expr=bound(f"{ratio} > {line:g}", f"on (job) {failures} >= {limits.min_failures:g}"),
            lasts=lasts,
            summary=f"{{{{ $labels.job }}}} fails more than {percent(line)} of requests.",
            description=(
                "{{ $value | humanizePercentage }} of requests end with 5xx. The routes table "
                "shows which; its link leads to the exceptions."
            ),
            dashboard=OVERVIEW,
        )

    return (
        alert("warning", limits.error_ratio.target, "10m"),
        alert("critical", limits.error_ratio.critical, "5m"),
    )


def _latency(limits: Thresholds) -> tuple[Alert, ...]:
    def alert(
        name: str, share: str, record: Record, line: float, least: float, severity: Severity
    ) -> Alert:
        return Alert(
            name=name,
            severity=severity,
            expr=bound(f"{record} > {line:g}", f"on (job) {_busy(least)}"),
            lasts="5m" if severity == "critical" else "10m",
            summary=f"{share} of {{{{ $labels.job }}}} takes over {line * 1000:g} ms.",
            description=(
                f"{share} takes {{{{ $value | humanizeDuration }}}} or more. Find the "
                "route in the routes table, then where its time goes on the route board."
            ),
            dashboard=OVERVIEW,
        )

    median = ("FastobsLatencyP50High", "Half of the requests", P50)
    tail = ("FastobsLatencyP99High", "One request in a hundred", P99)
    return (
        alert(*median, limits.latency_p50.target, limits.min_rate, "warning"),
        alert(*median, limits.latency_p50.critical, limits.min_rate, "critical"),
        alert(*tail, limits.latency_p99.target, limits.min_rate_p99, "warning"),
        alert(*tail, limits.latency_p99.critical, limits.min_rate_p99, "critical"),
    )


def _route_latency(limits: Thresholds) -> Alert:
    busy = f"{total(str(REQUESTS_BY_ROUTE), by=BY_ROUTE)} > {limits.min_rate_p99:g}"
    return Alert(
        name="FastobsRouteLatencyP99High",
        severity="warning",
        expr=bound(f"{ROUTE_P99} > {limits.route_p99:g}", f"on ({', '.join(BY_ROUTE)}) {busy}"),
        lasts="15m",
        summary=f"{ROUTE_NAME} of {{{{ $labels.job }}}} has a slow tail.",
        description=(
            "One request in a hundred takes {{ $value | humanizeDuration }} or more. "
            "The route board shows which part of the request it is."
        ),
        dashboard="fastobs-route",
    )


def _traffic(limits: Thresholds) -> tuple[Alert, ...]:
    now = slo.requests("5m").where(AVAILABILITY)
    yesterday = f"{slo.requests('1h').where(AVAILABILITY)} offset 1d"

    def drop(severity: Severity, line: float, lasts: str) -> Alert:
        return Alert(
            name="FastobsThroughputDrop",
            severity=severity,
            expr=bound(
                f"{now} < {line:g} * ({yesterday})",
                f"{yesterday} > {limits.min_traffic_yesterday:g}",
            ),
            lasts=lasts,
            summary="{{ $labels.job }} gets far fewer requests than yesterday.",
            description=(
                "{{ $value | humanize }} requests per second arrive, less than "
                f"{percent(line)} of this hour yesterday. "
                "Clients, DNS or the load balancer may not reach the service."
            ),
            dashboard=OVERVIEW,
        )

    return (
        drop("warning", limits.traffic_drop.target, "15m"),
        drop("critical", limits.traffic_drop.critical, "10m"),
    )


def _throughput(limits: Thresholds) -> tuple[Alert, ...]:
    # A worker that has served nothing yet has no series of requests, only its own.
    idle = f"0 * {present(gauge(BUILD_INFO), by=['job'])}"
    now = f"({slo.requests('5m').where(AVAILABILITY)} or on (job) {idle})"

    def below(severity: Severity, line: float) -> Alert:
        return Alert(
            name="FastobsThroughputBelowTarget",
            severity=severity,
            expr=f"{now} < {line:g}",
            lasts="5m" if severity == "critical" else "10m",
            summary=f"{{{{ $labels.job }}}} serves fewer than {line:g} requests per second.",
            description=(
                "{{ $value | humanize }} per second arrive. Either nobody asks, or they do not "
                "get through: compare with the load balancer."
            ),
            dashboard=OVERVIEW,
        )

    pair = limits.throughput
    degrees: tuple[tuple[Severity, float], ...] = (
        ("warning", pair.target),
        ("critical", pair.critical),
    )
    return tuple(below(severity, line) for severity, line in degrees if line)


def _busy(least: float) -> str:
    return f"{slo.requests('5m').where(AVAILABILITY)} > {least:g}"
