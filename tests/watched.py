"""The shop with everything that a board can show, watched by what collects it; for tests and pictures."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from alerts.families import FAMILIES, file_name
from alerts.kit import render
from alerts.pace import Pace
from alerts.thresholds import THRESHOLDS
from fastobs.catalogue import HTTP_DURATION
from tests import parts

__all__ = ["HURRY", "PROFILES", "a_day_ago", "awaken", "provoke", "rules", "shop"]

HURRY = Pace(faster=20)
"""So that what needs hours has something to show."""
PROFILES = "s3cret"
DAY = 86_400


@contextmanager
def shop(folder: Path) -> Iterator[parts.Server]:
    """The shop with two workers, PostgreSQL and Redis, with traces, profiles and faults.

    Args:
        folder: Where the workers share their numbers, and where profiles are kept.
    """
    with (
        parts.postgresql() as postgresql,
        parts.redis() as redis,
        postgresql.database() as database,
    ):
        environment = {
            "SHOP_DATABASE_URL": database,
            "SHOP_REDIS_URL": redis.url,
            "FASTOBS_WORKERS_DIRECTORY": str(folder),
            "FASTOBS_SLOW_AFTER": "0.3",
            "FASTOBS_TRACES_SAMPLE": "1",
            "OTEL_TRACES_EXPORTER": "console",
            "FASTOBS_PROFILES_TOKEN": PROFILES,
            "FASTOBS_PROFILES_DIRECTORY": str(folder / "profiles"),
        }
        with parts.serve(
            "tests.drill.faulty:app", workers=2, env=environment, ready="/_fastobs/livez"
        ) as served:
            yield served


def awaken(served: parts.Server) -> None:
    """Have each worker asked once, and its health then, as an orchestrator does all the time."""
    for path in ("/api/v1/products/1", "/mistakes/small-pool", "/_fastobs/readyz"):
        for _ in range(12):
            served.get(path)


def provoke(served: parts.Server) -> None:
    """What nobody does to a healthy service, and each mistake: then no panel is empty.

    A load does most of it by itself, but on a machine that is slow enough nobody is turned away.
    """
    served.get("/_fastobs/readyz")
    for mistake in (
        "lazy-loads",
        "blocking-call",
        "unhandled-error",
        "slow-upstream",
        "cold-cache",
    ):
        served.get(f"/mistakes/{mistake}")
    with ThreadPoolExecutor(10) as callers:
        # Two workers with one connection each, which is out for seconds: some scrape sees it.
        list(callers.map(served.get, ["/mistakes/small-pool"] * 40))
        list(callers.map(served.get, ["/api/v1/search?q=lamp"] * 60))
    for path in ("refused-statement", "leaked-connection", "small-cache", "too-many-limits"):
        served.get(f"/faults/{path}")
    parts.get(f"{served.url}/api/v1/products/1", headers={"X-Profile": PROFILES})
    host, _, port = served.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=parts.PATIENCE) as caller:
        # Who reads the first piece of a slow answer and leaves is a client that gave up.
        caller.sendall(b"GET /mistakes/slow-stream HTTP/1.1\r\nHost: shop\r\n\r\n")
        caller.recv(100)


def rules(folder: Path) -> list[Path]:
    """The rule files, in a hurry."""
    files = []
    for family, groups in FAMILIES.items():
        files.append(folder / file_name(family))
        files[-1].write_text(render(family, HURRY.groups(groups(THRESHOLDS))))
    return files


def a_day_ago(address: str, folder: Path, *, seconds: int) -> Path:
    """A database in which the shop was asked twice a second a day ago, for so long from now on."""
    labels = f'job="shop",instance="{address}",http_request_method="GET",http_route="/",http_response_status_code="200"'
    begin = int(time.time()) - DAY - 60
    lines = []
    for series in (
        "_count",
        *(f"_bucket,le={bound}" for bound in (*HTTP_DURATION.buckets, "+Inf")),
    ):
        suffix, _, le = series.partition(",le=")
        bucket = f',le="{le}"' if le else ""
        lines += [
            f"{HTTP_DURATION.name}{suffix}{{{labels}{bucket}}} {2 * second} {begin + second}\n"
            for second in range(0, seconds + 60, 2)
        ]
    samples = folder / "yesterday.om"
    samples.write_text("".join([*lines, "# EOF\n"]))
    data = folder / "yesterday"
    parts.promtool("tsdb", "create-blocks-from", "openmetrics", samples, data)
    return data
