"""Runs a measurement in a process of its own: ``python -m benchmarks.fresh TASK VARIANTS OPTIONS``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run"]

HERE = Path(__file__).parent.parent


def run(task: str, subject: Any, *, prefix: Sequence[str] = (), **options: Any) -> Any:
    """What the task answers, in a fresh interpreter.

    Args:
        task: One of `TASKS`.
        subject: Its first argument.
        prefix: The beginning of the command line, for programs that run programs.
        options: Its other arguments.
    """
    # Hash seeds place objects in memory: chance, which timing must sample and counting must not.
    environment = {"PYTHONHASHSEED": "0"} if prefix else {}
    command = [sys.executable, "-m", "benchmarks.fresh", task, *map(json.dumps, (subject, options))]
    done = subprocess.run(
        [*prefix, *command],
        cwd=HERE,
        env={**os.environ, "FASTOBS_STRICT": "1", **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def main(task: str, subject: str, options: str) -> None:
    from .calls import count_calls
    from .events import time_events
    from .instructions import run_twice
    from .memory import grow
    from .scrape import time_scrapes
    from .sharing import time_sharing
    from .slow import time_requests
    from .timing import time_variants
    from .truth import tell_of_blocks, tell_of_parts, tell_of_profiles

    tasks = {
        job.__name__: job
        for job in (
            count_calls,
            grow,
            run_twice,
            tell_of_blocks,
            tell_of_parts,
            tell_of_profiles,
            time_events,
            time_requests,
            time_scrapes,
            time_sharing,
            time_variants,
        )
    }
    job: Any = tasks[task]
    json.dump(job(json.loads(subject), **json.loads(options)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
