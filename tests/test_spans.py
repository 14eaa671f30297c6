"""The server span of our own provider: touched, untouched, and kept though the sampler wanted none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
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
from fastobs._parts import BLOCKING, Held, hold
from fastobs._process import process
from fastobs._spans import ServerSpan
from fastobs.cells import Meters
from fastobs.signals import traces
from tests.driving import call, text_of

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
    assert [exchange.span._real is None for exchange in told] == [True, False]
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


@pytest.fixture
def unsampled(
    memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> InMemorySpanExporter:
    """The same, of a service that records no trace."""
    monkeypatch.setenv("FASTOBS_TRACES_SAMPLE", "0")
    return memory


def fail() -> None:
    msg = "no such shelf"
    raise KeyError(msg)


class Grip:
    """Held the loop for a quarter of a second."""

    began = 0.0

    def ended(self) -> float:
        return 0.25

    def computed(self) -> float:
        return 0.0


@pytest.mark.anyio
async def test_a_request_that_failed_has_its_span_though_the_sampler_wanted_none(
    observed: Observed, unsampled: InMemorySpanExporter
) -> None:
    """With the ids that the response told, the exception, and why it is there."""
    app = app_that(fail)
    observed(app)

    answer = await call(app, "/items/7")

    (span,) = exported(unsampled)
    assert f"{span.context.trace_id:032x}" == answer.headers["x-trace-id"]
    assert (span.name, span.parent, span.kind) == ("GET /items/{i}", None, trace.SpanKind.SERVER)
    assert span.context.trace_flags.sampled
    assert span.status.status_code is StatusCode.ERROR
    attributes = dict(span.attributes or {})
    assert attributes["fastobs.kept"] == "error"
    assert attributes["error.type"] == "KeyError"
    assert attributes["http.response.status_code"] == 500
    (event,) = span.events
    told = dict(event.attributes or {})
    assert (event.name, told["exception.type"]) == ("exception", "KeyError")
    assert "no such shelf" in str(told["exception.message"])
    assert "in fail" in str(told["exception.stacktrace"])
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time < event.timestamp <= span.end_time


@pytest.mark.anyio
async def test_it_is_in_the_callers_trace_below_the_callers_span(
    observed: Observed, unsampled: InMemorySpanExporter
) -> None:
    """Who has decided not to sample the rest of it."""
    app = app_that(fail)
    observed(app)

    await call(app, "/items/7", headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"})

    (span,) = exported(unsampled)
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (
        int("ab" * 16, 16),
        int("cd" * 8, 16),
    )
    assert span.context.span_id != span.parent.span_id


@pytest.mark.anyio
async def test_a_slow_request_has_its_span_and_its_line_and_exemplar_lead_to_it(
    observed: Observed, unsampled: InMemorySpanExporter, meters: Meters
) -> None:
    """Otherwise the slowest requests of a service that samples little are those without a trace."""
    app = app_that(lambda: None)
    # A machine that stands still for a moment would have a line, too.
    undisturbed = {"loop_block_after": None}
    observed(app, slow={"after": 100.0, "routes": {"/items/{i}": 1e-9}}, runtime=undisturbed)
    lines: list[Any] = []
    process().lines = SimpleNamespace(put=lines.append)  # type: ignore[assignment]

    answer = await call(app, "/items/7")
    await call(app, "/nowhere")

    (span,) = exported(unsampled)
    assert (span.attributes or {})["fastobs.kept"] == "slow"
    assert span.status.status_code is StatusCode.UNSET
    assert f'trace_id="{answer.headers["x-trace-id"]}"' in text_of(meters, openmetrics=True)
    ((_, line),) = lines
    assert line["trace_sampled"] is True


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("/items/7", {"slow": {"after": 100.0}}),
        ("/nowhere", {}),
        ("/fail", {"traces": {"keep_errors": False, "keep_slow": False}}),
        ("/fail", {"traces": {"keep_errors": False}, "slow": {"after": 100.0}}),
        ("/items/7", {"traces": {"keep_slow": False}, "slow": {"after": 1e-9}}),
        ("/items/7", {"slow": None}),
    ],
    ids=["fast", "404", "both off", "errors off", "slow off", "no threshold"],
)
async def test_nothing_else_has_one(
    path: str,
    sections: dict[str, Any],
    observed: Observed,
    unsampled: InMemorySpanExporter,
) -> None:
    """What the sampler decided stands."""
    app = app_that(lambda: None)
    app.get("/fail")(fail)
    observed(app, **sections)

    await call(app, path)

    assert exported(unsampled) == []


@pytest.mark.anyio
async def test_what_is_sampled_is_sent_once_and_has_no_reason(
    observed: Observed, memory: InMemorySpanExporter
) -> None:
    """It would be there anyway."""
    app = app_that(fail)
    observed(app)

    await call(app, "/items/7")

    (span,) = exported(memory)
    assert "fastobs.kept" not in (span.attributes or {})


@pytest.mark.anyio
async def test_when_everything_fails_enough_is_enough(
    observed: Observed, unsampled: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that is the bottleneck already gets no more than that from each worker."""
    monkeypatch.setattr(traces, "KEPT_PER_MINUTE", 2)
    app = app_that(fail)
    observed(app)

    for _ in range(5):
        await call(app, "/items/7")

    assert len(exported(unsampled)) == 2


@pytest.mark.anyio
async def test_a_processor_of_the_apps_is_not_passed_by(
    observed: Observed, unsampled: InMemorySpanExporter
) -> None:
    """It may be there to take secrets out of spans, from their beginning."""
    app = app_that(fail)
    observed(app)
    await call(app, "/items/7")
    provider().add_span_processor(SpanProcessor())

    await call(app, "/items/7")

    assert len(exported(unsampled)) == 1


@pytest.mark.anyio
async def test_the_standard_sampler_decides_about_the_rest_only(
    observed: Observed, unsampled: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_TRACES_SAMPLER."""
    monkeypatch.delenv("FASTOBS_TRACES_SAMPLE")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    app = app_that(fail)
    app.get("/fine")(lambda: None)
    observed(app)

    await call(app, "/fine")
    await call(app, "/items/7")

    (span,) = exported(unsampled)
    assert (span.attributes or {})["fastobs.kept"] == "error"


@pytest.mark.anyio
async def test_whoever_else_makes_the_span_decides_what_becomes_of_it(
    observed: Observed, unsampled: InMemorySpanExporter
) -> None:
    """A second one would be a lie."""
    app = app_that(fail)
    observed(app, traces={"server_spans": "contrib"})

    await call(app, "/items/7")

    assert exported(unsampled) == []


@pytest.mark.anyio
async def test_what_held_the_loop_meanwhile_is_an_event_of_it(
    observed: Observed, unsampled: InMemorySpanExporter
) -> None:
    """As of any other span."""

    def do() -> None:
        exchange = current()
        assert exchange is not None
        hold(exchange, Held(BLOCKING, Grip(), at=7, event="event_loop_blocked", attributes={}))
        fail()

    app = app_that(do)
    observed(app)

    await call(app, "/items/7")

    (span,) = exported(unsampled)
    assert [event.name for event in span.events] == ["exception", "event_loop_blocked"]
