"""The server span of our own provider, touched and untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags
from opentelemetry.util._once import Once

from fastobs import _tracing, current
from fastobs._spans import ServerSpan
from tests.driving import call

Observed = Callable[..., Any]
Touch = Callable[[trace.Span], object]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What our own provider exports, which it gets as if the environment had named it."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    memory = InMemorySpanExporter()
    monkeypatch.setattr(_tracing, "_exporters", lambda: [memory])
    monkeypatch.setenv("FASTOBS_TRACES_SAMPLE", "1.0")
    yield memory
    provider().shutdown()


def provider() -> TracerProvider:
    found = trace.get_tracer_provider()
    assert isinstance(found, TracerProvider)
    return found


def exported(memory: InMemorySpanExporter) -> list[ReadableSpan]:
    provider().force_flush()
    return list(memory.get_finished_spans())


def app_that(do: Callable[[], object]) -> FastAPI:
    app = FastAPI()

    @app.get("/items/{i}")
    async def item(i: str) -> None:
        do()

    return app


OTHER = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("touch", "shows"),
    [
        (lambda s: s.set_attribute("a", 1), lambda s: s.attributes["a"] == 1),
        (lambda s: s.set_attributes({"a": 1}), lambda s: s.attributes["a"] == 1),
        (lambda s: s.add_event("e", {"a": 1}), lambda s: s.events[0].attributes["a"] == 1),
        (lambda s: s.add_link(OTHER), lambda s: s.links[0].context == OTHER),
        (lambda s: s.record_exception(KeyError("k")), lambda s: s.events[0].name == "exception"),
        (lambda s: s.set_status(StatusCode.ERROR, "no"), lambda s: s.status.description == "no"),
        (lambda s: s.update_name("mine"), lambda s: s.name == "GET /items/{i}"),
        (lambda s: s.name, lambda s: s.name == "GET /items/{i}"),
    ],
    ids=["attribute", "attributes", "event", "link", "exception", "status", "name", "reading"],
)
async def test_what_the_app_writes_to_the_span_is_exported_with_it(
    touch: Touch,
    shows: Callable[[ReadableSpan], bool],
    observed: Observed,
    memory: InMemorySpanExporter,
) -> None:
    """It is the SDK's span from then on: same ids, same beginning, everything that we know."""
    app = app_that(lambda: touch(trace.get_current_span()))
    observed(app)

    answer = await call(app, "/items/7")

    (span,) = exported(memory)
    assert shows(span)
    assert f"{span.context.trace_id:032x}" == answer.headers["x-trace-id"]
    assert dict(span.attributes or {}).items() >= {
        ("http.route", "/items/{i}"),
        ("http.response.status_code", 200),
        ("url.path", "/items/7"),
    }


@pytest.mark.anyio
async def test_touched_and_untouched_spans_differ_in_nothing_but_that(
    observed: Observed, memory: InMemorySpanExporter
) -> None:
    """Who looks at a trace cannot tell which way it went."""
    told: list[Any] = []

    def do() -> None:
        told.append(current())
        if len(told) == 2:
            # Somebody who wants to read it needs the SDK's, too.
            assert trace.get_current_span().name == "GET"  # type: ignore[attr-defined]

    app = app_that(do)
    observed(app)
    await call(app, "/items/7", headers={"user-agent": "curl"})
    await call(app, "/items/7", headers={"user-agent": "curl"})

    one, other = exported(memory)
    assert [exchange.span.is_untouched for exchange in told] == [True, False]
    assert [f"{each.context.span_id:016x}" for each in (one, other)] == [e.span_id for e in told]
    for attribute in ("name", "attributes", "events", "links", "kind", "resource"):
        assert getattr(one, attribute) == getattr(other, attribute), attribute
    assert one.status.status_code is other.status.status_code
    assert one.context.trace_flags == other.context.trace_flags
    assert one.instrumentation_scope == other.instrumentation_scope
    assert one.start_time is not None
    assert one.end_time is not None
    assert one.start_time < one.end_time


@pytest.mark.anyio
async def test_a_span_of_the_past_takes_nothing_and_breaks_nothing(
    observed: Observed, memory: InMemorySpanExporter
) -> None:
    """Background tasks may hold on to it."""
    kept: list[trace.Span] = []
    app = app_that(lambda: kept.append(trace.get_current_span()))
    observed(app)
    await call(app, "/items/7")

    assert not kept[0].is_recording()
    kept[0].set_attribute("late", 1)
    kept[0].end()

    (span,) = exported(memory)
    assert "late" not in (span.attributes or {})


@pytest.mark.anyio
async def test_a_span_that_the_app_ends_is_ended(
    observed: Observed, memory: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is with the SDK's: exported once, and what comes later is lost."""

    def do() -> None:
        assert trace.get_current_span().is_recording()
        trace.get_current_span().end()
        assert not trace.get_current_span().is_recording()

    app = app_that(do)
    observed(app)
    await call(app, "/items/7")

    assert len(exported(memory)) == 1


@pytest.mark.anyio
async def test_a_processor_of_the_apps_sees_spans_from_their_beginning(
    observed: Observed, memory: InMemorySpanExporter
) -> None:
    """Every span is one of the SDK's as soon as anybody else is interested."""
    begun: list[str] = []

    class Listener(SpanProcessor):
        def on_start(self, span: SdkSpan, parent_context: Any = None) -> None:
            begun.append(span.name)

    kinds: list[bool] = []
    app = app_that(lambda: kinds.append(isinstance(trace.get_current_span(), ServerSpan)))
    observed(app)
    await call(app, "/items/7")
    provider().add_span_processor(Listener())
    await call(app, "/items/7")

    assert kinds == [True, False]
    assert begun == ["GET"]
    assert len(exported(memory)) == 2


@pytest.mark.anyio
async def test_where_values_have_a_limit_the_sdk_sees_to_it(
    observed: Observed, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    app = app_that(lambda: None)
    observed(app)

    await call(app, "/items/7", headers={"user-agent": "curl"})

    (span,) = exported(memory)
    assert (span.attributes or {})["user_agent.original"] == "cur"


@pytest.mark.anyio
@pytest.mark.parametrize("sampled", ["00", "01"])
async def test_baggage_goes_on_with_the_context(
    sampled: str, observed: Observed, memory: InMemorySpanExporter
) -> None:
    """What the caller sent along is there for who asks, whether there is a span or not."""
    seen: list[object] = []
    app = app_that(lambda: seen.append(baggage.get_baggage("shop")))
    observed(app)

    await call(
        app,
        "/items/7",
        headers={"baggage": "shop=3", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-{sampled}"},
    )
    await call(app, "/items/7", headers={"baggage": "shop=4"})

    assert seen == ["3", "4"]
