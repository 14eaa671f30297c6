"""A program that runs exactly as long as its `with` block, and says why when it does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .waiting import PATIENCE

__all__ = ["PartFailed", "Running", "own_folder", "running"]

PAUSE = 0.02
"""Seconds between two questions to a program that is starting."""


class PartFailed(Exception):  # noqa: N818 - named like what it says.
    """A part did not start, or ended by itself; its log is in the message."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A started program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_with: signal.Signals = signal.SIGTERM
    _expected_to_end: bool = field(default=False, init=False)

    @property
    def pid(self) -> int:
        """The process that was started; its children are in the process group of this number."""
        return self.process.pid

    def output(self) -> str:
        """Everything it has printed so far, on both streams."""
        return self.log.read_text(errors="replace")

    def tail(self, *, lines: int = 40) -> str:
        """The last lines that it printed, with a heading."""
        last = self.output().splitlines()[-lines:]
        return "\n".join([f"--- last lines of {self.name} ---", *last, "---"])

    def wait_until(self, question: Callable[[], object], *, within: float = PATIENCE) -> None:
        """Ask until the answer is true, or the program has ended, or the time is over."""
        deadline = time.monotonic() + within
        while not question():
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(PAUSE)
                msg = f"{self.name} ended with {code} before it was ready.\n{self.tail()}"
                raise PartFailed(msg)
            if time.monotonic() > deadline:
                msg = f"{self.name} was not ready after {within} s.\n{self.tail()}"
                raise PartFailed(msg)

    def kill(self) -> None:
        """End it and all its children at once, as a machine that loses power would."""
        self._expected_to_end = True
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, *, within: float = 30.0) -> None:
        """Ask it to end; end it and whatever it left behind."""
        self._expected_to_end = True
        # To the first process only: servers with workers end them in order, and those that measure
        # coverage get to write it.
        with suppress(ProcessLookupError):
            self.process.send_signal(self.stop_with)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        self.kill()

    def check(self) -> None:
        """Complain when it has ended without being asked to."""
        if self.process.poll() is not None and not self._expected_to_end:
            msg = f"{self.name} ended with {self.process.returncode} by itself.\n{self.tail()}"
            raise PartFailed(msg)


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    name: str,
    folder: Path,
    ready: Callable[[], object] | None = None,
    within: float = PATIENCE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    stop_with: signal.Signals = signal.SIGTERM,
) -> Iterator[Running]:
    """Start a program, hand it over when it is ready, and stop it and its children at the end.

    Args:
        command: The program and its arguments.
        name: What the messages call it.
        folder: Where its log goes.
        ready: Asked until it is true; not given, the caller waits with `Running.wait_until`.
        within: Seconds until a program that is not ready has failed.
        env: Variables on top of this process's own.
        cwd: Where it runs; the folder when not given.
        user: Who runs it, when this process is root.
        stop_with: The signal that makes it end in order.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_leash(), *map(str, command)],
            cwd=cwd or folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=_group_of(user),
            extra_groups=None if user is None else [],
        )
    part = Running(name=name, process=process, log=log, stop_with=stop_with)
    try:
        if ready is not None:
            part.wait_until(ready, within=within)
        yield part
        part.check()
    except PartFailed:
        raise
    except Exception as error:
        error.add_note(part.tail())
        raise
    finally:
        part.stop()


@contextmanager
def own_folder(name: str, *, user: str | None = None) -> Iterator[Path]:
    """A temporary folder that belongs to the user who runs the part."""
    # A child that was killed a moment ago may still be writing its last file.
    with tempfile.TemporaryDirectory(prefix=f"fastobs-{name}-", ignore_cleanup_errors=True) as path:
        if user is not None:
            shutil.chown(path, user, _group_of(user))
        yield Path(path)


def _leash() -> list[str]:
    """A prefix with which the kernel ends the program when this process dies, even by SIGKILL."""
    # The kernel counts the thread that started it, so parts are started from the main thread.
    if sys.platform == "linux" and (setpriv := shutil.which("setpriv")):
        return [setpriv, "--pdeathsig", "TERM", "--"]
    return []


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, number)
