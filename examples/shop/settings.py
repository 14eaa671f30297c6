"""What can be configured, by ``SHOP_*`` in the environment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _embedded() -> str:
    folder = Path(tempfile.gettempdir()) / f"fastobs-shop-{os.getuid()}"
    return f"sqlite:///{folder}/shop.db"


class Settings(BaseSettings):
    """Everything has a default that needs nothing but this process."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", frozen=True)

    database_url: str = Field(default_factory=_embedded)
    """``sqlite:///path`` or ``postgresql://user:password@host/name``; the drivers are chosen here."""

    redis_url: str | None = None
    """``redis://host:6379/0`` for a cache that all workers share; else each has its own."""

    upstream_url: str | None = None
    """Where ``/upstream/...`` is; by default this very server plays the other service as well."""
