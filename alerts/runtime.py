"""Is the Python process the bottleneck?"""

from __future__ import annotations

from fastobs.catalogue import (
    ACCEPT_QUEUE,
    CPU_LIMIT,
    GC_PAUSE,
    LOOP_LAG,
    MEMORY_LIMIT,
    PROCESS_CPU,
    PROCESS_FDS,
    PROCESS_MAX_FDS,
    PROCESS_RSS,
    PROCESS_START,
    THREADS,
    THREADS_PENDING,
)
from fastobs.promql import gauge, largest, over, quantile, rate, total

from .kit import Alert, Group, Record, Severity, bound, percent
from .thresholds import THRESHOLDS, Thresholds

__all__ = ["CPU", "LAG", "RSS", "groups"]

BOARD = "fastobs-runtime"
BY_INSTANCE = ("job", "instance")
BY_WORKER = ("job", "instance", "worker")
THIS_WORKER = "worker {{ $labels.worker }} of {{ $labels.job }} on {{ $labels.instance }}"

LAG = Record(
    name="fastobs:event_loop_lag_seconds:p99_5m",
    expr=quantile(0.99, LOOP_LAG, by=BY_WORKER, window="5m"),
)
CPU = Record(
    name="fastobs:cpu_utilisation:ratio5m",
    expr=f"{total(rate(PROCESS_CPU, window='5m'), by=BY_INSTANCE)}\n"
    f"/ on (job, instance) {largest(gauge(CPU_LIMIT), by=BY_INSTANCE)}",
)
RSS = Record(name="fastobs:rss:bytes", expr=total(gauge(PROCESS_RSS), by=BY_INSTANCE))

_MEMORY_LIMIT = f"on (job, instance) {largest(gauge(MEMORY_LIMIT), by=BY_INSTANCE)}"


def groups(limits: Thresholds = THRESHOLDS) -> tuple[Group, ...]:
    """Loop and threads, CPU, memory, and what else ends a process."""
    return (
        Group(
            name="fastobs-runtime-loop", rules=(LAG, *_loop(limits), _threads(limits), _gc(limits))
        ),
        Group(name="fastobs-runtime-process", rules=(CPU, RSS, *_cpu(limits), *_memory(limits))),
        Group(
            name="fastobs-runtime-server", rules=(_files(limits), _churn(limits), _queue(limits))
        ),
    )


def _loop(limits: Thresholds) -> tuple[Alert, ...]:
    def blocked(severity: Severity, line: float, lasts: str) -> Alert:
        return Alert(
            name="FastobsEventLoopBlocked",
            severity=severity,
            expr=f"{LAG} > {line:g}",
            lasts=lasts,
            summary=f"Something blocks the event loop of {THIS_WORKER}.",
            description=(
                "The loop runs {{ $value | humanizeDuration }} late (P99); every request of that worker "
                "waits as long. "
                "The board names the route, the log line the file and line."
            ),
            dashboard=BOARD,
        )

    return (
        blocked("warning", limits.loop_lag.target, "5m"),
        blocked("critical", limits.loop_lag.critical, "2m"),
    )


def _threads(limits: Thresholds) -> Alert:
    used = total(gauge(THREADS, 'state="used"'), by=BY_WORKER)
    most = total(gauge(THREADS, 'state="max"'), by=BY_WORKER)
    waiting = total(over("min_over_time", THREADS_PENDING, window="1m"), by=BY_WORKER)
    return Alert(
        name="FastobsThreadpoolSaturated",
        severity="warning",
        expr=bound(f"{used}\n/ {most} >= {limits.threadpool_use:g}", f"{waiting} > 0"),
        lasts="5m",
        summary=f"def endpoints of {THIS_WORKER} wait for a thread.",
        description=(
            "{{ $value | humanizePercentage }} of its threads are taken, and calls queue. They are as "
            "slow as the queue is long, whatever the endpoint does."
        ),
        dashboard=BOARD,
    )


def _gc(limits: Thresholds) -> Alert:
    return Alert(
        name="FastobsGCPauseHigh",
        severity="warning",
        expr=f"{total(rate(GC_PAUSE, window='5m', of='sum'), by=BY_WORKER)} > {limits.gc_pause:g}",
        lasts="15m",
        summary=f"The garbage collector takes the time of {THIS_WORKER}.",
        description=(
            "{{ $value | humanizePercentage }} of wall time are its pauses; the loop stands still meanwhile."
        ),
        dashboard=BOARD,
    )


