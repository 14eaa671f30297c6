"""Every series that fastobs can emit: the one place where a metric's name is spelled.

Names follow the OpenTelemetry semantic conventions in their Prometheus translation where a
convention exists (https://opentelemetry.io/docs/specs/semconv/http/http-metrics/), else they begin
with ``fastobs_``. They are constants, never settings: boards, alerts, docs and tests take them from
here, so that they cannot drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["CATALOGUE", "FAMILIES", "PART", "Family", "Kind", "Metric"]

Kind = Literal["counter", "gauge", "histogram"]

LATENCY = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
"""Seconds. They contain the targets .05, .1, .2 and .5, so that an SLO on them can be exact."""

QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, for what is normally far below a request: waits, pauses, loads, operations."""

LONG = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds, for how long something was held."""

BYTES = (100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
"""Bytes, a power of ten each."""

PART = (
    "db",
    "pool_wait",
    "cache",
    "http",
    "thread_wait",
    "thread",
    "cpu",
    "blocking",
    "loop_wait",
    "unaccounted",
)
"""The parts of a request's time; names given to `fastobs.section` come on top."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family, named exactly as Prometheus stores it.

    Attributes:
        name: With unit and, for counters, with ``_total``.
        kind: counter, gauge or histogram.
        help: One short sentence; it travels with every scrape.
        labels: Label names, in the order of the values that are handed to the store.
        buckets: Upper bounds of a histogram, without +Inf.
        per_worker: Shown once per worker, with the label ``worker`` (the slot number); everything
            else is of the whole service.
        merge: How a gauge of the whole service comes from what its workers say, and the overflow series
            of a gauge from what is folded into it.
        limit: Label sets before further ones are folded into one overflow series.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    per_worker: bool = False
    merge: Literal["sum", "max"] = "sum"
    limit: int = 1000

    @property
    def shown_labels(self) -> tuple[str, ...]:
        """The label names as Prometheus sees them."""
        return (*self.labels, "worker") if self.per_worker else self.labels


@dataclass(frozen=True, slots=True)
class Family:
    """A question that an operator asks, and the metrics that answer it."""

    name: str
    question: str
    metrics: tuple[Metric, ...]

    def __iter__(self) -> Iterator[Metric]:
        return iter(self.metrics)


METHOD = "http_request_method"
ROUTE = "http_route"
STATUS = "http_response_status_code"
ERROR = "error_type"
POOL = "db_client_connection_pool_name"
POOL_STATE = "db_client_connection_state"
DB_SYSTEM = "db_system_name"
DB_OPERATION = "db_operation_name"

HTTP_DURATION = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Time from the request's arrival to the last byte of its response.",
    (METHOD, ROUTE, STATUS, ERROR),
    LATENCY,
)
HTTP_ACTIVE = Metric(
    "http_server_active_requests",
    "gauge",
    "Requests whose response is not complete yet.",
    (METHOD,),
)
HTTP_RESPONSE_SIZE = Metric(
    "http_server_response_body_size_bytes",
    "histogram",
    "Bytes of response body sent.",
    (METHOD, ROUTE, STATUS),
    BYTES,
)
HTTP_REQUEST_SIZE = Metric(
    "http_server_request_body_size_bytes",
    "histogram",
    "Bytes of request body received, of requests that have a body.",
    (METHOD, ROUTE, STATUS),
    BYTES,
)
HTTP_PART = Metric(
    "fastobs_request_part_seconds_total",
    "counter",
    "Where the time of requests went.",
    (ROUTE, "part"),
    limit=5000,
)
HTTP_SLOW = Metric(
    "fastobs_slow_requests_total",
    "counter",
    "Requests that took longer than the slow threshold.",
    (ROUTE,),
)
HTTP_EXCEPTIONS = Metric(
    "fastobs_exceptions_total",
    "counter",
    "Exceptions that ended a request with a 5xx, cut its response short, or came after it.",
    (ROUTE, ERROR),
)
HTTP_WEBSOCKETS = Metric(
    "fastobs_websocket_connections",
    "gauge",
    "WebSocket connections that are open.",
)
HTTP_DISCONNECTS = Metric(
    "fastobs_client_disconnects_total",
    "counter",
    "Requests that were abandoned before their response was complete.",
    (ROUTE,),
)

