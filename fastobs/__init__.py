"""fastobs: observability and profiling for FastAPI, in one call."""

from __future__ import annotations

from ._correlation import TraceContextFilter, add_trace_context
from ._exchange import current
from ._instrument import Handle, instrument
from ._repeats import allow_repeats
from ._section import section
from ._version import __version__
from ._watch import cache, limiter, watch
from .config import Settings
from .errors import ConfigError, FastobsError

__all__ = [
    "ConfigError",
    "FastobsError",
    "Handle",
    "Settings",
    "TraceContextFilter",
    "__version__",
    "add_trace_context",
    "allow_repeats",
    "cache",
    "current",
    "instrument",
    "limiter",
    "section",
    "watch",
]
