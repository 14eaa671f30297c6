"""What is measured: bare FastAPI, fastobs, its peers, and what a team assembles without it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import tempfile
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind
from opentelemetry.util._once import Once
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Receive, Scope, Send

from . import driver, shop

__all__ = ["VARIANTS", "Subject", "Variant", "groups"]

METRICS, SPANS, LINES = "metrics", "server spans", "log lines"
OFF: dict[str, Any] = dict.fromkeys(
    ("slow", "traces", "profiles", "pools", "caches", "limits", "runtime")
)


class Subject:
    """A variant that was built, with the OpenTelemetry globals that it would have for itself."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.seen: Tally[str] = Tally()
        """What arrived where it is recorded, apart from metrics, which are asked for."""
        self.driven = 0
        self._provider: Any = None
        self._once = Once()
        with self.world():
            self.app: ASGIApp = variant.build(self)

    @contextmanager
    def world(self) -> Iterator[None]:
        """As if this application were the only one in the process.

        A tracer provider can be set once and for all; here each variant gets a once of its own.
        """
        before = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = self._provider, self._once
        try:
            yield
        finally:
            self._provider = trace._TRACER_PROVIDER
            trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = before

    def provide(self, share: float) -> None:
        """Set up tracing as the documentation of OpenTelemetry does, but keep spans in the house."""
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share))
        provider.add_span_processor(BatchSpanProcessor(Sink(self.seen)))
        trace.set_tracer_provider(provider)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The application between start-up and shutdown, in the subject's world."""
        with self.world():
            life = driver.running(self.app)
            await life.__aenter__()
        try:
            yield
        finally:
            with self.world():
                await life.__aexit__(None, None, None)

    async def drive(self, requests: int) -> None:
        """So many requests, in the subject's world."""
        with self.world():
            await driver.drive(self.app, shop.PATH, requests)
        self.driven += requests

    async def check(self) -> None:
        """See that everything driven so far was recorded as the variant claims.

        Raises:
            RuntimeError: It was not.
        """
        await self.drive(1)
        with self.world():
            recorded = await self._recorded()
            answer = await driver.ask(self.app, shop.PATH)
        if missing := [name for name in self.variant.headers if name not in answer.headers]:
            msg = f"{self.variant.name} does not send {missing}."
            raise RuntimeError(msg)
        for what, share in self.variant.records.items():
            found, wanted = recorded[what], share * self.driven
            # Sampling is a game of chance: six sigma, so that no run fails in a lifetime.
            slack = 6 * (wanted * (1 - share)) ** 0.5
            if abs(found - wanted) > slack or (wanted > slack / 2 and not found):
                msg = (
                    f"{self.variant.name} does not do its work: {found:.0f} {what} for "
                    f"{self.driven} requests, where {wanted:.0f} were to be expected."
                )
                raise RuntimeError(msg)

    async def _recorded(self) -> dict[str, float]:
        if self._provider is not None:
            self._provider.force_flush()
        recorded: dict[str, float] = {SPANS: 0, LINES: 0, METRICS: 0, **self.seen}
        if self.variant.counter is not None:
            recorded[METRICS] = await self._counted(self.variant.counter)
        return recorded

    async def _counted(self, name: str) -> float:
        """The requests that the application's own ``/metrics`` tells of."""
        page = await driver.ask(self.app, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
            if sample.name == name and shop.ROUTE in sample.labels.values()
        )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to observe the application.

    Attributes:
        name: For the command line.
        title: For the table.
        build: Makes the application; runs in the subject's world.
        counter: The sample in ``/metrics`` that counts requests.
        records: What it claims to record, by its share of the requests.
        headers: Response headers that it claims to add.
        ours: fastobs; there can be one such variant in a process.
        timed: Whether it is of interest beyond counting.
    """

    name: str
    title: str
    build: Callable[[Subject], ASGIApp]
    counter: str | None = None
    records: dict[str, float] = field(default_factory=dict)
    headers: tuple[bytes, ...] = ()
    ours: bool = False
    timed: bool = True


class Sink(SpanExporter):
    """Where spans end: counted by kind, sent nowhere."""

    def __init__(self, seen: Tally[str]) -> None:
        self._seen = seen

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._seen[SPANS if span.kind is SpanKind.SERVER else "other spans"] += 1
        return SpanExportResult.SUCCESS


class Nothing:
    """A middleware that does nothing: what any middleware costs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def bare(_: Subject) -> FastAPI:
    return shop.make()


