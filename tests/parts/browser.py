"""What a page looks like, in a real browser without a screen."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from .process import PartFailed, own_folder
from .programs import find
from .waiting import PATIENCE

__all__ = ["dom", "screenshot"]

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
"""A browser that talks to nobody but the page."""

PNG = b"\x89PNG\r\n\x1a\n"


def dom(url: str, *, settle: float = 5.0, within: float = PATIENCE) -> str:
    """The document as HTML, after its scripts have run.

    Args:
        url: http:, file: or data:.
        settle: Seconds of the page's own clock that its timers and fetches get; it runs as fast
            as the work allows.
        within: Seconds until a browser that is not done has failed.
    """
    return _chromium("--dump-dom", url, settle=settle, within=within)


def screenshot(
    url: str,
    path: Path,
    *,
    width: int = 1600,
    height: int = 1200,
    settle: float = 5.0,
    within: float = PATIENCE,
) -> Path:
    """A picture of the page as a PNG file; `dom` explains the other arguments."""
    path = path.resolve()
    picture = (f"--window-size={width},{height}", f"--screenshot={path}")
    said = _chromium(*picture, url, settle=settle, within=within)
    if not path.is_file() or not path.read_bytes().startswith(PNG):
        msg = f"chromium made no picture of {url}.\n{said}"
        raise PartFailed(msg)
    return path


def _chromium(*words: str, settle: float, within: float) -> str:
    with own_folder("chromium") as folder:
        command = [
            find("chromium"),
            *QUIET,
            f"--user-data-dir={folder / 'profile'}",
            f"--virtual-time-budget={round(settle * 1000)}",
            *words,
        ]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            printed, complaints = process.communicate(timeout=within)
        except subprocess.TimeoutExpired as late:
            msg = f"chromium was not done with {words[-1]} after {within} s."
            raise PartFailed(msg) from late
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if process.returncode:
            msg = f"chromium ended with {process.returncode}.\n{complaints[-4000:]}"
            raise PartFailed(msg)
        return printed