POOL_COUNT = Metric(
    "db_client_connection_count",
    "gauge",
    "Connections of the pool, by state.",
    (POOL, POOL_STATE),
    per_worker=True,
    limit=200,
)
POOL_MAX = Metric(
    "db_client_connection_max",
    "gauge",
    "The most connections that the pool may open.",
    (POOL,),
    per_worker=True,
    limit=100,
)
POOL_IDLE_MAX = Metric(
    "db_client_connection_idle_max",
    "gauge",
    "The most idle connections that the pool keeps.",
    (POOL,),
    per_worker=True,
    limit=100,
)
POOL_PENDING = Metric(
    "db_client_connection_pending_requests",
    "gauge",
    "Callers that wait for a connection now.",
    (POOL,),
    per_worker=True,
    limit=100,
)
POOL_TIMEOUTS = Metric(
    "db_client_connection_timeouts_total",
    "counter",
    "Waits for a connection that ended in a timeout.",
    (POOL,),
    limit=100,
)
POOL_CREATE = Metric(
    "db_client_connection_create_time_seconds",
    "histogram",
    "Time to open a connection.",
    (POOL,),
    QUICK,
    limit=100,
)
POOL_WAIT = Metric(
    "db_client_connection_wait_time_seconds",
    "histogram",
    "Time that a caller waited for a connection, without the time to open one.",
    (POOL,),
    QUICK,
    limit=100,
)
POOL_USE = Metric(
    "db_client_connection_use_time_seconds",
    "histogram",
    "Time between taking a connection and giving it back.",
    (POOL,),
    LONG,
    limit=100,
)
POOL_OLDEST = Metric(
    "fastobs_connection_oldest_checkout_seconds",
    "gauge",
    "Age of the oldest checkout, by the route that holds it.",
    (POOL, ROUTE),
    per_worker=True,
    merge="max",
)
POOL_LEAKED = Metric(
    "fastobs_connections_leaked_total",
    "counter",
    "Connections that were garbage collected instead of given back.",
    (POOL, ROUTE),
)
DB_SERVER_MAX = Metric(
    "fastobs_db_server_max_connections",
    "gauge",
    "The connection limit of the database server.",
    (POOL,),
    merge="max",
    limit=100,
)
DB_DURATION = Metric(
    "db_client_operation_duration_seconds",
    "histogram",
    "Time of database operations.",
    (DB_SYSTEM, DB_OPERATION, ERROR),
    QUICK,
    limit=300,
)
DB_REPEATED = Metric(
    "fastobs_repeated_queries_total",
    "counter",
    "Requests that sent one statement again and again (N+1).",
    (ROUTE,),
)
CLIENT_OPEN = Metric(
    "http_client_open_connections",
    "gauge",
    "Connections of outgoing HTTP clients, by state.",
    ("http_connection_state", "client"),
    per_worker=True,
    limit=200,
)
CLIENT_MAX = Metric(
    "fastobs_http_client_max_connections",
    "gauge",
    "Most connections that an outgoing HTTP client may have open.",
    ("client",),
    per_worker=True,
    limit=100,
)
CLIENT_PENDING = Metric(
    "fastobs_http_client_pending_requests",
    "gauge",
    "Outgoing requests that wait for a connection now.",
    ("client",),
    per_worker=True,
    limit=100,
)
CLIENT_TIMEOUTS = Metric(
    "fastobs_http_client_timeouts_total",
    "counter",
    "Outgoing requests that gave up waiting for a connection.",
    ("client",),
    limit=100,
)
CLIENT_CREATE = Metric(
    "fastobs_http_client_create_time_seconds",
    "histogram",
    "Time to open a connection of an outgoing HTTP client.",
    ("client",),
    QUICK,
    limit=100,
)
CLIENT_QUEUE = Metric(
    "http_client_request_time_in_queue_seconds",
    "histogram",
    "Time that outgoing requests waited for a connection.",
    ("client",),
    QUICK,
    limit=100,
)
CLIENT_USE = Metric(
    "fastobs_http_client_use_time_seconds",
    "histogram",
    "Time that outgoing requests had a connection: open, and not given back.",
    ("client",),
    LONG,
    limit=100,
)

CACHE_REQUESTS = Metric(
    "fastobs_cache_requests_total",
    "counter",
    "Cache look-ups, by result (hit, miss, error).",
    ("cache", "result"),
    limit=600,
)
CACHE_ENTRIES = Metric(
    "fastobs_cache_entries",
    "gauge",
    "Entries in the cache.",
    ("cache",),
    per_worker=True,
    limit=200,
)
CACHE_MAX = Metric(
    "fastobs_cache_max_entries",
    "gauge",
    "The most entries that the cache keeps.",
    ("cache",),
    per_worker=True,
    limit=200,
)
CACHE_EVICTIONS = Metric(
    "fastobs_cache_evictions_total",
    "counter",
    "Entries that the cache gave up to make room.",
    ("cache",),
    limit=200,
)
CACHE_LOAD = Metric(
    "fastobs_cache_load_seconds",
    "histogram",
    "Time to load a value after a miss.",
    ("cache",),
    QUICK,
    limit=200,
)
CACHE_STAMPEDES = Metric(
    "fastobs_cache_stampedes_total",
    "counter",
    "Loads of a key that was being loaded already.",
    ("cache",),
    limit=200,
)

