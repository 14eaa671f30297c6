"""Do requests wait for a connection, and who holds them?"""

from __future__ import annotations

from alerts.thresholds import Thresholds
from fastobs.catalogue import (
    CLIENT_CREATE,
    CLIENT_MAX,
    CLIENT_OPEN,
    CLIENT_PENDING,
    CLIENT_QUEUE,
    CLIENT_TIMEOUTS,
    CLIENT_USE,
    DB_DURATION,
    DB_OPERATION,
    DB_REPEATED,
    DB_SERVER_MAX,
    ERROR,
    HTTP_DURATION,
    POOL,
    POOL_COUNT,
    POOL_CREATE,
    POOL_IDLE_MAX,
    POOL_LEAKED,
    POOL_MAX,
    POOL_OLDEST,
    POOL_PENDING,
    POOL_STATE,
    POOL_TIMEOUTS,
    POOL_USE,
    POOL_WAIT,
    ROUTE,
    Metric,
)
from fastobs.promql import gauge, largest, named, quantile, rate, ratio, top, total

from .charts import bars, line, painted, timeseries
from .kit import JOB, SCOPE, Chart, Steps, query, unit_of, worse_above

__all__ = ["callers", "clients", "operations", "overview", "repeated", "saturation"]

CHOSEN = f'{POOL}=~"$pool"'
OF_POOL = (*SCOPE, CHOSEN)
BY_WORKER = ("job", "instance", "worker", POOL)
USED = f'{POOL_STATE}="used"'
LEGEND = f"{{{{{POOL}}}}}"
LIMITS = ("may be open", "may stay idle", "the server's limit")


def overview(limits: Thresholds) -> list[Chart]:
    """The one panel that a service's overview needs."""
    return [
        timeseries(
            "Pool use",
            "Is a connection pool full? The fullest worker of each pool.",
            query(largest(_use(*SCOPE), by=[POOL]), LEGEND),
            unit="percentunit",
            width=6,
            high=1,
            steps=worse_above(limits.pool_use),
            alert="pools/FastobsPoolSaturated",
            board="fastobs-pools",
        )
    ]


def saturation(limits: Thresholds) -> list[Chart]:
    """Use, saturation, errors."""
    worst = "{{instance}} worker {{worker}}, " + LEGEND
    return [
        bars(
            "Used of max",
            "Which pool was nearest to full in the time that is shown? The fullest worker of each.",
            query(largest(_use(*OF_POOL), by=[POOL]), LEGEND),
            unit="percentunit",
            steps=worse_above(limits.pool_use),
            alert="pools/FastobsPoolSaturated",
        ),
        timeseries(
            "Connections",
            "Used, idle, limit: is the pool sized right?",
            query(total(gauge(POOL_COUNT, *OF_POOL), by=[POOL_STATE]), f"{{{{{POOL_STATE}}}}}"),
            query(total(gauge(POOL_MAX, *OF_POOL)), "may be open"),
            query(
                total(gauge(POOL_IDLE_MAX, *OF_POOL)),
                "may stay idle",
                maybe_empty="the pool keeps every connection",
            ),
            unit="short",
            overrides=[*painted({"^idle$": "green", "^used$": "blue"}), *map(line, LIMITS)],
        ),
        timeseries(
            "Callers waiting",
            "Do requests queue for a connection?",
            query(total(gauge(POOL_PENDING, *OF_POOL), by=[POOL]), LEGEND),
            unit="short",
            alert="pools/FastobsPoolExhausted",
        ),
        timeseries(
            "Worst worker",
            "Is one worker's pool full while others idle?",
            query(top(10, _use(*OF_POOL)), worst),
            unit="percentunit",
            high=1,
            steps=worse_above(limits.pool_use),
            alert="pools/FastobsPoolSaturated",
        ),
        _percentiles(
            "Wait for a connection",
            "How long do callers wait? It is the pool_wait part of their request.",
            POOL_WAIT,
            steps=worse_above(limits.pool_wait),
            alert="pools/FastobsPoolWaitHigh",
        ),
        timeseries(
            "Timeouts",
            "Did callers give up waiting?",
            query(total(rate(POOL_TIMEOUTS, *OF_POOL), by=[POOL]), LEGEND),
            unit=unit_of(POOL_TIMEOUTS),
            alert="pools/FastobsPoolTimeouts",
        ),
    ]


def callers(limits: Thresholds) -> list[Chart]:
    """Who holds the connections, and what they cost the server."""
    by_route = (POOL, ROUTE)
    legend = f"{{{{{ROUTE}}}}}, {LEGEND}"
    oldest = named(largest(gauge(POOL_OLDEST, *OF_POOL), by=by_route), ROUTE, empty="(no request)")
    leaked = named(total(rate(POOL_LEAKED, *OF_POOL), by=by_route), ROUTE, empty="(no request)")
    return [
        _percentiles("Held for", "Are connections held too long (long transactions)?", POOL_USE),
        timeseries(
            "Oldest checkout by route",
            "Which route has held a connection for longest?",
            query(top(10, oldest), legend, maybe_empty="no connection is out at the scrape"),
            unit=unit_of(POOL_OLDEST),
            steps=worse_above(limits.pool_checkout_age),
            alert="pools/FastobsConnectionHeldLong",
        ),
        timeseries(
            "Leaks by route",
            "Which route forgets to give connections back?",
            query(top(10, leaked), legend, maybe_empty="nothing has leaked yet"),
            unit=unit_of(POOL_LEAKED),
            alert="pools/FastobsConnectionsLeaked",
        ),
        _percentiles(
            "Opening a connection",
            "Is connecting slow, or too frequent?",
            POOL_CREATE,
            maybe_empty="no connection was opened lately",
        ),
        _server(),
    ]