def _cpu(limits: Thresholds) -> tuple[Alert, ...]:
    def high(severity: Severity, line: float, lasts: str) -> Alert:
        return Alert(
            name="FastobsCPUHigh",
            severity=severity,
            expr=f"{CPU} > {line:g}",
            lasts=lasts,
            summary=f"{{{{ $labels.instance }}}} of {{{{ $labels.job }}}} uses over {percent(line)} of its CPU limit.",
            description=(
                "{{ $value | humanizePercentage }} of the limit is used. Throttling shows as "
                "latency in every route at once."
            ),
            dashboard=BOARD,
        )

    cores = total(rate(PROCESS_CPU, window="5m"), by=BY_WORKER)
    return (
        high("warning", limits.cpu.target, "15m"),
        high("critical", limits.cpu.critical, "5m"),
        Alert(
            name="FastobsWorkerCPUBound",
            severity="warning",
            expr=f"{cores} > {limits.worker_cpu:g}",
            lasts="10m",
            summary=f"Its core is full: {THIS_WORKER}.",
            description=(
                "It uses {{ $value | humanize }} cores; one Python process cannot use more than about "
                "one, whatever the limit is."
            ),
            dashboard=BOARD,
        ),
    )


def _memory(limits: Thresholds) -> tuple[Alert, ...]:
    return (
        Alert(
            name="FastobsMemoryGrowth",
            severity="warning",
            expr=bound(
                f"predict_linear({RSS}[1h], {limits.memory_ahead:g} * 3600) > {_MEMORY_LIMIT}",
                f"{RSS} > {limits.memory_growth:g} * {RSS} offset 1h",
            ),
            lasts="30m",
            summary="{{ $labels.instance }} of {{ $labels.job }} will run out of memory.",
            description=(
                "At the growth of the last hour it reaches {{ $value | humanize1024 }}B, more "
                f"than its limit, within {limits.memory_ahead:g} hours."
            ),
            dashboard=BOARD,
        ),
        Alert(
            name="FastobsMemoryNearLimit",
            severity="critical",
            expr=f"{RSS}\n/ {_MEMORY_LIMIT} > {limits.memory:g}",
            lasts="5m",
            summary="{{ $labels.instance }} of {{ $labels.job }} is about to be killed for its memory.",
            description=(
                "{{ $value | humanizePercentage }} of the memory limit is used; beyond it the "
                "kernel ends the process with its requests."
            ),
            dashboard=BOARD,
        ),
    )


def _files(limits: Thresholds) -> Alert:
    return Alert(
        name="FastobsFileDescriptorsHigh",
        severity="warning",
        expr=f"{gauge(PROCESS_FDS)} / {gauge(PROCESS_MAX_FDS)} > {limits.open_files:g}",
        lasts="10m",
        summary=f"File descriptors run out in {THIS_WORKER}.",
        description=(
            "{{ $value | humanizePercentage }} of them are used; without any the worker can neither "
            "accept nor open connections."
        ),
        dashboard=BOARD,
    )


def _churn(limits: Thresholds) -> Alert:
    restarts = largest(over("changes", PROCESS_START, window="15m"), by=BY_WORKER)
    return Alert(
        name="FastobsWorkerChurn",
        severity="warning",
        expr=f"{restarts} > {limits.worker_starts:g}",
        keep="15m",
        summary=f"Restarts again and again: {THIS_WORKER}.",
        description=(
            "It was started {{ $value | humanize }} times in 15 minutes. Each time its requests are lost."
        ),
        dashboard=BOARD,
    )


def _queue(limits: Thresholds) -> Alert:
    waiting = largest(over("min_over_time", ACCEPT_QUEUE, window="1m"), by=BY_INSTANCE)
    return Alert(
        name="FastobsAcceptQueueLong",
        severity="warning",
        expr=f"{waiting} > {limits.accept_queue:g}",
        lasts="2m",
        summary="Connections wait before {{ $labels.instance }} of {{ $labels.job }} accepts them.",
        description=(
            "{{ $value | humanize }} connections have been in the kernel's queue for a minute. No latency metric contains this wait."
        ),
        dashboard=BOARD,
    )