LIMIT_DECISIONS = Metric(
    "fastobs_rate_limit_decisions_total",
    "counter",
    "Decisions of rate limiters, by outcome (allowed, limited, error).",
    ("limiter", "limit", ROUTE, "outcome"),
)
LIMIT_REJECTED = Metric(
    "fastobs_rate_limited_requests_total",
    "counter",
    "Requests turned away with 429, and 429s that other services gave us (source=upstream).",
    (ROUTE, "source"),
)
LIMIT_RETRY_AFTER = Metric(
    "fastobs_rate_limit_retry_after_total",
    "counter",
    "Answers with 429, by whether Retry-After said when to come back (sent=yes, no).",
    (ROUTE, "sent"),
)

LOOP_LAG = Metric(
    "fastobs_event_loop_lag_seconds",
    "histogram",
    "How late the event loop ran a timer.",
    (),
    QUICK,
    per_worker=True,
)
LOOP_BLOCKS = Metric(
    "fastobs_event_loop_blocks_total",
    "counter",
    "Times that a route held the event loop longer than allowed.",
    (ROUTE,),
)
LOOP_BLOCKED = Metric(
    "fastobs_event_loop_blocked_seconds_total",
    "counter",
    "Time for which a route held the event loop, once it was longer than allowed.",
    (ROUTE,),
)
TASKS = Metric(
    "fastobs_asyncio_tasks",
    "gauge",
    "Tasks of the event loop that are not done.",
    per_worker=True,
)
THREADS = Metric(
    "fastobs_threadpool_threads",
    "gauge",
    "Threads for def endpoints, by state (used, max).",
    ("state",),
    per_worker=True,
)
THREADS_PENDING = Metric(
    "fastobs_threadpool_pending_tasks",
    "gauge",
    "Calls that wait for a thread.",
    per_worker=True,
)
EXECUTOR_PENDING = Metric(
    "fastobs_executor_pending_tasks",
    "gauge",
    "Calls that wait in the event loop's default executor: asyncio.to_thread, names of hosts.",
    per_worker=True,
)
DEPENDENCY_PENDING = Metric(
    "fastobs_dependency_pending_requests",
    "gauge",
    "Requests that wait for a dependency with max_concurrency.",
    per_worker=True,
)
GC_PAUSE = Metric(
    "fastobs_gc_pause_seconds",
    "histogram",
    "Pauses of the garbage collector.",
    ("generation",),
    QUICK,
    per_worker=True,
)
ACCEPT_QUEUE = Metric(
    "fastobs_accept_queue_connections",
    "gauge",
    "Connections that the kernel holds because no worker has accepted them yet.",
    per_worker=True,
)
MEMORY_LIMIT = Metric(
    "fastobs_memory_limit_bytes",
    "gauge",
    "The memory limit of the container (cgroup), or the machine's memory.",
    per_worker=True,
)
CPU_LIMIT = Metric(
    "fastobs_cpu_limit_cores",
    "gauge",
    "Cores that this process may use (cgroup quota, else the machine's).",
    per_worker=True,
)
PROCESS_CPU = Metric(
    "process_cpu_seconds_total",
    "counter",
    "User and system CPU time.",
    per_worker=True,
)
PROCESS_RSS = Metric(
    "process_resident_memory_bytes",
    "gauge",
    "Resident memory.",
    per_worker=True,
)
PROCESS_VIRTUAL = Metric(
    "process_virtual_memory_bytes",
    "gauge",
    "Virtual memory.",
    per_worker=True,
)
PROCESS_START = Metric(
    "process_start_time_seconds",
    "gauge",
    "Start of the process, seconds since the epoch.",
    per_worker=True,
)
PROCESS_FDS = Metric("process_open_fds", "gauge", "Open file descriptors.", per_worker=True)
PROCESS_MAX_FDS = Metric(
    "process_max_fds",
    "gauge",
    "The most file descriptors that the process may open.",
    per_worker=True,
)
WORKERS = Metric(
    "fastobs_workers", "gauge", "Worker slots, by state (live, free).", ("state",), merge="max"
)
WORKER_STARTS = Metric("fastobs_worker_starts_total", "counter", "Workers that were started.")

HEALTH_UP = Metric(
    "fastobs_health_check_up",
    "gauge",
    "1 while the check succeeds.",
    ("check",),
    per_worker=True,
    limit=100,
)

