"""What the kernel says of this process, its container and its machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import process_time

from fastobs import catalogue
from fastobs.catalogue import Metric

__all__ = ["Fact", "facts"]

Fact = tuple[Metric, float]

ROOT = Path("/")


def facts(root: Path = ROOT) -> Iterator[Fact]:
    """What can be known here; on systems without /proc that is less, and nothing is made up.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    yield catalogue.PROCESS_CPU, process_time()
    sources: tuple[Callable[[Path], Iterator[Fact]], ...] = (
        _memory,
        _start,
        _descriptors,
        _most_descriptors,
        _limits,
    )
    for source in sources:
        try:
            known = list(source(root))
        except (OSError, ValueError, IndexError, AttributeError, ImportError):
            # Another system, or a container that hides it.
            continue
        yield from known


def _memory(root: Path) -> Iterator[Fact]:
    page = os.sysconf("SC_PAGE_SIZE")
    virtual, resident = (root / "proc/self/statm").read_text().split()[:2]
    yield catalogue.PROCESS_RSS, float(resident) * page
    yield catalogue.PROCESS_VIRTUAL, float(virtual) * page


def _start(root: Path) -> Iterator[Fact]:
    yield catalogue.PROCESS_START, _started(root, os.getpid())


@cache
def _started(root: Path, _pid: int) -> float:
    # The name of the program is in parentheses and may contain anything.
    after_name = (root / "proc/self/stat").read_text().rpartition(")")[2].split()
    ticks = float(after_name[19])
    boot = next(
        float(line.split()[1])
        for line in (root / "proc/stat").read_text().splitlines()
        if line.startswith("btime")
    )
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _descriptors(root: Path) -> Iterator[Fact]:
    # One of them is open to read the list.
    yield catalogue.PROCESS_FDS, sum(1.0 for _ in (root / "proc/self/fd").iterdir()) - 1.0


def _most_descriptors(_root: Path) -> Iterator[Fact]:
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        yield catalogue.PROCESS_MAX_FDS, float(most)


def _limits(root: Path) -> Iterator[Fact]:
    machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    yield catalogue.MEMORY_LIMIT, min([machine, *_memory_limits(root)])
    cores = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    yield catalogue.CPU_LIMIT, min([cores, *_cpu_limits(root)])


def _memory_limits(root: Path) -> Iterator[float]:
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _read(group / name)) not in {"", "max"}:
                yield float(limit)


def _cpu_limits(root: Path) -> Iterator[float]:
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota not in {"", "max", "-1"}:
            yield float(quota) / float(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control group of this process and those above it: each may set a limit.

    In a container the path may be the host's, and lead nowhere; the top is then the container's own.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
        else:
            continue
        group = top / path.strip("/")
        yield group
        if group != top:
            yield from (above for above in group.parents if above.is_relative_to(top))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
