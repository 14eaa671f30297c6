"""Every number at which an alert fires and a panel changes its colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

__all__ = ["FALLS", "OFF", "SHARE", "THRESHOLDS", "Pair", "Thresholds"]

SHARE = "share"
"""The unit of what is between 0 and 1."""
FALLS = "falls"
"""Said of a pair whose critical point is below its target."""
OFF = "off"
"""Said of a threshold that may be 0; then there is no such alert."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The target (a ticket when it is missed), and the point at which to wake somebody."""

    target: float
    critical: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """One number with its unit, one reason."""

    # http: the targets of a service that people wait for.
    latency_p50: Annotated[Pair, "seconds"] = Pair(0.05, 0.1)
    """Half of the requests feel instant; at 100 ms a page of ten calls is visibly slow."""
    latency_p99: Annotated[Pair, "seconds"] = Pair(0.2, 0.5)
    """One request in a hundred; a user with ten calls per page meets it on every tenth page."""
    route_p99: Annotated[float, "seconds"] = 0.5
    """One route at the service's critical latency deserves a ticket, even if the others hide it."""
    error_ratio: Annotated[Pair, SHARE] = Pair(0.001, 0.01)
    """Three nines is the promise; at one per cent users tell each other."""
    slo_availability: Annotated[float, SHARE] = 0.001
    """The error budget: the share of requests that may fail with 5xx in 30 days."""
    slo_latency: Annotated[float, SHARE] = 0.01
    """The share that may be slower than the P99 target: "P99 under 200 ms", said as a budget."""
    burn_1h: Annotated[float, "times"] = 14.4
    """2 % of a 30-day budget in one hour (SRE workbook, chapter 5)."""
    burn_6h: Annotated[float, "times"] = 6.0
    """5 % of the budget in six hours."""
    burn_1d: Annotated[float, "times"] = 3.0
    """10 % of the budget in a day."""
    burn_3d: Annotated[float, "times"] = 1.0
    """10 % of the budget in three days: at this rate it lasts exactly 30 days."""
    min_bad_events: Annotated[float, "requests"] = 5.0
    """Fewer failures in a long window are a coincidence, not a trend."""
    min_failures: Annotated[float, "requests"] = 3.0
    """Within five minutes; one unlucky request in a quiet hour is not an incident."""
    min_rate: Annotated[float, "requests per second"] = 0.1
    """Requests per second; 30 in five minutes are the least that have a median worth a call."""
    min_rate_p99: Annotated[float, "requests per second"] = 0.4
    """Requests per second; below 100 in five minutes the P99 is one single request."""
    traffic_drop: Annotated[Pair, SHARE, FALLS] = Pair(0.3, 0.05)
    """Of yesterday's traffic at this hour; holidays stay above, broken routing does not. Below the
    second number next to nobody arrives, which no change of habits explains."""
    min_traffic_yesterday: Annotated[float, "requests per second"] = 1.0
    """Requests per second; small services are silent for good reasons."""
    throughput: Annotated[Pair, "requests per second", FALLS, OFF] = Pair(0.0, 0.0)
    """Of each job, at any hour. Off (0) until you set it: nobody else knows how busy you must be."""

    # pools: queueing theory. Waits explode near full, not at full.
    pool_use: Annotated[float, SHARE] = 0.8
    """Of one worker's pool; from here on, random arrivals meet a full pool now and then."""
    pool_full: Annotated[float, SHARE] = 1.0
    """Every connection is out; with callers waiting, each one adds to every request."""
    pool_wait: Annotated[Pair, "seconds"] = Pair(0.05, 0.5)
    """P95 of the wait: the whole latency target spent on queueing, then the critical latency."""
    pool_checkout_age: Annotated[float, "seconds"] = 60.0
    """A request rarely takes a minute; a connection held so long is a leak or a long transaction."""
    server_connections: Annotated[float, SHARE] = 0.8
    """Of the server's limit; migrations, consoles and a rolling deploy need the rest."""
    server_commitment: Annotated[float, "times"] = 1.0
    """The pools' promises may not exceed the server's limit; a spike would turn into refusals."""
    repeated_queries: Annotated[float, SHARE] = 0.5
    """Of a route's requests send one statement again and again: a loop, not an odd page."""
    client_wait: Annotated[float, "seconds"] = 0.5
    """P95 that outgoing requests wait for a connection: our pool, not the other service, is slow."""

    # caches
    cache_drop: Annotated[float, SHARE] = 0.7
    """Of yesterday's hit ratio; a deploy that empties the cache recovers within the waiting time."""
    cache_errors: Annotated[float, SHARE] = 0.01
    """Of look-ups; a cache that fails more often than our error budget hurts it."""
    cache_stampedes: Annotated[float, SHARE] = 0.1
    """Of loads repeat one that is under way: every tenth is work for nothing."""
    min_cache_rate: Annotated[float, "look-ups per second"] = 1.0
    """Look-ups per second; fewer say nothing about a ratio."""

    # limits
    limited_ratio: Annotated[float, SHARE] = 0.05
    """Of requests answered 429; some is normal, every twentieth is a client in trouble or an attack."""
    limited_jump: Annotated[float, "times"] = 4.0
    """Times the usual share; a strict limit that always rejects some is not news."""

    # runtime
    loop_lag: Annotated[Pair, "seconds"] = Pair(0.1, 1.0)
    """P99 of one worker; every request of that worker waits as long."""
    threadpool_use: Annotated[float, SHARE] = 0.9
    """Of the threads for def endpoints, while calls wait for one."""
    cpu: Annotated[Pair, SHARE] = Pair(0.7, 0.9)
    """Of the CPU limit; beyond 0.7 latency grows faster than load, at 0.9 the kernel throttles."""
    worker_cpu: Annotated[float, "cores"] = 0.95
    """Cores of one worker; Python runs on one core, so this worker is full whatever the limit is."""
    memory: Annotated[float, SHARE] = 0.9
    """Of the memory limit; the kernel kills without asking at 1."""
    memory_growth: Annotated[float, "times"] = 1.2
    """Times the value of an hour ago; a warm-up ends sooner."""
    memory_ahead: Annotated[float, "hours"] = 4.0
    """Until the limit is reached at the growth of the last hour: time to look at it by daylight."""
    open_files: Annotated[float, SHARE] = 0.8
    """Of the descriptors; at 1 the worker accepts no connection."""
    gc_pause: Annotated[float, SHARE] = 0.05
    """Of wall time in the garbage collector; the loop stands still meanwhile."""
    worker_starts: Annotated[float, "restarts"] = 3.0
    """Restarts of one worker slot in 15 minutes; a deploy or recycling makes one or two."""
    accept_queue: Annotated[float, "connections"] = 16.0
    """Connections that waited a whole minute for accept(); the workers are fewer than the work."""

    # telemetry
    export_failures: Annotated[float, SHARE] = 0.1
    """Of batches; exporters retry, so a tenth means that the backend really refuses."""
    scrape_seconds: Annotated[float, "seconds"] = 5.0
    """Half of Prometheus' default time limit; beyond it every number disappears at once."""


THRESHOLDS = Thresholds()
