"""Who makes the server span, and where spans go when the app has not said."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from starlette.applications import Starlette
from starlette.types import ASGIApp

from . import catalogue
from ._contain import contained
from ._exchange import Exchange
from ._extras import need
from ._farewell import before_the_end
from ._service import Identity
from ._spans import MAKING, Way
from .cells import Meters, Reading
from .cells.meters import Counter
from .config import Traces
from .errors import ConfigError
from .signals.traces import Head, Spans, adopt, foreign_spans, server_spans

__all__ = ["prepare", "provide", "spans_for"]

logger = logging.getLogger("fastobs")

Undo = Callable[[], None]

INSTANCE = "service.instance.id"


def prepare(app: Starlette, settings: Traces) -> Undo:
    """See to it that there will be exactly one server span per request.

    Raises:
        ConfigError: The app cannot have the kind of span that was asked for.
    """
    config: Any = getattr(app, "_telemetry", None)
    native = isinstance(config, dict) and "tracing" in config
    if settings.server_spans == "native":
        if not native:
            msg = (
                "traces.server_spans='native' needs a FastAPI application of FastAPI 0.142 or newer. "
                "Use 'fastobs', the default, or 'contrib'."
            )
            raise ConfigError(msg)
        return _nothing
    if settings.server_spans == "contrib":
        return _apply_contrib(app)
    return _silence_native(config) if native else _nothing


def spans_for(stack: ASGIApp, settings: Traces, head: Head) -> Spans:
    """What fits what is in the app's middleware stack.

    A stack that has contrib's middleware makes spans already, whoever put it there; they are adopted.
    """
    if (contrib := _contrib_layer(stack)) is not None:
        _tell_us(contrib)
        # It comes later, by the hook.
        return foreign_spans(lambda exchange: None, inside=settings.inside)  # noqa: ARG005
    if settings.server_spans == "native":
        return foreign_spans(
            lambda exchange: trace.get_current_span(),  # noqa: ARG005
            inside=settings.inside,
        )
    return server_spans(head, inside=settings.inside)


def provide(settings: Traces, who: Identity, meters: Meters, head: Head) -> None:
    """Set up a tracer provider if the environment names an exporter and nobody else has set up one.

    Call it as late as possible, so that the app's own set-up comes first. A provider that exists is
    used as it is and never replaced.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    exporters = _exporters()
    if not exporters:
        return
    # OTEL_TRACES_SAMPLER decides, unless the settings do.
    ratio = None if settings.sample is None else ParentBasedTraceIdRatio(settings.sample)
    provider = _Provider(
        head,
        sampler=ratio,
        resource=_resource(who),
        shutdown_on_exit=False,
        id_generator=_ExchangeIds(),
    )
    processors = [BatchSpanProcessor(_Counted(exporter, meters)) for exporter in exporters]
    for processor in processors:
        provider.add_span_processor(processor)
    meters.ask(_Waiting(processors, meters))
    end = _End(provider, settings.shutdown_after)
    before_the_end(end.flush)
    atexit.register(end.shut_down)
    trace.set_tracer_provider(provider)
    limits = SpanLimits()
    # The SDK's spans are made for their limits, if there are any for values of ours.
    if limits.max_attribute_length is None and limits.max_span_attribute_length is None:
        head.late = Way(lambda: provider.resource, tuple(each.on_end for each in processors))
    if settings.sample is not None:
        head.keep(settings.sample, head.late)


def spare_probe(app: Starlette) -> None:
    """Spare each request FastAPI's question whether its metrics and logs have a provider, if not.

    It costs 12 us per request, and no provider appears once an app serves requests.
    """
    config: Any = getattr(app, "_telemetry", None)
    if not isinstance(config, dict):
        return
    for signal, provider, unset in (
        ("metrics", "meter_provider", metrics.get_meter_provider()),
        ("logs", "logger_provider", _logs.get_logger_provider()),
    ):
        if config.get(provider) is None and type(unset).__name__.startswith(("_Proxy", "Proxy")):
            config[signal] = False


class _Provider(TracerProvider):
    """Notices when spans concern anybody but us from their beginning."""

    def __init__(self, head: Head, **options: Any) -> None:
        super().__init__(**options)
        self._head = head

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self._head.way = self._head.late = None
        super().add_span_processor(span_processor)


class _End:
    """Sends what is left, but lets a dead collector hold up the end of the process only so long.

    Its thread waits from the beginning: Python 3.12 starts none when the process ends.

    Args:
        provider: Whose spans they are.
        within: Seconds.
    """

    def __init__(self, provider: TracerProvider, within: float) -> None:
        self._provider = provider
        self._patience = within
        self.begin_anew()
        os.register_at_fork(after_in_child=self.begin_anew)

    def begin_anew(self) -> None:
        """In a forked child: the thread stayed with the parent."""
        self._asked: SimpleQueue[tuple[Callable[[], object], threading.Event]] = SimpleQueue()
        threading.Thread(target=self._run, name="fastobs-traces-end", daemon=True).start()

    def flush(self) -> None:
        """Maybe for the last time."""
        self._wait_for(self._provider.force_flush)

    def shut_down(self) -> None:
        """For the last time."""
        self._wait_for(self._provider.shutdown)

    def _wait_for(self, work: Callable[[], object]) -> None:
        done = threading.Event()
        self._asked.put((work, done))
        if not done.wait(self._patience):
            # Nobody waits a second time for what does not answer.
            self._patience = 0.0

    def _run(self) -> None:
        while True:
            work, done = self._asked.get()
            with contained("traces"):
                work()
            done.set()


