"""Is the Python process the bottleneck?"""

from __future__ import annotations

from alerts.thresholds import Thresholds
from fastobs.catalogue import (
    ACCEPT_QUEUE,
    CPU_LIMIT,
    DEPENDENCY_PENDING,
    EXECUTOR_PENDING,
    GC_PAUSE,
    LOOP_BLOCKED,
    LOOP_BLOCKS,
    LOOP_LAG,
    MEMORY_LIMIT,
    PROCESS_CPU,
    PROCESS_FDS,
    PROCESS_MAX_FDS,
    PROCESS_RSS,
    PROCESS_START,
    PROCESS_VIRTUAL,
    ROUTE,
    TASKS,
    THREADS,
    THREADS_PENDING,
    WORKER_STARTS,
    WORKERS,
)
from fastobs.promql import buckets, gauge, largest, named, quantile, rate, top, total

from .charts import heatmap, line, painted, stat, timeseries
from .kit import SCOPE, Chart, query, unit_of, worse_above

__all__ = ["cpu_of_limit", "event_loop", "overview", "process", "threads", "workers"]

BY_WORKER = ("job", "instance", "worker")
BY_INSTANCE = ("job", "instance")
WORKER = "{{instance}} worker {{worker}}"
INSTANCE = "{{instance}}"
NOT_BLOCKED = "nothing has blocked the loop yet"


def cpu_of_limit(limits: Thresholds) -> list[Chart]:
    """The number beside the targets."""
    return [
        stat(
            "CPU of limit",
            "Is CPU under its target? The worst instance, of its limit.",
            query(largest(_cpu()), "worst instance"),
            unit="percentunit",
            width=3,
            steps=worse_above(limits.cpu),
            alert="runtime/FastobsCPUHigh",
            board="fastobs-runtime",
        )
    ]


def overview(limits: Thresholds) -> list[Chart]:
    """The one panel that a service's overview needs."""
    lag = quantile(0.99, LOOP_LAG, *SCOPE, by=BY_WORKER)
    return [
        timeseries(
            "Event-loop lag P99",
            "Does something block the loop? The worst worker of each instance.",
            query(largest(lag, by=["instance"]), INSTANCE),
            unit=unit_of(LOOP_LAG),
            width=6,
            steps=worse_above(limits.loop_lag),
            alert="runtime/FastobsEventLoopBlocked",
            board="fastobs-runtime",
        )
    ]


def event_loop(limits: Thresholds) -> list[Chart]:
    """How late it runs, and whose code held it."""
    lag = quantile(0.99, LOOP_LAG, *SCOPE, by=["instance", "worker"])
    return [
        timeseries(
            "Loop lag P99 by worker",
            "Which worker is blocked?",
            query(top(10, lag), WORKER),
            unit=unit_of(LOOP_LAG),
            steps=worse_above(limits.loop_lag),
            alert="runtime/FastobsEventLoopBlocked",
        ),
        heatmap(
            "Loop lag",
            "One long stall, or many short ones?",
            query(buckets(LOOP_LAG, *SCOPE)),
            unit=unit_of(LOOP_LAG),
        ),
        blocked_by(SCOPE),
        timeseries(
            "Blocks",
            "How often does a route hold the loop for too long? Each has a line in the log.",
            query(_by_route(rate(LOOP_BLOCKS, *SCOPE)), _legend(), maybe_empty=NOT_BLOCKED),
            unit=unit_of(LOOP_BLOCKS),
        ),
        timeseries(
            "Tasks",
            "Do tasks leak?",
            query(total(gauge(TASKS, *SCOPE), by=["instance"]), INSTANCE),
            unit="short",
        ),
        timeseries(
            "Garbage collector",
            "Which share of a worker's wall time are its pauses? The worst worker.",
            query(largest(_gc(), by=["generation"]), "generation {{generation}}"),
            unit="percentunit",
            steps=worse_above(limits.gc_pause),
            alert="runtime/FastobsGCPauseHigh",
        ),
    ]


def threads(limits: Thresholds) -> list[Chart]:
    """Where def endpoints run."""
    return [
        timeseries(
            "Threads",
            "Do def endpoints queue for a thread, or requests for a dependency?",
            query(total(gauge(THREADS, *SCOPE), by=["state"]), "{{state}}"),
            query(total(gauge(THREADS_PENDING, *SCOPE)), "calls waiting"),
            query(total(gauge(EXECUTOR_PENDING, *SCOPE)), "default executor: waiting"),
            query(total(gauge(DEPENDENCY_PENDING, *SCOPE)), "max_concurrency: waiting"),
            unit="short",
            width=12,
            alert="runtime/FastobsThreadpoolSaturated",
            overrides=[*painted({"^used$": "blue", "waiting$": "red"}), line("max")],
        ),
        timeseries(
            "Accept queue",
            "Do connections wait in the kernel, where no latency metric sees them?",
            query(
                largest(gauge(ACCEPT_QUEUE, *SCOPE), by=["instance"]),
                INSTANCE,
                maybe_empty="only Linux tells, and only for the listening socket that is known",
            ),
            unit="short",
            width=12,
            steps=worse_above(limits.accept_queue),
            alert="runtime/FastobsAcceptQueueLong",
        ),
    ]


