"""One server span per exchange, with the same route and status as the metric.

Spans are made through OpenTelemetry's public API, so whatever provider the app has is the one that
samples, processes and exports them. Names and attributes are those of the semantic conventions for
HTTP server spans (https://opentelemetry.io/docs/specs/semconv/http/http-spans/).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from random import getrandbits
from time import monotonic, time_ns
from traceback import format_exception
from typing import Any, NamedTuple

from opentelemetry import context as otel
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from fastobs._budget import Budget
from fastobs._exchange import NO_PARTS, Exchange, Finish, Signal, qualified_name
from fastobs._parts import Parts, account
from fastobs._spans import MAKING, PART, SAMPLED, ServerSpan, Way, first_attributes, last_attributes
from fastobs._version import __version__

__all__ = ["HELD", "Head", "Spans", "adopt", "foreign_spans", "leave", "server_spans", "unsampled"]

HELD = "fastobs.block.duration"
"""Attribute of an event: the seconds for which the event loop was held while the exchange lasted."""
KEPT_PER_MINUTE = 600
"""Spans of requests that failed or were slow, by each worker: enough to see why everything fails."""


class Head:
    """What is known about the sampler beforehand: nothing, until a provider of ours is set up.

    Attributes:
        bound: A trace that begins here is surely not recorded if the lower 64 bits of its number
            are not below this.
        way: Where spans of traces that are recorded can go without the SDK's spans, if they can.
        late: Where the span can go of an exchange that is over, though its trace is not recorded.
    """

    def __init__(self) -> None:
        self.bound = 1 << 64
        self.way: Way | None = None
        self.late: Way | None = None

    def keep(self, share: float, way: Way | None = None) -> None:
        """The provider's sampler is ParentBasedTraceIdRatio with this share."""
        self.bound = TraceIdRatioBased.get_bound_for_rate(share)
        self.way = way


class Spans(NamedTuple):
    """How exchanges get their span, and what they do runs in its context."""

    begin: Signal
    enter: Callable[[Exchange], Any] | None = None
    """Make the exchange's context current; answers with what `leave` wants, or None."""


def server_spans(head: Head, *, inside: bool = True) -> Spans:
    """A span of ours around each exchange, and the context that everything inside belongs to.

    An exchange that the sampler is known to drop costs no more than a context in which its children
    are silent.

    Args:
        head: What is known about the sampler.
        inside: Whether there is a span for each of its parts.
    """
    finish = _finisher(inside=inside)
    tracer = trace.get_tracer("fastobs", __version__)
    carrier = _Carrier()
    provided = False

    def begin(exchange: Exchange) -> Finish | None:
        nonlocal provided
        # FastAPI >= 0.142 leaves a request alone that has this key; mounted apps would else add a
        # server span of their own.
        exchange.scope.setdefault("fastapi.telemetry", None)
        # Never the context that happens to be current: a server may start a request in the one of
        # an earlier request on the same connection (cpython#140947, uvicorn#2167).
        headers = exchange.request_headers
        parent = None if headers.keys().isdisjoint(carrier.fields) else carrier(exchange)
        if not provided:
            # OpenTelemetry lets a provider be set once, so it is not asked for again after that.
            provided = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            if not provided:
                if parent:
                    _follow(exchange, parent)
                return None
        if not parent and exchange.trace_number & TraceIdRatioBased.TRACE_ID_LIMIT >= head.bound:
            return None
        span = _short_way(exchange, parent, head.way) if head.way else None
        if span is None:
            span = _long_way(exchange, parent or Context())
        # What came along with the request (baggage) goes on.
        exchange.context = {**parent, _SPAN: span} if parent else {_SPAN: span}
        return finish if span.is_recording() else None

    def enter(exchange: Exchange) -> Any:
        # A dict where it says Context: the same methods, made in half the time.
        if (context := exchange.context) is not None:
            return _attach(context)
        return _attach({_SPAN: _Silent(exchange)}) if provided else None

    def _short_way(exchange: Exchange, parent: Context | None, way: Way) -> Span | None:
        remote = None
        if parent:
            remote = trace.get_current_span(parent).get_span_context()
            if not remote.is_valid or not remote.trace_flags.sampled:
                return None
            exchange.joins(remote.trace_id, 0)
        exchange.span = span = ServerSpan(exchange, remote, way, tracer, parent or Context())
        exchange.sampled = True
        return span

    def _long_way(exchange: Exchange, parent: Context) -> Span:
        token = MAKING.set(exchange)
        try:
            span = tracer.start_span(
                exchange.method, parent, kind=SpanKind.SERVER, attributes=first_attributes(exchange)
            )
        finally:
            MAKING.reset(token)
        adopt(exchange, span)
        return span

    return Spans(begin, enter)


