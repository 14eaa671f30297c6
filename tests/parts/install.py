"""Install what the tests need and pip cannot bring: ``python -m tests.parts.install``.

As root on Debian and its relatives it installs what is missing; anywhere else it says what to
install. What is newer than the installed Debian is unpacked into a folder of the project, for which
nobody needs to be root. Where nothing is missing it is done at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .programs import PARTS, Part, in_ci
from .unpack import can_unpack, unpack

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks this program before it starts a service; 101 means no."""


def main(wanted: Sequence[Part] = PARTS) -> int:
    """Install, or explain; the exit code."""
    missing = _missing(wanted)
    newer = [part for part in missing if part.unpacked]
    ours = [part for part in missing if not part.unpacked]
    if ours and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {_names(ours)} with apt-get, once …", flush=True)
        with _services_stay_off():
            _apt_get("update")
            _apt_get("install", "--no-install-recommends", *_packages(ours))
    if newer and can_unpack():
        print(f"Unpacking {_names(newer)}, once …", flush=True)
        unpack(_packages(newer))
    missing = _missing(missing)
    return explain(missing, strict=in_ci()) if missing else 0


def explain(missing: Sequence[Part], *, strict: bool) -> int:
    """Say what to install; an error only where a missing part is one."""
    programs = ", ".join(program for part in missing for program in part.programs)
    installed = _packages([part for part in missing if not part.unpacked])
    remedies = [f"sudo apt-get install {' '.join(installed)}"] if installed else []
    remedies += [part.remedy for part in missing if part.unpacked]
    print(
        f"Not on this machine: {_names(missing)}. "
        f"{'CI needs them' if strict else 'The tests that need them are skipped'}. "
        f"On Debian and Ubuntu: {'; '.join(remedies)}. "
        f"Elsewhere, have these on your PATH: {programs}.",
        file=sys.stderr,
    )
    return 1 if strict else 0


def _missing(wanted: Sequence[Part]) -> list[Part]:
    return [part for part in wanted if not part.is_here()]


def _names(parts: Sequence[Part]) -> str:
    return ", ".join(part.name for part in parts)


def _packages(parts: Sequence[Part]) -> list[str]:
    return [package for part in parts for package in part.packages]


def _apt_get(*words: str) -> None:
    done = subprocess.run(
        ["apt-get", "--yes", "-o", "DPkg::Lock::Timeout=300", *words],
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(f"apt-get {words[0]} ended with {done.returncode}.\n{done.stdout}", file=sys.stderr)


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Keep Debian from starting the servers it installs: the tests start their own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
