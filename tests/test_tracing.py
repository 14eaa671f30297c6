"""Where spans go when only the environment says so."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from fastobs import _tracing, catalogue
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs._service import Identity
from fastobs._spans import MAKING
from fastobs.cells import Meters
from fastobs.config import Traces
from fastobs.signals.traces import Head
from tests.driving import scope, values
from tests.parts import PATIENCE, free_port

pytestmark = pytest.mark.usefixtures("no_provider")
WHO = Identity("shop", "1", "test")

SCRIPT = """
import asyncio, json, sys
from fastapi import FastAPI
from fastobs import instrument
from opentelemetry import trace
from tests.driving import call

app = FastAPI()
instrument(app, service={"name": "shop"}, traces={"shutdown_after": 60, **json.loads(sys.argv[1])})
app.get("/items/{i}")(lambda i: i)

async def main():
    return [(await call(app, "/items/7")).headers["x-trace-id"] for _ in range(int(sys.argv[2]))]

ids = asyncio.run(main())
print("RESULT", json.dumps({"ids": ids, "provider": type(trace.get_tracer_provider()).__name__}))
"""


def run(
    count: int = 1, traces: dict[str, Any] | None = None, **environment: str
) -> tuple[Any, Any]:
    """The app in a process of its own: what it printed, and what its log said."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(traces or {}), str(count)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    lines = done.stdout.splitlines()
    # What is left is exported when the process ends, so behind the result.
    (result,) = [line for line in lines if line.startswith("RESULT ")]
    lines.remove(result)
    return json.loads(result.removeprefix("RESULT ")), lines + done.stderr.splitlines()


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def test_without_an_exporter_in_the_environment_nothing_is_set_up() -> None:
    """No provider, no thread, no noise about a collector that is not there."""
    result, log = run()

    assert result["provider"] == "ProxyTracerProvider"
    assert log == []


def test_an_exporter_in_the_environment_is_enough() -> None:
    """Spans carry the id that the answer announced, and say which service they are of."""
    result, log = run(OTEL_TRACES_EXPORTER="console")

    assert result["provider"] == "_Provider"
    text = "\n".join(log)
    assert '"name": "GET /items/{i}"' in text
    assert f'"trace_id": "0x{result["ids"][0]}"' in text
    assert '"service.name": "shop"' in text


def test_each_process_says_which_instance_of_the_service_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name of its own, unless the environment gives one; older SDKs bring none."""
    theirs = _tracing._resource(WHO).attributes["service.instance.id"]
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=blue")
    assert _tracing._resource(WHO).attributes["service.instance.id"] == "blue"

    monkeypatch.setattr(Resource, "create", Resource)
    first, second = (_tracing._resource(WHO).attributes for _ in range(2))

    assert theirs
    assert first["service.instance.id"] != second["service.instance.id"]
    assert first["service.name"] == "shop"


@pytest.mark.parametrize(("sample", "kept"), [(0.0, 0), (1.0, 20)])
def test_the_share_of_traces_to_record_is_a_setting(sample: float, kept: int) -> None:
    """Decided on the trace id that the exchange has already."""
    _, log = run(20, {"sample": sample}, OTEL_TRACES_EXPORTER="console")

    assert "\n".join(log).count('"name": "GET /items/{i}"') == kept


def test_else_the_standard_variable_decides() -> None:
    """OTEL_TRACES_SAMPLER."""
    _, log = run(5, OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="always_off")

    assert log == []


def test_a_dead_collector_does_not_hold_up_the_end_of_the_process() -> None:
    """The SDK alone would try for as long as the exporter may; more than two lines would be noise."""
    _, log = run(
        3,
        {"shutdown_after": 0.2},
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT="600",
    )

    assert len(log) <= 2


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
    ids=["none", "disabled"],
)
def test_what_the_environment_switches_off_is_off(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of the specification."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert _tracing._exporters() == []


def test_an_exporter_that_is_not_installed_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The environment asked for it, not the code: the app starts."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    with caplog.at_level(logging.WARNING):
        assert _tracing._exporters() == []

    assert "'otlp_proto_grpc', which is not installed" in caplog.text
    # The extra would bring the other protocol.
    assert "pip install opentelemetry-exporter-otlp-proto-grpc, or set" in caplog.text


def test_a_provider_that_exists_is_never_replaced(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's own set-up has come first."""
    theirs = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", theirs)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")

    _tracing.provide(Traces(), WHO, meters, Head())

    assert trace.get_tracer_provider() is theirs


