"""Every error that fastobs raises on purpose.

FastobsError
└── ConfigError        a setting, a path or a call that cannot work; raised at start-up
    └── MissingExtra   the setting needs a library that is not installed
"""

from __future__ import annotations

__all__ = ["ConfigError", "FastobsError", "MissingExtra"]


class FastobsError(Exception):
    """The base of every error that fastobs raises on purpose."""


class ConfigError(FastobsError, ValueError):
    """A setting or a call that cannot work: what is wrong, why, and what to write instead."""


class MissingExtra(ImportError, ConfigError):  # noqa: N818 - it says what happened
    """A setting asks for a library that is not installed."""
