"""What the kernel says, in the forms that it says it in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastobs import catalogue
from fastobs.catalogue import Metric
from fastobs.probes import _machine

GIB = 2.0**30


def known(root: Path) -> dict[Metric, float]:
    return dict(_machine.facts(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which nothing is known."""
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def put(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.fixture(autouse=True)
def _big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sysconf
    monkeypatch.setattr(
        os, "sysconf", lambda name: 2**40 // 4096 if name == "SC_PHYS_PAGES" else real(name)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def test_without_proc_nothing_is_made_up(root: Path) -> None:
    """CPU time and limits are known everywhere; the rest is absent."""
    assert set(known(root)) == {
        catalogue.PROCESS_CPU,
        catalogue.PROCESS_MAX_FDS,
        catalogue.MEMORY_LIMIT,
        catalogue.CPU_LIMIT,
    }


def test_without_a_group_the_machine_is_the_limit(root: Path) -> None:
    """All its memory and cores."""
    facts = known(root)

    assert facts[catalogue.MEMORY_LIMIT] == 2.0**40
    assert facts[catalogue.CPU_LIMIT] == 64


def test_the_tightest_group_on_the_way_up_limits(root: Path) -> None:
    """cgroup v2 on a host: a group may be unlimited within one that is not."""
    put(root, "proc/self/cgroup", "0::/system.slice/app.service\n")
    put(root, "sys/fs/cgroup/system.slice/app.service/memory.max", "max\n")
    put(root, "sys/fs/cgroup/system.slice/app.service/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/system.slice/memory.max", f"{2**30}\n")
    put(root, "sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n")
    put(root, "sys/fs/cgroup/cpu.max", "800000 100000\n")
    facts = known(root)

    assert facts[catalogue.MEMORY_LIMIT] == GIB
    assert facts[catalogue.CPU_LIMIT] == 1.5


def test_in_a_container_the_top_is_its_own(root: Path) -> None:
    """cgroup v2 with a namespace: the path is the root."""
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/memory.max", f"{2**29}\n")
    put(root, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    facts = known(root)

    assert facts[catalogue.MEMORY_LIMIT] == GIB / 2
    assert facts[catalogue.CPU_LIMIT] == 0.5


def test_the_old_groups_are_read_as_well(root: Path) -> None:
    """cgroup v1 in a container: the path is the host's and leads nowhere."""
    lines = ["5:cpu,cpuacct:/docker/abc", "4:memory:/docker/abc", "3:pids:/docker/abc", "0::/x"]
    put(root, "proc/self/cgroup", "\n".join(lines))
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2**30}\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    facts = known(root)

    assert facts[catalogue.MEMORY_LIMIT] == GIB
    assert facts[catalogue.CPU_LIMIT] == 2


def test_old_groups_without_a_limit_say_so_in_numbers(root: Path) -> None:
    """A quota of -1, and more bytes than there are."""
    put(root, "proc/self/cgroup", "5:cpu:/\n4:memory:/\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    facts = known(root)

    assert facts[catalogue.MEMORY_LIMIT] == 2.0**40
    assert facts[catalogue.CPU_LIMIT] == 64


def test_what_cannot_be_read_is_left_out(root: Path) -> None:
    """A kernel that writes something else."""
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/memory.max", "plenty\n")
    put(root, "proc/self/statm", "1\n")

    assert catalogue.MEMORY_LIMIT not in known(root)
    assert catalogue.PROCESS_RSS not in known(root)


def test_a_program_may_be_called_anything(root: Path) -> None:
    """Parentheses and blanks in its name do not shift the columns."""
    put(root, "proc/self/stat", f"7 (a) b) (c) S {' '.join(['0'] * 18)} 500 0 0\n")
    put(root, "proc/stat", "cpu 1 2 3\nbtime 1000\n")

    assert known(root)[catalogue.PROCESS_START] == 1000 + 500 / os.sysconf("SC_CLK_TCK")


def test_no_limit_of_descriptors_is_no_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity is not shown."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    assert catalogue.PROCESS_MAX_FDS not in known(root)
