"""The server span: one, with the same route and status as the metric."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import pytest
import redis
from fastapi import FastAPI, HTTPException
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util._once import Once
from starlette.applications import Starlette
from starlette.routing import Route

from fastobs import ConfigError, _tracing, current, instrument, section
from fastobs._parts import BLOCKING, Held, Parts, hold
from fastobs.cells import Meters
from fastobs.signals.traces import HELD
from tests.driving import Answer, call, text_of

Observed = Callable[..., Any]

TRACE = "ab" * 16
CALLER = f"00-{TRACE}-{'cd' * 8}-01"
CALLER_UNSAMPLED = f"00-{TRACE}-{'cd' * 8}-00"


@pytest.fixture(autouse=True)
def _no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry lets a process set its provider once; each test begins without."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


class Exported:
    """Everything that was exported."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        trace.set_tracer_provider(provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._memory.get_finished_spans())

    @property
    def server(self) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.kind is SpanKind.SERVER]
        return span


class ExportedByUs(Exported):
    """The same when the environment names an exporter and we set up the provider."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._memory = InMemorySpanExporter()
        monkeypatch.setattr(_tracing, "_exporters", lambda: [self._memory])
        monkeypatch.setenv("FASTOBS_TRACES_SAMPLE", "1.0")

    @property
    def spans(self) -> list[ReadableSpan]:
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.force_flush()
        return super().spans


@pytest.fixture(params=["theirs", "ours"])
def exported(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    if request.param == "theirs":
        yield Exported()
        return
    yield ExportedByUs(monkeypatch)
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        provider.shutdown()


def shop() -> FastAPI:
    app, sub = FastAPI(), FastAPI()
    sub.get("/s/{z}")(lambda z: z)
    app.mount("/sub", sub)

    @app.get("/items/{i}")
    async def item(i: str) -> None:
        with trace.get_tracer("user").start_as_current_span("child"):
            pass
        if i == "busy":
            raise HTTPException(503)
        if i == "broken":
            raise KeyError(i)

    return app


@pytest.mark.anyio
async def test_a_span_has_the_route_and_the_status_of_its_metric(
    observed: Observed, exported: Exported
) -> None:
    """By the names of the semantic conventions."""
    app = shop()
    observed(app)

    answer = await call(app, "/items/7", headers={"user-agent": "curl"})

    span = exported.server
    assert span.name == "GET /items/{i}"
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/items/{i}",
        "http.response.status_code": 200,
        "http.response.body.size": 4,
        "url.path": "/items/7",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.7",
        "server.address": "127.0.0.1",
        "user_agent.original": "curl",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert answer.headers["x-trace-id"] == f"{span.context.trace_id:032x}"


@pytest.mark.anyio
async def test_spans_inside_are_its_children(observed: Observed, exported: Exported) -> None:
    """The context is set for what the request does, and given back after it."""
    app = shop()
    observed(app)

    await call(app, "/items/7")

    (child,) = [span for span in exported.spans if span.name == "child"]
    assert child.parent is not None
    assert child.parent.span_id == exported.server.context.span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("item", "error", "events"), [("busy", "503", 0), ("broken", "KeyError", 1)]
)
async def test_a_5xx_is_an_error_with_its_type(
    item: str, error: str, events: int, observed: Observed, exported: Exported
) -> None:
    """An exception is recorded as an event; the answer carries the trace id all the same."""
    app = shop()
    observed(app)

    answer = await call(app, f"/items/{item}")

    span = exported.server
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == error
    assert len(span.events) == events
    assert answer.headers["x-trace-id"] == f"{span.context.trace_id:032x}"


@pytest.mark.anyio
async def test_an_unmatched_request_is_named_by_its_method(
    observed: Observed, exported: Exported
) -> None:
    """Never by its raw path; an unknown method is kept as an attribute."""
    app = shop()
    observed(app)

    await call(app, "/wp-admin", "BREW")

    span = exported.server
    assert span.name == "_OTHER"
    assert "http.route" not in (span.attributes or {})
    assert (span.attributes or {})["http.request.method_original"] == "BREW"


@pytest.mark.anyio
async def test_the_callers_trace_goes_on(observed: Observed, exported: Exported) -> None:
    """traceparent in, the same trace id out."""
    app = shop()
    observed(app)

    answer = await call(app, "/items/7", headers={"traceparent": CALLER, "tracestate": "a=b"})

    span = exported.server
    assert answer.headers["x-trace-id"] == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "cd" * 8
    assert span.context.trace_state.get("a") == "b"


@pytest.mark.anyio
async def test_a_caller_that_does_not_sample_silences_the_children_too(
    observed: Observed, exported: Exported
) -> None:
    """The decision is made once per trace."""
    app = shop()
    observed(app)

    answer = await call(app, "/items/7", headers={"traceparent": CALLER_UNSAMPLED})

    assert exported.spans == []
    assert answer.headers["x-trace-id"] == TRACE


@pytest.mark.anyio
async def test_a_nonsensical_traceparent_is_a_new_trace(
    observed: Observed, exported: Exported
) -> None:
    """Callers send anything."""
    app = shop()
    observed(app)

    answer = await call(app, "/items/7", headers={"traceparent": "00-xyz"})

    assert exported.server.parent is None
    assert len(answer.headers["x-trace-id"]) == 32


@pytest.mark.anyio
async def test_a_request_does_not_inherit_the_context_it_is_started_in(
    observed: Observed, exported: Exported
) -> None:
    """Servers start requests in the context of an earlier one on the same connection."""
    app = shop()
    observed(app)

    with trace.get_tracer("user").start_as_current_span("earlier"):
        await call(app, "/items/7")

    assert exported.server.parent is None


@pytest.mark.anyio
@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(ALWAYS_OFF)], ids=["off", "parent"])
async def test_what_is_not_sampled_still_has_a_trace_id(
    sampler: Sampler, observed: Observed
) -> None:
    """In the answer, in log lines, and for code that asks for the current span."""
    exported = Exported(sampler)
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> list[str]:
        exchange = current()
        assert exchange is not None
        return [f"{trace.get_current_span().get_span_context().trace_id:032x}", exchange.trace_id]

    observed(app)

    answer = await call(app, "/")

    trace_id = answer.headers["x-trace-id"]
    assert answer.body.decode() == f'["{trace_id}","{trace_id}"]'
    assert exported.spans == []


@pytest.mark.anyio
async def test_without_a_provider_ids_are_ours_and_follow_the_caller(observed: Observed) -> None:
    """So that answers and log lines can be found by it even where nothing is traced."""
    app = shop()
    observed(app)

    fresh = await call(app, "/items/7")
    called = await call(app, "/items/7", headers={"traceparent": CALLER})

    assert len(fresh.headers["x-trace-id"]) == 32
    assert called.headers["x-trace-id"] == TRACE


@pytest.mark.anyio
async def test_a_provider_that_is_set_up_late_is_used(observed: Observed) -> None:
    """Some apps do so in their first request."""
    app = shop()
    observed(app)
    await call(app, "/items/7")
    exported = Exported()

    await call(app, "/items/7")

    assert exported.server.name == "GET /items/{i}"


@pytest.mark.anyio
async def test_a_sampled_exchange_leaves_an_exemplar(
    observed: Observed, exported: Exported, meters: Meters
) -> None:
    """From the histogram's bucket to the trace."""
    app = shop()
    observed(app)

    answer = await call(app, "/items/7")

    text = text_of(meters, openmetrics=True)
    assert re.findall(r'trace_id="(\w+)"', text) == [answer.headers["x-trace-id"]]