def process(limits: Thresholds) -> list[Chart]:
    """CPU, memory and descriptors."""
    cores = total(rate(PROCESS_CPU, *SCOPE), by=["instance", "worker"])
    memory = largest(gauge(MEMORY_LIMIT, *SCOPE))
    files = f"{gauge(PROCESS_FDS, *SCOPE)} / {gauge(PROCESS_MAX_FDS, *SCOPE)}"
    return [
        timeseries(
            "CPU by worker (cores)",
            "Does a worker fill its core? One Python process cannot use more than about one.",
            query(top(10, cores), WORKER),
            unit="short",
            steps=worse_above(limits.worker_cpu),
            alert="runtime/FastobsWorkerCPUBound",
        ),
        timeseries(
            "CPU of limit by instance",
            "Is the container throttled?",
            query(_cpu(), INSTANCE),
            unit="percentunit",
            steps=worse_above(limits.cpu),
            alert="runtime/FastobsCPUHigh",
        ),
        timeseries(
            "Resident memory",
            "Does it grow towards the limit?",
            query(total(gauge(PROCESS_RSS, *SCOPE), by=["instance"]), INSTANCE),
            query(memory, "limit"),
            query(f"{limits.memory:g} * {memory}", "page above"),
            unit=unit_of(PROCESS_RSS),
            alert="runtime/FastobsMemoryNearLimit",
            overrides=[line("limit"), line("page above"), *painted({"^page above$": "red"})],
        ),
        timeseries(
            "Virtual memory",
            "Does the address space grow without being used (threads, mappings)?",
            query(total(gauge(PROCESS_VIRTUAL, *SCOPE), by=["instance"]), INSTANCE),
            unit=unit_of(PROCESS_VIRTUAL),
        ),
        timeseries(
            "File descriptors of limit",
            "Do sockets or files leak?",
            query(largest(files, by=["instance"]), INSTANCE),
            unit="percentunit",
            high=1,
            steps=worse_above(limits.open_files),
            alert="runtime/FastobsFileDescriptorsHigh",
        ),
        timeseries(
            "Uptime by worker",
            "Who restarts?",
            query(
                f"time() - {largest(gauge(PROCESS_START, *SCOPE), by=['instance', 'worker'])}",
                WORKER,
            ),
            unit="s",
            alert="runtime/FastobsWorkerChurn",
        ),
    ]


def workers() -> list[Chart]:
    """How many processes serve."""
    return [
        timeseries(
            "Worker slots",
            "How many workers live, and how many slots are free?",
            query(
                total(gauge(WORKERS, *SCOPE), by=["instance", "state"]), "{{instance}}, {{state}}"
            ),
            unit="short",
            width=12,
            overrides=painted({"live$": "green", "free$": "text"}, shades=True),
        ),
        timeseries(
            "Worker starts",
            "Are workers recycled, or do they die?",
            query(total(rate(WORKER_STARTS, *SCOPE), by=["instance"]), INSTANCE),
            unit=unit_of(WORKER_STARTS),
            width=12,
            alert="runtime/FastobsWorkerChurn",
        ),
    ]


def blocked_by(scope: tuple[str, ...]) -> Chart:
    """The share of time for which a route held the event loop."""
    return timeseries(
        "Loop held by route",
        "Whose code holds the event loop, for which share of the time? Others wait meanwhile.",
        query(_by_route(rate(LOOP_BLOCKED, *scope)), _legend(), maybe_empty=NOT_BLOCKED),
        unit=unit_of(LOOP_BLOCKED),
        alert="runtime/FastobsEventLoopBlocked",
    )


def _by_route(rates: str) -> str:
    return top(10, named(total(rates, by=[ROUTE]), ROUTE, empty="(no route)"))


def _legend() -> str:
    return f"{{{{{ROUTE}}}}}"


def _gc() -> str:
    return total(rate(GC_PAUSE, *SCOPE, of="sum"), by=[*BY_WORKER, "generation"])


def _cpu() -> str:
    used = total(rate(PROCESS_CPU, *SCOPE), by=BY_INSTANCE)
    return f"{used} / on (job, instance) {largest(gauge(CPU_LIMIT, *SCOPE), by=BY_INSTANCE)}"
