"""Do requests wait for a connection, and who holds them?"""

from __future__ import annotations

from fastobs.catalogue import (
    CLIENT_QUEUE,
    DB_REPEATED,
    DB_SERVER_MAX,
    HTTP_DURATION,
    POOL,
    POOL_COUNT,
    POOL_LEAKED,
    POOL_MAX,
    POOL_OLDEST,
    POOL_PENDING,
    POOL_STATE,
    POOL_TIMEOUTS,
    POOL_WAIT,
    ROUTE,
)
from fastobs.promql import gauge, increase, largest, over, quantile, rate, total

from .kit import ROUTE_NAME, Alert, Group, Record, Severity, bound
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["CLIENT_WAIT", "USE", "WAIT", "groups"]

BOARD = "fastobs-pools"
POOL_NAME = f"{{{{ $labels.{POOL} }}}}"
USED = f'{POOL_STATE}="used"'
BY_POOL = ("job", POOL)
BY_WORKER = ("job", "instance", "worker", POOL)

# One worker's pool may be full while the others idle; hence use is never summed over workers.
USE = Record(
    name="fastobs:db_pool:utilisation",
    expr=f"{total(gauge(POOL_COUNT, USED), by=BY_WORKER)}\n/ ({total(gauge(POOL_MAX), by=BY_WORKER)} > 0)",
)
WAIT = Record(
    name="fastobs:db_pool_wait_seconds:p95_5m",
    expr=quantile(0.95, POOL_WAIT, by=BY_POOL, window="5m"),
)
CLIENT_WAIT = Record(
    name="fastobs:http_client_wait_seconds:p95_5m",
    expr=quantile(0.95, CLIENT_QUEUE, by=["job", "client"], window="5m"),
)


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """Use, waiting and errors of the pools, what they do to the server, and how they are used."""
    return (
        Group(
            name="fastobs-pools",
            rules=(
                USE,
                WAIT,
                *_use(limits),
                *_waiting(limits),
                *_holders(limits),
                *_server(limits),
            ),
        ),
        Group(
            name="fastobs-pools-callers", rules=(CLIENT_WAIT, _repeated(limits), _client(limits))
        ),
    )


def _use(limits: Thresholds) -> tuple[Alert, ...]:
    # A minute of waiting callers: momentary hand-overs at a full pool are normal.
    waiting = total(over("min_over_time", POOL_PENDING, window="1m"), by=BY_WORKER)
    return (
        Alert(
            name="FastobsPoolSaturated",
            severity="warning",
            expr=f"{USE} > {limits.pool_use:g}",
            lasts="5m",
            summary=f"Pool {POOL_NAME} of {{{{ $labels.job }}}} is nearly full.",
            description=(
                "{{ $value | humanizePercentage }} of the connections are in use on "
                "{{ $labels.instance }}, worker {{ $labels.worker }}. Soon requests will wait."
            ),
            dashboard=BOARD,
        ),
        Alert(
            name="FastobsPoolExhausted",
            severity="critical",
            expr=bound(f"{USE} >= {limits.pool_full:g}", f"{waiting} > 0"),
            lasts="2m",
            summary=f"Pool {POOL_NAME} of {{{{ $labels.job }}}} is empty and requests wait.",
            description=(
                "{{ $value | humanizePercentage }} of the connections are taken on {{ $labels.instance }}, worker "
                "{{ $labels.worker }}, and callers have queued for a minute. The board names "
                "the route that holds the oldest one."
            ),
            dashboard=BOARD,
        ),
    )


def _waiting(limits: Thresholds) -> tuple[Alert, ...]:
    def slow(severity: Severity, line: float, lasts: str) -> Alert:
        return Alert(
            name="FastobsPoolWaitHigh",
            severity=severity,
            expr=f"{WAIT} > {line:g}",
            lasts=lasts,
            summary=(
                f"Requests of {{{{ $labels.job }}}} wait over {line * 1000:g} ms for pool {POOL_NAME}."
            ),
            description=(
                "One checkout in twenty waits {{ $value | humanizeDuration }} or more. The time is in every request's pool_wait part."
            ),
            dashboard=BOARD,
        )

    return (
        slow("warning", limits.pool_wait.target, "10m"),
        slow("critical", limits.pool_wait.critical, "5m"),
        Alert(
            name="FastobsPoolTimeouts",
            severity="critical",
            expr=f"{total(increase(POOL_TIMEOUTS, window='5m'), by=BY_POOL)} > 0",
            lasts="1m",
            keep="10m",
            summary=f"Requests of {{{{ $labels.job }}}} give up waiting for pool {POOL_NAME}.",
            description=(
                "{{ $value | humanize }} waits for it ended in a timeout within five minutes; each is a "
                "failed request."
            ),
            dashboard=BOARD,
        ),
    )