def native(app: FastAPI) -> None: ...


def contrib(app: FastAPI) -> None:
    FastAPIInstrumentor.instrument_app(app)


@pytest.fixture
def made() -> Iterator[list[FastAPI]]:
    """Apps that contrib has instrumented are given back."""
    apps: list[FastAPI] = []
    yield apps
    for app in apps:
        FastAPIInstrumentor.uninstrument_app(app)


@pytest.mark.anyio
# FastAPI's own telemetry wants to know of a provider before the first request, which sets up ours.
@pytest.mark.parametrize("exported", ["theirs"], indirect=True)
@pytest.mark.parametrize("path", ["/items/7", "/sub/s/1", "/nope"])
@pytest.mark.parametrize("contrib_is", ["absent", "before", "after"])
@pytest.mark.parametrize("mode", ["fastobs", "contrib", "native"])
async def test_there_is_exactly_one_server_span_in_every_combination(
    mode: str,
    contrib_is: str,
    path: str,
    observed: Observed,
    exported: Exported,
    made: list[FastAPI],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours, contrib's applied before or after us, FastAPI's own; with mounted apps, too."""
    app = shop()
    if contrib_is == "before":
        FastAPIInstrumentor.instrument_app(app)
        made.append(app)
    observed(app, traces={"server_spans": mode})
    if contrib_is == "after":
        with caplog.at_level(logging.CRITICAL):
            FastAPIInstrumentor.instrument_app(app)
        made.append(app)

    answer: Answer = await call(app, path, headers={"traceparent": CALLER})

    assert f"{exported.server.context.trace_id:032x}" == TRACE
    assert answer.headers["x-trace-id"] == TRACE
    route = {"/items/7": "/items/{i}", "/sub/s/1": "/sub/s/{z}", "/nope": None}[path]
    assert (exported.server.attributes or {}).get("http.route") == route


@pytest.mark.anyio
async def test_contribs_own_hook_is_still_called(
    observed: Observed, exported: Exported, made: list[FastAPI]
) -> None:
    """We only listen in."""
    app = shop()
    seen: list[str] = []
    FastAPIInstrumentor.instrument_app(
        app, server_request_hook=lambda span, scope: seen.append(scope["path"])
    )
    made.append(app)
    observed(app)

    await call(app, "/items/7")

    assert seen == ["/items/7"]


def test_native_spans_need_a_fastapi_that_makes_them() -> None:
    """Starlette does not."""
    app = Starlette(routes=[Route("/", lambda request: None)])

    with pytest.raises(ConfigError, match="needs a FastAPI application"):
        instrument(app, traces={"server_spans": "native"})


@pytest.mark.anyio
async def test_concurrent_requests_keep_their_contexts_apart(
    observed: Observed, exported: Exported
) -> None:
    """Each has its own trace."""
    app = shop()
    observed(app)

    answers = await asyncio.gather(*(call(app, "/items/7") for _ in range(20)))

    ids = {answer.headers["x-trace-id"] for answer in answers}
    children = {f"{s.context.trace_id:032x}" for s in exported.spans if s.name == "child"}
    assert len(ids) == 20
    assert children == ids


def working() -> FastAPI:
    """An app whose requests have parts."""
    app = FastAPI()

    async def draw(times: int) -> None:
        for _ in range(times):
            with section("draw"):
                await asyncio.sleep(0)

    @app.get("/pictures/{times}")
    async def picture(times: int) -> None:
        with section("load"):
            await asyncio.gather(draw(times), draw(times))

    @app.get("/left-open")
    async def left_open() -> None:
        section("forever").__enter__()

    return app


@pytest.mark.anyio
@pytest.mark.parametrize("breakdown", ["wall", "steps"])
async def test_each_part_is_a_span_inside_of_the_server_span(
    observed: Observed, exported: Exported, breakdown: str
) -> None:
    """Also those that go on at once; they lie beside each other, within the request."""
    app = working()
    observed(app, breakdown=breakdown)

    await call(app, "/pictures/2")

    server = exported.server
    inside = [span for span in exported.spans if span is not server and span.name != server.name]
    assert sorted(span.name for span in inside) == ["draw", "draw", "draw", "draw", "load"]
    for span in inside:
        assert span.parent is not None
        assert span.parent.span_id == server.context.span_id
        assert span.context.trace_id == server.context.trace_id
        assert dict(span.attributes or {}) == {"fastobs.part": span.name}
        assert span.kind is SpanKind.INTERNAL
        assert span.start_time is not None
        assert span.end_time is not None
        assert server.start_time is not None
        assert server.start_time <= span.start_time <= span.end_time
    assert len({span.context.span_id for span in inside}) == 5
    load = next(span for span in inside if span.name == "load")
    draws = [span for span in inside if span.name == "draw"]
    assert all(load.start_time <= one.start_time for one in draws)  # type: ignore[operator]
    assert all(one.end_time <= load.end_time for one in draws)  # type: ignore[operator]


@pytest.mark.anyio
async def test_of_a_request_with_very_many_parts_the_first_are_told(
    observed: Observed, exported: Exported
) -> None:
    """And how many are not."""
    app = working()
    observed(app)

    await call(app, "/pictures/60")

    assert len([span for span in exported.spans if span.name in {"draw", "load"}]) == 100
    assert (exported.server.attributes or {})["fastobs.parts.left_out"] == 21


@pytest.mark.anyio
async def test_a_part_that_goes_on_ends_with_the_request(
    observed: Observed, exported: Exported
) -> None:
    """What comes after is not its time."""
    app = working()
    observed(app)

    await call(app, "/left-open")

    (span,) = [span for span in exported.spans if span.name == "forever"]
    assert span.end_time is not None


@pytest.mark.anyio
async def test_spans_inside_can_be_switched_off(observed: Observed, exported: Exported) -> None:
    """traces.inside."""
    app = working()
    observed(app, traces={"inside": False})

    await call(app, "/pictures/2")

    assert exported.spans == [exported.server]


@pytest.mark.anyio
async def test_of_a_request_that_is_not_sampled_nothing_is_kept_for_spans(
    observed: Observed,
) -> None:
    """It would cost each of its parts something."""
    spans = Exported(ALWAYS_OFF)
    app = working()
    seen: list[Any] = []

    @app.get("/")
    async def look() -> None:
        with section("draw"):
            exchange = current()
            assert exchange is not None
            seen.append(exchange.parts)

    observed(app)
    await call(app, "/")

    assert [type(parts) for parts in seen] == [Parts]
    assert seen[0].intervals is None
    assert spans.spans == []


@pytest.mark.anyio
async def test_a_query_is_one_span_whoever_makes_it(
    observed: Observed, exported: Exported, redis_url: str
) -> None:
    """Ours, or that of OpenTelemetry's own instrumentation of the library."""
    app = FastAPI()
    client = redis.Redis.from_url(redis_url)

    @app.get("/")
    async def get() -> None:
        client.get("key")

    observed(app)
    client.ping()
    await call(app, "/")
    instrumentor = RedisInstrumentor()
    instrumentor.instrument()
    try:
        await call(app, "/")
    finally:
        instrumentor.uninstrument()
        client.close()

    ours, theirs = [span for span in exported.spans if span.kind is SpanKind.CLIENT]
    assert (ours.name, theirs.name) == ("cache", "GET")
    assert ours.attributes == {"fastobs.part": "cache"}


class Grip:
    """Held the loop for 0.25 s, half a second ago."""

    def __init__(self) -> None:
        self.began = perf_counter() - 0.5

    def ended(self) -> float:
        return self.began + 0.25

    def computed(self) -> float:
        return 0.0


@pytest.mark.anyio
@pytest.mark.parametrize("theirs", [False, True])
async def test_a_held_loop_is_an_event_of_the_span_with_its_duration(
    observed: Observed, exported: Exported, made: list[FastAPI], theirs: bool
) -> None:
    """Whoever makes the span; a request that nobody held up has none."""
    app = FastAPI()

    @app.get("/{held}")
    async def endpoint(held: bool) -> None:
        exchange = current()
        assert exchange is not None
        if held:
            exchange.started -= 1.0
            grip = Grip()
            said = {"code.function.name": "f", "http.route": "/other"}
            hold(exchange, Held(BLOCKING, grip, at=7, event="event_loop_blocked", attributes=said))
        with section("work"):
            pass

    if theirs:
        made.append(app)
        contrib(app)
    observed(app, traces={"server_spans": "contrib" if theirs else "fastobs"})
    await call(app, "/true")
    await call(app, "/false")

    first, second = [span for span in exported.spans if span.kind is SpanKind.SERVER]
    (event,) = first.events
    assert second.events == ()
    assert (event.name, event.timestamp) == ("event_loop_blocked", 7)
    attributes = dict(event.attributes or {})
    assert attributes.pop(HELD) == pytest.approx(0.25)
    assert attributes == {"code.function.name": "f", "http.route": "/other"}
