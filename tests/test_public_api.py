"""What users may rely on."""

from __future__ import annotations

import subprocess
import sys

import fastobs

CORE = {
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
    "opentelemetry",
}
OPTIONAL = {
    "aiohttp",
    "asyncpg",
    "cachetools",
    "grafanalib",
    "httpx",
    "httpx2",
    "limits",
    "opentelemetry.instrumentation",
    "psycopg",
    "pyinstrument",
    "redis",
    "slowapi",
    "sqlalchemy",
    "structlog",
    "typer",
}


def test_the_public_names_are_few_sorted_and_there() -> None:
    """At most 15, so that the whole can be learnt."""
    names = [name for name in fastobs.__all__ if name != "__version__"]

    assert names == sorted(names)
    assert len(names) <= 15
    assert all(hasattr(fastobs, name) for name in names)


def test_importing_fastobs_imports_no_optional_library() -> None:
    """An app pays only for what it has, and a missing library is no error."""
    code = f"import sys, fastobs; print(*sorted(set(sys.modules) & {OPTIONAL!r}))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
