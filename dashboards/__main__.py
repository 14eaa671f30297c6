"""`python -m dashboards [--check]`: write the boards, or fail when they are out of date."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alerts.thresholds import THRESHOLDS, Thresholds

from .boards import boards
from .kit import written

__all__ = ["GENERATED", "main", "rendered"]

GENERATED = Path(__file__).parent / "generated"


def rendered(thresholds: Thresholds = THRESHOLDS) -> dict[str, str]:
    """Every board's file, by name."""
    return {f"{board.uid}.json": written(board) for board in boards(thresholds)}


def main(arguments: Sequence[str], folder: Path = GENERATED) -> int:
    """Write the files; with ``--check``, name those that differ and answer 1."""
    wanted = rendered()
    present = {path.name: path.read_text() for path in folder.glob("*.json")}
    stale = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
    if "--check" in arguments:
        for name in stale:
            sys.stderr.write(f"{name} is out of date; run `python -m dashboards`.\n")
        return 1 if stale else 0
    for name in stale:
        if name in wanted:
            (folder / name).write_text(wanted[name])
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