def operations() -> list[Chart]:
    """What is asked of the database."""
    by_error = total(rate(DB_DURATION, *SCOPE, f'{ERROR}!=""'), by=[ERROR])
    legend = f"{{{{{DB_OPERATION}}}}}"
    return [
        timeseries(
            "Operations",
            "What does the app ask of the database?",
            query(total(rate(DB_DURATION, *SCOPE), by=[DB_OPERATION]), legend),
            unit="ops",
            width=6,
        ),
        timeseries(
            "Operation P99",
            "Is the database itself slow?",
            query(quantile(0.99, DB_DURATION, *SCOPE, by=[DB_OPERATION]), legend),
            unit=unit_of(DB_DURATION),
            width=6,
        ),
        timeseries(
            "Operation errors",
            "Does the database refuse something?",
            query(by_error, f"{{{{{ERROR}}}}}", maybe_empty="nothing has failed yet"),
            unit="ops",
            width=6,
        ),
    ]


def clients(limits: Thresholds) -> list[Chart]:
    """Connections of outgoing HTTP clients."""
    none_watched = "the app has no outgoing HTTP client"
    state = "http_connection_state"
    return [
        timeseries(
            "Outgoing connections",
            "How many connections do HTTP clients hold?",
            query(
                total(gauge(CLIENT_OPEN, *SCOPE), by=["client", state]),
                f"{{{{client}}}}, {{{{{state}}}}}",
                maybe_empty=none_watched,
            ),
            query(
                total(gauge(CLIENT_MAX, *SCOPE), by=["client"]),
                "{{client}}, at most",
                maybe_empty=none_watched,
            ),
            query(
                total(gauge(CLIENT_PENDING, *SCOPE), by=["client"]),
                "{{client}}, waiting for one",
                maybe_empty=none_watched,
            ),
            unit="short",
            width=12,
        ),
        timeseries(
            "Outgoing requests' wait P95",
            "Do outgoing requests wait for a connection of our own?",
            query(
                quantile(0.95, CLIENT_QUEUE, *SCOPE, by=["client"]),
                "{{client}}",
                maybe_empty=none_watched,
            ),
            unit=unit_of(CLIENT_QUEUE),
            width=12,
            steps=worse_above(limits.client_wait),
            alert="pools/FastobsClientPoolWaitHigh",
        ),
        timeseries(
            "Outgoing requests that gave up waiting",
            "Are clients' own limits too small?",
            query(
                total(rate(CLIENT_TIMEOUTS, *SCOPE), by=["client"]),
                "{{client}}",
                maybe_empty=none_watched,
            ),
            unit="reqps",
            width=8,
        ),
        timeseries(
            "Opening an outgoing connection P95",
            "Are connections opened again and again, and is that slow?",
            query(
                quantile(0.95, CLIENT_CREATE, *SCOPE, by=["client"]),
                "{{client}}",
                maybe_empty=none_watched,
            ),
            unit=unit_of(CLIENT_CREATE),
            width=8,
        ),
        timeseries(
            "An outgoing connection held for P95",
            "Is the other side slow, or are answers read slowly?",
            query(
                quantile(0.95, CLIENT_USE, *SCOPE, by=["client"]),
                "{{client}}",
                maybe_empty=none_watched,
            ),
            unit=unit_of(CLIENT_USE),
            width=8,
        ),
    ]


def repeated(scope: tuple[str, ...], limits: Thresholds, *, width: int = 8) -> Chart:
    """N+1, by route."""
    by = (ROUTE,)
    share = ratio(
        total(rate(DB_REPEATED, *scope), by=by), total(rate(HTTP_DURATION, *scope), by=by)
    )
    return timeseries(
        "Repeated queries",
        "Which share of a route's requests sends one statement again and again (N+1)?",
        query(
            top(10, named(share, ROUTE, empty="(no route)")),
            f"{{{{{ROUTE}}}}}",
            maybe_empty="no route has repeated a query yet",
        ),
        unit="percentunit",
        width=width,
        steps=worse_above(limits.repeated_queries),
        alert="pools/FastobsRepeatedQueries",
    )


def _server() -> Chart:
    # Without $instance: the server's limit is shared by all of them, also by those not chosen.
    everywhere = (JOB, CHOSEN)
    return timeseries(
        "All instances against the server's limit",
        "Would one more replica exhaust the database? All instances, whatever is chosen above.",
        query(total(gauge(POOL_COUNT, *everywhere), by=[POOL]), f"open, {LEGEND}"),
        query(total(gauge(POOL_MAX, *everywhere), by=[POOL]), f"may be open, {LEGEND}"),
        query(
            largest(gauge(DB_SERVER_MAX, *everywhere), by=[POOL]),
            f"the server's limit, {LEGEND}",
            maybe_empty="only PostgreSQL and MySQL tell their limit",
        ),
        unit="short",
        width=16,
        alert="pools/FastobsDBServerConnectionsHigh",
        overrides=[*map(line, LIMITS), *painted({"limit": "red"})],
    )


def _percentiles(
    title: str,
    asks: str,
    metric: Metric,
    *,
    steps: Steps | None = None,
    alert: str = "",
    maybe_empty: str = "",
) -> Chart:
    return timeseries(
        title,
        asks,
        *(
            query(quantile(q, metric, *OF_POOL), f"P{q * 100:g}", maybe_empty=maybe_empty)
            for q in (0.5, 0.95, 0.99)
        ),
        unit=unit_of(metric),
        steps=steps,
        alert=alert,
    )


def _use(*scope: str) -> str:
    used = total(gauge(POOL_COUNT, *scope, USED), by=BY_WORKER)
    return f"{used} / ({total(gauge(POOL_MAX, *scope), by=BY_WORKER)} > 0)"