def no_op(_: Subject) -> FastAPI:
    app = shop.make()
    app.add_middleware(Nothing)
    return app


def fastobs(**sections: Any) -> Callable[[Subject], FastAPI]:
    """Instrumented by one call; fastobs sets up tracing itself, as the environment says."""

    def build(subject: Subject) -> FastAPI:
        from fastobs import instrument

        if sections.get("traces", {}) is not None:
            _name_exporter(subject)
        app = shop.make()
        instrument(app, **sections)
        return app

    return build


def fastobs_in(share: float) -> Callable[[Subject], FastAPI]:
    """Instrumented by one call, in an application that has a tracer provider already."""

    def build(subject: Subject) -> FastAPI:
        from fastobs import instrument

        subject.provide(share)
        app = shop.make()
        instrument(app)
        return app

    return build


_sinks: list[Subject] = []


def sink() -> Sink:
    """The exporter that `_name_exporter` announces."""
    return Sink(_sinks[-1].seen)


def _name_exporter(subject: Subject) -> None:
    """Have ``OTEL_TRACES_EXPORTER`` name our sink, by an entry point like any exporter's."""
    _sinks.append(subject)
    folder = tempfile.TemporaryDirectory(prefix="fastobs-benchmark-")
    atexit.register(folder.cleanup)
    package = Path(folder.name, "fastobs_benchmark-1.0.dist-info")
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fastobs-benchmark\nVersion: 1.0\n"
    )
    (package / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\nbenchmark_sink = benchmarks.variants:sink\n"
    )
    sys.path.append(folder.name)
    os.environ["OTEL_TRACES_EXPORTER"] = "benchmark_sink"


def instrumentator(_: Subject) -> FastAPI:
    from prometheus_fastapi_instrumentator import Instrumentator

    app = shop.make()
    Instrumentator(registry=CollectorRegistry()).instrument(app).expose(app)
    return app


def starlette_exporter(_: Subject) -> FastAPI:
    from starlette_exporter import PrometheusMiddleware, handle_metrics

    app = shop.make()
    app.add_middleware(PrometheusMiddleware)
    app.add_route("/metrics", handle_metrics)
    return app


def contrib(share: float) -> Callable[[Subject], FastAPI]:
    def build(subject: Subject) -> FastAPI:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        subject.provide(share)
        app = shop.make()
        FastAPIInstrumentor.instrument_app(app)
        return app

    return build


def native(share: float) -> Callable[[Subject], FastAPI]:
    def build(subject: Subject) -> FastAPI:
        subject.provide(share)
        return shop.make()

    return build


def assembly(share: float, *, access_lines: bool) -> Callable[[Subject], FastAPI]:
    """What tutorials add up to: a library for each concern, and a middleware for the log."""

    def build(subject: Subject) -> FastAPI:
        from asgi_correlation_id import CorrelationIdMiddleware
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        subject.provide(share)
        app = instrumentator(subject)
        app.middleware("http")(_request_log(subject, everything=access_lines))
        app.add_middleware(CorrelationIdMiddleware)
        FastAPIInstrumentor.instrument_app(app)
        return app

    return build


def _request_log(subject: Subject, *, everything: bool) -> Any:
    import structlog
    from asgi_correlation_id import correlation_id

    class Out:
        def write(self, line: str) -> None:
            subject.seen[LINES] += 1

        def flush(self) -> None: ...

    log = structlog.wrap_logger(
        structlog.WriteLogger(Out()),  # type: ignore[arg-type]
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )

    async def middleware(request: Any, call_next: Any) -> Any:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            request_id=correlation_id.get(), method=request.method, path=request.url.path
        )
        started = perf_counter()
        response = await call_next(request)
        took = perf_counter() - started
        if everything or took > 1.0:
            log.info("request", status=response.status_code, duration=took)
        return response

    return middleware


