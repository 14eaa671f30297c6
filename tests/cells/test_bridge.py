"""prometheus_client at both ends."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.bridge import CellsCollector, foreign, write
from tests.driving import text_of


@pytest.fixture
def registry(meters: Meters) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(CellsCollector(meters))
    return registry


def test_an_endpoint_of_the_apps_own_shows_our_cells(
    meters: Meters, registry: CollectorRegistry
) -> None:
    """The same numbers as on ours, for whoever serves prometheus_client's registry."""
    meters.counter(catalogue.HTTP_SLOW, "/a").add(2)
    meters.gauge(catalogue.TASKS).set(4)
    meters.histogram(catalogue.POOL_WAIT, "p").observe(0.02)

    theirs = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_text(generate_latest(registry).decode())
        for sample in family.samples
    }

    ours = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_text(text_of(meters))
        for sample in family.samples
    }
    assert theirs == ours


def test_process_metrics_are_left_to_prometheus_client(
    meters: Meters, registry: CollectorRegistry
) -> None:
    """Its registry has them already."""
    meters.gauge(catalogue.PROCESS_RSS).set(1)

    assert b"process_" not in generate_latest(registry)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
def test_the_users_own_metrics_are_appended_once_and_ours_are_not_repeated(
    openmetrics: bool, meters: Meters, registry: CollectorRegistry
) -> None:
    """In the format that was asked for."""
    Counter("orders", "Orders.", ["kind"], registry=registry).labels("new").inc(3)
    Histogram("basket_size", "Items.", registry=registry).observe(2)
    meters.counter(catalogue.HTTP_SLOW, "/").add()

    text = write(foreign(registry), openmetrics=openmetrics)

    parse = parse_openmetrics if openmetrics else parse_text
    families = {family.name for family in parse(text + "# EOF\n" * openmetrics)}
    assert families >= {"orders", "basket_size"}
    assert not {name for name in families if name.startswith(("fastobs", "http_server"))}
