"""Who the service is: from settings, from OpenTelemetry's environment, from the app."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote

from starlette.applications import Starlette

from .config import Service

__all__ = ["Identity", "identify"]


class Identity(NamedTuple):
    """Name, version and environment; empty where nobody said."""

    name: str
    version: str
    environment: str


def identify(service: Service, app: Starlette) -> Identity:
    """The first of: our settings, ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, the app."""
    otel = _resource_attributes()
    return Identity(
        name=service.name
        or os.environ.get("OTEL_SERVICE_NAME")
        or otel.get("service.name")
        or getattr(app, "title", "")
        or "unknown_service",
        version=service.version or otel.get("service.version") or getattr(app, "version", "") or "",
        environment=service.environment or otel.get("deployment.environment.name") or "",
    )


def _resource_attributes() -> dict[str, str]:
    """``key=value,key=value``, percent-encoded, as the OpenTelemetry specification has it."""
    pairs = (
        part.partition("=") for part in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    )
    return {key.strip(): unquote(value.strip()) for key, _, value in pairs if key.strip()}