BUILD_INFO = Metric(
    "fastobs_build_info",
    "gauge",
    "1, with the versions that matter as labels.",
    ("version", "python", "fastapi", "starlette"),
    merge="max",
)
TARGET_INFO = Metric(
    "target_info",
    "gauge",
    "1, with the service as labels (OpenTelemetry resource).",
    ("service_name", "service_version", "deployment_environment_name"),
    merge="max",
)
SELF_ERRORS = Metric(
    "fastobs_instrumentation_errors_total",
    "counter",
    "Our own errors, contained before they reached a request.",
    ("component",),
    limit=100,
)
SELF_OVERFLOW = Metric(
    "fastobs_label_overflow_total",
    "counter",
    "Observations folded into the overflow series because a metric has too many label sets.",
    ("metric",),
    limit=200,
)
SELF_DROPPED = Metric(
    "fastobs_telemetry_dropped_total",
    "counter",
    "Spans, log lines and profiles that were dropped.",
    ("signal", "reason"),
    limit=50,
)
SELF_EXPORTS = Metric(
    "fastobs_exports_total",
    "counter",
    "Batches handed to a backend, by outcome (success, failure).",
    ("signal", "outcome"),
    limit=50,
)
SELF_QUEUE = Metric(
    "fastobs_export_queue_size",
    "gauge",
    "Items that wait to be exported or written.",
    ("signal",),
    per_worker=True,
    limit=50,
)
SELF_SCRAPE = Metric(
    "fastobs_scrape_duration_seconds",
    "histogram",
    "Time to render /metrics.",
    (),
    QUICK,
)
SELF_PROFILES = Metric(
    "fastobs_profiles_total",
    "counter",
    "Profiles, by what asked for them and what became of them.",
    ("trigger", "outcome"),
    limit=50,
)

HTTP = Family(
    "http",
    "Is the service fast, and does it answer without errors?",
    (
        HTTP_DURATION,
        HTTP_ACTIVE,
        HTTP_RESPONSE_SIZE,
        HTTP_REQUEST_SIZE,
        HTTP_PART,
        HTTP_SLOW,
        HTTP_EXCEPTIONS,
        HTTP_WEBSOCKETS,
        HTTP_DISCONNECTS,
    ),
)
POOLS = Family(
    "pools",
    "Do requests wait for a connection, and who holds them?",
    (
        POOL_COUNT,
        POOL_MAX,
        POOL_IDLE_MAX,
        POOL_PENDING,
        POOL_TIMEOUTS,
        POOL_CREATE,
        POOL_WAIT,
        POOL_USE,
        POOL_OLDEST,
        POOL_LEAKED,
        DB_SERVER_MAX,
        DB_DURATION,
        DB_REPEATED,
        CLIENT_OPEN,
        CLIENT_MAX,
        CLIENT_PENDING,
        CLIENT_TIMEOUTS,
        CLIENT_CREATE,
        CLIENT_QUEUE,
        CLIENT_USE,
    ),
)
CACHES = Family(
    "caches",
    "Does the cache help?",
    (
        CACHE_REQUESTS,
        CACHE_ENTRIES,
        CACHE_MAX,
        CACHE_EVICTIONS,
        CACHE_LOAD,
        CACHE_STAMPEDES,
    ),
)
LIMITS = Family(
    "limits", "Whom do we turn away?", (LIMIT_DECISIONS, LIMIT_REJECTED, LIMIT_RETRY_AFTER)
)
RUNTIME = Family(
    "runtime",
    "Is the Python process the bottleneck?",
    (
        LOOP_LAG,
        LOOP_BLOCKS,
        LOOP_BLOCKED,
        TASKS,
        THREADS,
        THREADS_PENDING,
        EXECUTOR_PENDING,
        DEPENDENCY_PENDING,
        GC_PAUSE,
        ACCEPT_QUEUE,
        MEMORY_LIMIT,
        CPU_LIMIT,
        PROCESS_CPU,
        PROCESS_RSS,
        PROCESS_VIRTUAL,
        PROCESS_START,
        PROCESS_FDS,
        PROCESS_MAX_FDS,
        WORKERS,
        WORKER_STARTS,
    ),
)
HEALTH = Family("health", "Do the dependencies answer?", (HEALTH_UP,))
TELEMETRY = Family(
    "telemetry",
    "Can the other numbers be trusted?",
    (
        BUILD_INFO,
        TARGET_INFO,
        SELF_ERRORS,
        SELF_OVERFLOW,
        SELF_DROPPED,
        SELF_EXPORTS,
        SELF_QUEUE,
        SELF_SCRAPE,
        SELF_PROFILES,
    ),
)

FAMILIES = (HTTP, POOLS, CACHES, LIMITS, RUNTIME, HEALTH, TELEMETRY)

CATALOGUE: dict[str, Metric] = {metric.name: metric for family in FAMILIES for metric in family}
"""Every metric by its name."""