class _ExchangeIds(RandomIdGenerator):
    """Gives the server span the ids that the exchange was decided on, and announced with."""

    def generate_trace_id(self) -> int:
        exchange = MAKING.get()
        return super().generate_trace_id() if exchange is None else exchange.trace_number

    def generate_span_id(self) -> int:
        exchange = MAKING.get()
        return super().generate_span_id() if exchange is None else exchange.span_number


class _Counted(SpanExporter):
    """An exporter whose outcomes are counted."""

    def __init__(self, exporter: SpanExporter, meters: Meters) -> None:
        self._exporter = exporter
        self._outcome = {
            SpanExportResult.SUCCESS: meters.counter(catalogue.SELF_EXPORTS, "traces", "success"),
            SpanExportResult.FAILURE: meters.counter(catalogue.SELF_EXPORTS, "traces", "failure"),
        }
        self._lost = meters.counter(catalogue.SELF_DROPPED, "traces", "export_failed")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._outcome[result].add()
        if result is SpanExportResult.FAILURE:
            self._lost.add(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Waiting:
    """Spans that have ended and wait for their batch, and those that found no room.

    A release of the SDK that keeps them elsewhere has no such series.
    """

    def __init__(self, processors: Iterable[BatchSpanProcessor], meters: Meters) -> None:
        lost = meters.counter(catalogue.SELF_DROPPED, "traces", "queue_full")
        inner: list[Any] = [getattr(each, "_batch_processor", None) for each in processors]
        self._queues = [
            queue for one in inner if (queue := getattr(one, "_queue", None)) is not None
        ]
        for one in inner:
            if hasattr(getattr(one, "_metrics", None), "drop_items"):
                one._metrics = _Drops(one._metrics, lost)

    def read(self) -> Iterator[Reading]:
        if self._queues:
            yield Reading(catalogue.SELF_QUEUE, ("traces",), sum(map(len, self._queues)))


class _Drops:
    """The SDK's metrics of a queue, which only it would see otherwise: nobody has to set them up."""

    def __init__(self, theirs: Any, lost: Counter) -> None:
        self._theirs = theirs
        self._lost = lost

    def drop_items(self, count: int, *why: Any, **more: Any) -> None:
        self._lost.add(count)
        self._theirs.drop_items(count, *why, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)


def _resource(who: Identity) -> Resource:
    found = Resource.create(
        {
            "service.name": who.name,
            "service.version": who.version,
            "deployment.environment.name": who.environment,
        }
    )
    # Newer releases of the SDK bring one, and so may the environment. Each worker has its own, since
    # it gets here itself, after the fork.
    own = {} if INSTANCE in found.attributes else {INSTANCE: str(uuid4())}
    return found.merge(Resource(own))


def _exporters() -> list[SpanExporter]:
    """What ``OTEL_TRACES_EXPORTER`` names; OTLP if only an endpoint is given.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """
    names = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if not names and _endpoint_given():
        names = "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    return [
        exporter
        for name in names.split(",")
        if name.strip() not in {"", "none"}
        if (exporter := _exporter(name.strip())) is not None
    ]


def _endpoint_given() -> bool:
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "TRACES_"))


def _exporter(name: str) -> SpanExporter | None:
    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if name == "otlp":
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        made: SpanExporter = entry.load()()
        return made
    logger.warning(
        "fastobs: the environment asks for the trace exporter %r, which is not installed; "
        "spans are not exported. %s",
        name,
        _HINTS.get(name, "Install the package that has it, or change OTEL_TRACES_EXPORTER."),
    )
    return None


_HINTS = {
    "otlp_proto_http": "Run: pip install 'fastobs[otlp]'",
    "otlp_proto_grpc": "Run: pip install opentelemetry-exporter-otlp-proto-grpc, "
    "or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
}


def _silence_native(config: dict[str, Any]) -> Undo:
    before = dict(config)
    config["tracing"] = False
    return lambda: config.update(before)


def _apply_contrib(app: Starlette) -> Undo:
    with need("traces.server_spans='contrib'", extra="contrib"):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        return _nothing
    # Its spans per ASGI message say nothing that the server span does not.
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])  # type: ignore[arg-type]
    return lambda: FastAPIInstrumentor.uninstrument_app(app)  # type: ignore[arg-type]


def _contrib_layer(stack: ASGIApp | None) -> Any:
    """The middleware of contrib in the built stack. Its flag on the app also exists when it failed."""
    while stack is not None:
        if type(stack).__module__ == "opentelemetry.instrumentation.asgi":
            return stack
        stack = getattr(stack, "app", None)
    return None


def _tell_us(contrib: Any) -> None:
    """Have contrib's middleware hand its span to the exchange, after the user's own hook."""
    theirs = contrib.server_request_hook

    def hook(span: trace.Span, scope: Any) -> None:
        exchange = scope.get("fastobs")
        if isinstance(exchange, Exchange) and exchange.span is None:
            adopt(exchange, span)
        if theirs is not None:
            theirs(span, scope)

    contrib.server_request_hook = hook


def _nothing() -> None:
    pass
