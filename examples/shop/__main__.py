"""``python -m examples.shop [--port 8000] [--workers 1]``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from threading import Thread

import uvicorn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="for a parent that may be killed"
    )
    options = parser.parse_args()
    if options.until_stdin_ends:
        Thread(target=_end_with_stdin, daemon=True).start()
    uvicorn.run(
        "examples.shop.app:app",
        host=options.host,
        port=options.port,
        workers=options.workers,
        access_log=False,
    )


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
