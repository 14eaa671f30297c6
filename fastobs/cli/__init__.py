"""The command ``fastobs``: exports, profiles, a live view, comparisons and a check-up."""

from __future__ import annotations

import sys

from fastobs._extras import need
from fastobs.errors import FastobsError

__all__ = ["main"]


def main() -> int:
    """Run the command line; the exit code where it has not left by itself.

    What cannot be done is one line on stderr and 1; what was typed wrong is 2.
    """
    try:
        with need("The command line", extra="cli"):
            from .commands import app
        app(prog_name="fastobs")
    except FastobsError as error:
        sys.stderr.write(f"fastobs: {error}\n")
        return 1
    return 0