def _holders(limits: Thresholds) -> tuple[Alert, ...]:
    by = (*BY_POOL, ROUTE)
    return (
        Alert(
            name="FastobsConnectionHeldLong",
            severity="warning",
            expr=f"{largest(gauge(POOL_OLDEST), by=by)} > {limits.pool_checkout_age:g}",
            lasts="1m",
            summary=f"{ROUTE_NAME} of {{{{ $labels.job }}}} keeps a connection of pool {POOL_NAME}.",
            description=(
                "It has been out for {{ $value | humanizeDuration }}; a request rarely needs one for so long."
            ),
            dashboard=BOARD,
        ),
        Alert(
            name="FastobsConnectionsLeaked",
            severity="warning",
            expr=f"{total(increase(POOL_LEAKED, window='15m'), by=by)} > 0",
            keep="1h",
            summary=f"{ROUTE_NAME} of {{{{ $labels.job }}}} leaks connections of pool {POOL_NAME}.",
            description=(
                "{{ $value | humanize }} connections were garbage collected instead of given back within "
                "15 minutes."
            ),
            dashboard=BOARD,
        ),
    )


def _server(limits: Thresholds) -> tuple[Alert, ...]:
    limit = f"on ({', '.join(BY_POOL)}) {largest(gauge(DB_SERVER_MAX), by=BY_POOL)}"
    opened = total(gauge(POOL_COUNT), by=BY_POOL)
    promised = total(gauge(POOL_MAX), by=BY_POOL)
    return (
        Alert(
            name="FastobsDBServerConnectionsHigh",
            severity="warning",
            expr=f"{opened}\n/ {limit} > {limits.server_connections:g}",
            lasts="10m",
            summary=f"Pool {POOL_NAME} of {{{{ $labels.job }}}} has most of the database server's connections.",
            description=(
                "{{ $value | humanizePercentage }} of the server's limit is open through it, over all "
                "instances and workers."
            ),
            dashboard=BOARD,
        ),
        Alert(
            name="FastobsDBPoolOversized",
            severity="warning",
            expr=f"{promised}\n/ {limit} > {limits.server_commitment:g}",
            lasts="30m",
            summary=f"Pool {POOL_NAME} of {{{{ $labels.job }}}} may open more connections than the server accepts.",
            description=(
                "All workers together may open {{ $value | humanizePercentage }} of the server's "
                "limit. A spike will end in refused connections."
            ),
            dashboard=BOARD,
        ),
    )


def _repeated(limits: Thresholds) -> Alert:
    by = ("job", ROUTE)
    requests = total(rate(HTTP_DURATION, window="30m"), by=by)
    return Alert(
        name="FastobsRepeatedQueries",
        severity="warning",
        expr=f"{total(rate(DB_REPEATED, window='30m'), by=by)}\n"
        f"/ ({requests} > 0) > {limits.repeated_queries:g}",
        lasts="30m",
        summary=f"{ROUTE_NAME} of {{{{ $labels.job }}}} sends one query again and again.",
        description=(
            "{{ $value | humanizePercentage }} of its requests repeat one statement (N+1). Each "
            "repetition costs a round trip; the slow-request log names the statement."
        ),
        dashboard="fastobs-route",
    )


def _client(limits: Thresholds) -> Alert:
    return Alert(
        name="FastobsClientPoolWaitHigh",
        severity="warning",
        expr=f"{CLIENT_WAIT} > {limits.client_wait:g}",
        lasts="10m",
        summary="Outgoing requests of {{ $labels.job }} wait for client {{ $labels.client }}.",
        description=(
            "One request in twenty waits {{ $value | humanizeDuration }} or more before it is sent: "
            "our own connection limit, not the other service, is slow."
        ),
        dashboard=BOARD,
    )
