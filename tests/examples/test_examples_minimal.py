"""Five lines are enough."""

from __future__ import annotations

from starlette.testclient import TestClient

from examples.minimal import app
from fastobs.catalogue import HTTP_DURATION


def test_the_minimal_app_shows_its_route_in_metrics():
    """One request, and the route is there under its template."""
    with TestClient(app) as client:
        client.get("/items/3")
        metrics = client.get("/metrics").text

    (line,) = (
        line
        for line in metrics.splitlines()
        if line.startswith(f"{HTTP_DURATION.name}_count") and '"/items/{item_id}"' in line
    )
    assert float(line.rpartition(" ")[2]) == 1