def foreign_spans(find: Callable[[Exchange], Span | None], *, inside: bool = True) -> Spans:
    """Adopt the server span that somebody else makes, and add what we know; make none.

    Args:
        find: The span, if there is one when the exchange begins. One that is made further inside
            sets ``exchange.span`` itself.
        inside: As of our own.
    """

    def begin(exchange: Exchange) -> Finish:
        if (span := find(exchange)) is not None:
            adopt(exchange, span)
        exchange.scope.setdefault("fastapi.telemetry", None)
        return finish

    def finish(exchange: Exchange) -> None:
        span = exchange.span
        if span is None or not span.is_recording():
            return
        if exchange.route:
            span.set_attribute("http.route", exchange.route)
        _tell_of_blocks(exchange, span)
        if inside:
            _tell_of_parts(exchange, span)

    return Spans(begin)


def unsampled(
    head: Head,
    *,
    errors: bool,
    slow: Callable[[str], float],
    clock: Callable[[], float] = monotonic,
) -> Finish:
    """Keep the server span of an exchange that failed or was slow, though the sampler wanted none.

    Told before everybody else, so that the log line and the exemplar lead to it. What was inside of
    the exchange has been silent, and stays so.

    Args:
        head: Where such spans go, if a provider of ours is there.
        errors: Whether failed ones are kept.
        slow: Seconds after which an exchange of this route is slow.
        clock: Seconds.
    """
    carrier = _Carrier()
    budget = Budget(KEPT_PER_MINUTE, clock)

    def keep(exchange: Exchange) -> None:
        if exchange.sampled or (way := head.late) is None:
            return
        if errors and exchange.error_type and not exchange.disconnected:
            why = "error"
        elif exchange.duration >= slow(exchange.route):
            why = "slow"
        else:
            return
        if budget.take() is None:
            return
        exchange.sampled = True
        ended = time_ns()
        remote = trace.get_current_span(carrier(exchange)).get_span_context()
        context = SpanContext(
            exchange.trace_number, exchange.span_number, is_remote=False, trace_flags=SAMPLED
        )
        way.send(
            exchange,
            context,
            parent=remote if remote.is_valid else None,
            began=ended - int(exchange.duration * 1e9),
            kept=why,
            events=list(_events(exchange, ended)),
        )

    return keep


def _events(exchange: Exchange, ended: int) -> Iterator[Event]:
    """What a span of the SDK would have been told while it lasted."""
    if (error := exchange.exception) is not None:
        yield Event(
            "exception",
            {
                "exception.type": qualified_name(type(error)),
                "exception.message": str(error),
                "exception.stacktrace": "".join(format_exception(error)),
            },
            ended,
        )
    for name, attributes, at in _blocks(exchange):
        yield Event(name, attributes, at)


def _finisher(*, inside: bool) -> Finish:
    def finish(exchange: Exchange) -> None:
        span: Span = exchange.span
        # Most have none, and an identity is no call.
        if exchange.parts is not NO_PARTS:
            _tell_of_blocks(exchange, span)
            if inside:
                _tell_of_parts(exchange, span)
        if isinstance(span, ServerSpan):
            if exchange.exception is None and span.finish():
                return
            span = span.touched()
        if route := exchange.route:
            span.update_name(f"{exchange.method} {route}")
        if exchange.exception is not None:
            span.record_exception(exchange.exception)
        if exchange.error_type and not exchange.disconnected:
            span.set_status(Status(StatusCode.ERROR))
        # All at once: each call takes the span's lock.
        span.set_attributes(last_attributes(exchange))
        span.end()

    return finish


def _tell_of_blocks(exchange: Exchange, span: Span) -> None:
    for name, attributes, at in _blocks(exchange):
        span.add_event(name, attributes, at)