class Backend(SpanExporter):
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.result = SpanExportResult.SUCCESS
        self.sent = 0
        self.closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sent += len(spans)
        return self.result

    def shutdown(self) -> None:
        self.closed = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def test_what_becomes_of_batches_is_counted(meters: Meters) -> None:
    """Lost spans are not silently missing."""
    backend = Backend()
    counted = _tracing._Counted(backend, meters)
    spans: Any = [None, None]

    counted.export(spans)
    backend.result = SpanExportResult.FAILURE
    counted.export(spans)
    counted.shutdown()

    assert values(meters, catalogue.SELF_EXPORTS) == {
        ("traces", "success"): 1.0,
        ("traces", "failure"): 1.0,
    }
    assert values(meters, catalogue.SELF_DROPPED) == {("traces", "export_failed"): 2.0}
    assert (counted.force_flush(), backend.closed) == (True, True)


class Stuck(Backend):
    """Takes the first batch and does not come back with it until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.gate.wait(PATIENCE)
        return self.result


def test_spans_that_wait_are_told_and_those_without_room_are_counted(meters: Meters) -> None:
    """A queue that is full drops spans, which the SDK says in its own metrics only."""
    backend = Stuck()
    processor = BatchSpanProcessor(backend, max_queue_size=4, max_export_batch_size=4)
    meters.ask(_tracing._Waiting([processor], meters))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")

    def end(spans: int) -> None:
        for _ in range(spans):
            tracer.start_span("one").end()

    end(4)
    assert backend.entered.wait(PATIENCE)
    end(7)
    meters.refresh()
    waiting, lost = values(meters, catalogue.SELF_QUEUE), values(meters, catalogue.SELF_DROPPED)
    backend.gate.set()
    provider.shutdown()

    assert waiting == {("traces",): 4.0}
    assert lost == {("traces", "queue_full"): 3.0}


def batched(backend: SpanExporter) -> TracerProvider:
    """A provider whose spans wait for a batch that never fills up."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(backend, schedule_delay_millis=3_600_000))
    provider.get_tracer("test").start_span("one").end()
    return provider


def test_what_may_be_the_end_sends_what_waits_and_lets_the_next_span_follow() -> None:
    """The app's lifespan may begin anew in the same process."""
    backend = Backend()
    provider = batched(backend)
    end = _tracing._End(provider, 20)

    end.flush()
    assert (backend.sent, backend.closed) == (1, False)
    provider.get_tracer("test").start_span("two").end()
    end.flush()
    assert (backend.sent, backend.closed) == (2, False)
    end.shut_down()
    assert (backend.sent, backend.closed) == (2, True)


def test_nobody_waits_a_second_time_for_a_collector_that_does_not_answer() -> None:
    """Neither at the lifespan's end nor at the process's, once one of them has waited."""
    backend = Stuck()
    end = _tracing._End(batched(backend), 0.05)

    end.flush()

    assert end._patience == 0
    assert backend.entered.wait(20)
    end.shut_down()
    assert not backend.closed
    backend.gate.set()


def test_a_release_that_keeps_spans_elsewhere_has_no_queue_to_tell_of(meters: Meters) -> None:
    """Unknown, and not a zero that looks like an empty queue."""
    elsewhere: Any = object()
    meters.ask(_tracing._Waiting([elsewhere], meters))

    meters.refresh()

    assert values(meters, catalogue.SELF_QUEUE) == {}


def test_ids_come_from_the_exchange_whose_span_is_being_made() -> None:
    """What else is started gets random ones."""
    ids = _tracing._ExchangeIds()
    exchange = Exchange(scope(), Routes(None), 0.0)  # type: ignore[arg-type]
    assert ids.generate_trace_id() != exchange.trace_number

    token = MAKING.set(exchange)
    try:
        assert ids.generate_trace_id() == exchange.trace_number
        assert ids.generate_span_id() == exchange.span_number
    finally:
        MAKING.reset(token)
    assert ids.generate_span_id() != exchange.span_number


def test_fastapi_is_spared_asking_for_providers_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But an app that has them keeps its own metrics and logs."""
    app, starlette = FastAPI(), object()
    _tracing.spare_probe(app)
    _tracing.spare_probe(starlette)  # type: ignore[arg-type]
    assert (app._telemetry["metrics"], app._telemetry["logs"]) == (False, False)

    provider: Any = metrics.NoOpMeterProvider()
    own = FastAPI(telemetry={"meter_provider": provider})
    _tracing.spare_probe(own)
    assert (own._telemetry["metrics"], own._telemetry["logs"]) == (True, False)