OURS = "http_server_request_duration_seconds_count"
THEIRS = "http_requests_total"
TRACE_ID = b"x-trace-id"
REQUEST_ID = b"x-request-id"

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="bare", title="bare FastAPI", build=bare),
        Variant(name="no-op", title="pure ASGI middleware that does nothing", build=no_op),
        Variant(
            name="fastobs-metrics",
            title="**fastobs**, metrics only",
            build=fastobs(**OFF),
            counter=OURS,
            records={METRICS: 1},
            ours=True,
        ),
        Variant(
            name="fastobs-1",
            title="**fastobs**, everything on, traces at 1 %",
            build=fastobs(traces={"sample": 0.01}),
            counter=OURS,
            records={METRICS: 1, SPANS: 0.01},
            headers=(TRACE_ID,),
            ours=True,
        ),
        Variant(
            name="fastobs-0",
            title="**fastobs**, everything on, a request that is not sampled",
            build=fastobs(traces={"sample": 0.0}),
            counter=OURS,
            records={METRICS: 1, SPANS: 0},
            headers=(TRACE_ID,),
            ours=True,
            timed=False,
        ),
        Variant(
            name="fastobs-1-theirs",
            title="**fastobs**, everything on, in the app's own tracing at 1 %",
            build=fastobs_in(0.01),
            counter=OURS,
            records={METRICS: 1, SPANS: 0.01},
            headers=(TRACE_ID,),
            ours=True,
        ),
        Variant(
            name="fastobs-100",
            title="**fastobs**, everything on, traces at 100 %",
            build=fastobs(traces={"sample": 1.0}),
            counter=OURS,
            records={METRICS: 1, SPANS: 1},
            headers=(TRACE_ID,),
            ours=True,
        ),
        Variant(
            name="instrumentator",
            title="prometheus-fastapi-instrumentator",
            build=instrumentator,
            counter=THEIRS,
            records={METRICS: 1},
        ),
        Variant(
            name="starlette-exporter",
            title="starlette_exporter",
            build=starlette_exporter,
            counter="starlette_requests_total",
            records={METRICS: 1},
        ),
        Variant(
            name="contrib-1",
            title="opentelemetry-instrumentation-fastapi, 1 %",
            build=contrib(0.01),
            records={SPANS: 0.01},
        ),
        Variant(
            name="contrib-100",
            title="opentelemetry-instrumentation-fastapi, 100 %",
            build=contrib(1.0),
            records={SPANS: 1},
        ),
        Variant(
            name="native-1",
            title="FastAPI's own telemetry, traces at 1 %",
            build=native(0.01),
            records={SPANS: 0.01},
        ),
        Variant(
            name="native-100",
            title="FastAPI's own telemetry, traces at 100 %",
            build=native(1.0),
            records={SPANS: 1},
        ),
        Variant(
            name="assembly-1",
            title="the usual assembly, traces at 1 %",
            build=assembly(0.01, access_lines=False),
            counter=THEIRS,
            records={METRICS: 1, SPANS: 0.01},
            headers=(REQUEST_ID,),
        ),
        Variant(
            name="assembly-100",
            title="the usual assembly, traces at 100 %",
            build=assembly(1.0, access_lines=False),
            counter=THEIRS,
            records={METRICS: 1, SPANS: 1},
            headers=(REQUEST_ID,),
        ),
        Variant(
            name="assembly-1-lines",
            title="the usual assembly, traces at 1 %, a log line per request",
            build=assembly(0.01, access_lines=True),
            counter=THEIRS,
            records={METRICS: 1, SPANS: 0.01, LINES: 1},
            headers=(REQUEST_ID,),
        ),
    )
}


def groups(names: Sequence[str]) -> list[list[str]]:
    """Which variants share a process: bare and one of ours each; bare and everybody else.

    In production an application is alone with its caches, its heap and its threads; whoever is
    measured among a dozen others is measured among their traces, too.
    """
    ours = [name for name in names if VARIANTS[name].ours]
    others = [name for name in names if not VARIANTS[name].ours and name != "bare"]
    return [*(["bare", own] for own in ours), *([["bare", *others]] if others else [])]
