"""Who the service is."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from fastobs._service import Identity, identify
from fastobs.config import Service


@pytest.fixture(autouse=True)
def _no_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)


def test_settings_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then OpenTelemetry's environment."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "otel")
    service = Service(name="ours", version="2", environment="test")

    assert identify(service, FastAPI(title="app")) == Identity("ours", "2", "test")


def test_opentelemetrys_environment_comes_before_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percent-encoded, as the specification has it; nonsense is passed over."""
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=a%20shop, service.version=3,deployment.environment.name=prod,=x,,noise",
    )

    assert identify(Service(), FastAPI(title="app")) == Identity("a shop", "3", "prod")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    assert identify(Service(), FastAPI(title="app")).name == "named"


def test_else_the_app_says_who_it_is() -> None:
    """Starlette has no title."""
    assert identify(Service(), FastAPI(title="Shop", version="1.2")) == Identity("Shop", "1.2", "")
    assert identify(Service(), Starlette()) == Identity("unknown_service", "", "")
