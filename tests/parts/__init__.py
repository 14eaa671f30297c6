"""The real programs that fastobs is proved against, each started for a test and surely stopped.

Every part is a context manager: it listens on a free port of the loopback interface, keeps its
files in a temporary folder, is ready when it is handed over, and brings its log along when it
fails. `fixtures` makes pytest fixtures of the ones that many tests share.
"""

from __future__ import annotations

from .browser import dom, screenshot
from .monitoring import (
    Alertmanager,
    Prometheus,
    Sample,
    alertmanager,
    amtool,
    prometheus,
    promtool,
    victoria_metrics,
    vmalert,
)
from .process import PartFailed, Running
from .programs import MissingPart, find
from .stores import PostgreSQL, Redis, postgresql, redis
from .waiting import PATIENCE, Answer, eventually, free_port, get
from .web import Server, serve

__all__ = [
    "PATIENCE",
    "Alertmanager",
    "Answer",
    "MissingPart",
    "PartFailed",
    "PostgreSQL",
    "Prometheus",
    "Redis",
    "Running",
    "Sample",
    "Server",
    "alertmanager",
    "amtool",
    "dom",
    "eventually",
    "find",
    "free_port",
    "get",
    "postgresql",
    "prometheus",
    "promtool",
    "redis",
    "screenshot",
    "serve",
    "victoria_metrics",
    "vmalert",
]
