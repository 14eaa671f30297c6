"""The text formats, refereed by prometheus_client's parsers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Exemplar
from tests.driving import text_of


def samples(meters: Meters, *, openmetrics: bool = False) -> dict[tuple[object, ...], Sample]:
    text = text_of(meters, openmetrics=openmetrics)
    families = parse_openmetrics(text + "# EOF\n") if openmetrics else parse_text(text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
def test_both_formats_say_what_the_cells_say(openmetrics: bool) -> None:
    """Counters, gauges and cumulative buckets."""
    meters = Meters()
    meters.counter(catalogue.HTTP_SLOW, "/a").add(2)
    meters.gauge(catalogue.HTTP_ACTIVE, "GET").set(3)
    histogram = meters.histogram(catalogue.HTTP_REQUEST_SIZE, "GET", "/a", "200")
    for size in (1, 5000, 1e12):
        histogram.observe(size)

    found = samples(meters, openmetrics=openmetrics)

    assert found["fastobs_slow_requests_total", ("http_route", "/a")].value == 2
    assert found["http_server_active_requests", ("http_request_method", "GET")].value == 3
    labels = [
        ("http_request_method", "GET"),
        ("http_response_status_code", "200"),
        ("http_route", "/a"),
    ]
    name = catalogue.HTTP_REQUEST_SIZE.name
    assert found[f"{name}_bucket", *labels, ("le", "100.0")].value == 1
    assert found[f"{name}_bucket", *labels, ("le", "10000.0")].value == 2
    assert found[f"{name}_bucket", *labels, ("le", "+Inf")].value == 3
    assert found[f"{name}_count", *labels].value == 3
    assert found[f"{name}_sum", *labels].value == 1e12 + 5001


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
@given(label=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_label_value_survives(openmetrics: bool, label: str) -> None:
    """Quotes, backslashes, line feeds, per cent signs."""
    meters = Meters()
    meters.counter(catalogue.HTTP_SLOW, label).add()

    assert ("fastobs_slow_requests_total", ("http_route", label)) in samples(
        meters, openmetrics=openmetrics
    )


def test_each_family_has_its_head_once() -> None:
    """Prometheus refuses a second TYPE."""
    meters = Meters()
    for route in "abc":
        meters.counter(catalogue.HTTP_SLOW, route).add()

    text = text_of(meters)

    assert text.count("# TYPE fastobs_slow_requests_total counter\n") == 1
    assert text.count("# HELP fastobs_slow_requests_total ") == 1


def test_metrics_of_a_worker_say_which() -> None:
    """And the others are of the whole service."""
    meters = Meters()
    meters.gauge(catalogue.TASKS).set(5)
    meters.counter(catalogue.HTTP_SLOW, "/").add()

    text = text_of(meters)

    assert 'fastobs_asyncio_tasks{worker="0"} 5.0' in text
    assert 'fastobs_slow_requests_total{http_route="/"} 1.0' in text


def test_a_gauge_that_is_not_there_is_not_shown() -> None:
    """Nor is a head without lines."""
    meters = Meters()
    meters.gauge(catalogue.TASKS).set(3)
    meters.gauge(catalogue.TASKS).hide()

    assert "fastobs_asyncio_tasks" not in text_of(meters)


def test_exemplars_lead_from_a_bucket_to_a_trace_in_openmetrics_only() -> None:
    """The text format has no place for them."""
    meters = Meters()
    histogram = meters.histogram(catalogue.HTTP_DURATION, "GET", "/", "200", "")
    histogram.observe(0.02)
    histogram.remember(0.02, int("ab" * 16, 16), int("cd" * 8, 16))

    (bucket,) = [sample for sample in samples(meters, openmetrics=True).values() if sample.exemplar]

    assert bucket.labels["le"] == "0.025"
    assert bucket.exemplar is not None
    assert bucket.exemplar.labels == {"trace_id": "ab" * 16, "span_id": "cd" * 8}
    assert bucket.exemplar.value == 0.02
    assert "trace_id" not in text_of(meters)


def test_the_cached_template_keeps_up_with_the_numbers() -> None:
    """Only the labels are cached."""
    meters = Meters()
    counter = meters.counter(catalogue.HTTP_SLOW, "/")
    text_of(meters)

    counter.add(41)
    counter.add()

    assert 'fastobs_slow_requests_total{http_route="/"} 42.0' in text_of(meters)


def test_an_exemplar_that_is_half_written_is_not_shown() -> None:
    """Another process may be writing it; a wrong trace id would lead nowhere."""
    cells = Exemplar.cells(2**128 - 1, 2**64 - 1, 0.5, 1.0)
    assert Exemplar.read(cells) == Exemplar("f" * 32, "f" * 16, 0.5, 1.0)

    cells[2] = 7

    assert Exemplar.read(cells) is None
    assert Exemplar.read([0.0] * len(cells)) is None
    assert Exemplar.read([inf] * len(cells)) is None
    assert Exemplar.read([]) is None


def test_what_is_wrong_with_one_metric_does_not_hide_the_others(contained_errors: None) -> None:
    """A scrape answers with what is sound."""
    meters = Meters()
    meters.counter(catalogue.HTTP_SLOW, "/").add()
    gauge = meters.gauge(catalogue.TASKS)
    gauge.set(1)
    gauge.template = {"0": 3}

    text = text_of(meters)

    assert 'fastobs_slow_requests_total{http_route="/"} 1.0' in text
    assert "fastobs_asyncio_tasks" not in text