def _blocks(exchange: Exchange) -> Iterator[tuple[str, dict[str, Any], int]]:
    """An event for each time that the event loop was held, by this exchange or by another."""
    parts = exchange.parts
    if not isinstance(parts, Parts):
        return
    # Of one that goes on still, the share of this exchange ends here.
    account(exchange)
    for held in parts.held:
        yield held.event, {**held.attributes, HELD: held.seconds}, held.at


def _tell_of_parts(exchange: Exchange, span: Span) -> None:
    """A span for each part of an exchange that is over, but for those that others have made.

    They lie beside each other: what began within another part may have nothing to do with it.
    """
    parts = exchange.parts
    if not isinstance(parts, Parts) or parts.intervals is None:
        return
    ours = span if isinstance(span, ServerSpan) else None
    tracer, inside = (
        trace.get_tracer("fastobs", __version__),
        trace.set_span_in_context(span, Context()),
    )
    # Of a span that is not ours only the SDK's tell when they began, somewhat after the exchange.
    first: int = getattr(span, "start_time", None) or 0
    zero = ours.began if ours else time_ns() - int(exchange.duration * 1e9)
    others = _made_by_others()
    for part, since, until in parts.intervals.found:
        if part in others:
            continue
        kind = SpanKind.CLIENT if part in ASKING else SpanKind.INTERNAL
        began, ended = (
            max(zero + int((at - exchange.started) * 1e9), first) for at in (since, until)
        )
        if ours:
            ours.send_inside(part, getrandbits(64) or 1, kind=kind, began=began, ended=ended)
        else:
            tracer.start_span(part, inside, kind, {PART: part}, start_time=began).end(ended)


ASKING = {
    "db": ("asyncpg", "mysql", "psycopg", "psycopg2", "pymongo", "sqlalchemy", "sqlite3"),
    "http": ("aiohttp_client", "httpx", "requests", "urllib3"),
    "cache": ("pymemcache", "redis"),
}
"""Parts in which somebody else is asked, and whose instrumentations make a span of each question."""


def _made_by_others() -> set[str]:
    """Parts that OpenTelemetry's own instrumentations make spans of, since the app has them."""
    base = sys.modules.get("opentelemetry.instrumentation.instrumentor")
    if base is None:
        return set()
    active = {
        kind.__module__.rpartition(".")[2]
        for kind in base.BaseInstrumentor.__subclasses__()
        if kind._instance is not None and kind._instance.is_instrumented_by_opentelemetry
    }
    return {part for part, libraries in ASKING.items() if not active.isdisjoint(libraries)}


def adopt(exchange: Exchange, span: Span) -> None:
    """This is the exchange's span, whoever made it."""
    context = span.get_span_context()
    exchange.span = span
    if context.is_valid:
        exchange.joins(context.trace_id, context.span_id)
        exchange.sampled = context.trace_flags.sampled


def _follow(exchange: Exchange, parent: Context) -> None:
    """Without a provider: at least answer and log under the caller's trace id."""
    remote = trace.get_current_span(parent).get_span_context()
    if remote.is_valid:
        exchange.joins(remote.trace_id, 0)


def _way_in() -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    """How to enter a context and leave it.

    Nearly always the current context is in a ContextVar, behind two calls each way that a request
    need not pay for.
    """
    variable = getattr(getattr(otel, "_RUNTIME_CONTEXT", None), "_current_context", None)
    if isinstance(variable, ContextVar):
        return variable.set, variable.reset
    return otel.attach, otel.detach


_attach, leave = _way_in()
# What set_span_in_context() puts the span under; asked once, since asking costs as much as the rest.
(_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


class _Silent(NonRecordingSpan):
    """Keeps the children of an exchange that is not sampled silent, and gives them its ids.

    Its SpanContext is made when somebody asks for it; most exchanges end without.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get_span_context(self) -> SpanContext:
        exchange = self._exchange
        return SpanContext(
            exchange.trace_number,
            exchange.span_number,
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.DEFAULT),
        )


class _Carrier(Getter[dict[bytes, bytes]]):
    """Request headers, as the propagators want to read them.

    Attributes:
        fields: The headers that they read; most requests have none of them.
    """

    def __init__(self) -> None:
        fields = propagate.get_global_textmap().fields
        self.fields = frozenset(field.lower().encode() for field in fields)

    def __call__(self, exchange: Exchange) -> Context:
        """The caller's context; empty if it sent none."""
        return propagate.extract(exchange.request_headers, Context(), getter=self)

    def get(self, carrier: dict[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: dict[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]
