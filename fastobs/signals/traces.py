"""One server span per exchange, with the same route and status as the metric.

Spans are made through OpenTelemetry's public API, so whatever provider the app has is the one that
samples, processes and exports them. Names and attributes are those of the semantic conventions for
HTTP server spans (https://opentelemetry.io/docs/specs/semconv/http/http-spans/).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry import context as otel
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
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

from fastobs._exchange import Exchange, Finish, Signal
from fastobs._version import __version__

__all__ = ["Head", "adopt", "announce", "foreign_spans", "server_spans"]


class Head:
    """What is known about the sampler beforehand: nothing, until a provider of ours is set up."""

    def __init__(self) -> None:
        self._bound = 1 << 64

    def keep(self, share: float) -> None:
        """The provider's sampler is TraceIdRatioBased, for traces that begin here."""
        self._bound = TraceIdRatioBased.get_bound_for_rate(share)

    def drops(self, trace_number: int) -> bool:
        """Whether a trace of this number that begins here will surely not be recorded."""
        return trace_number & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound


def server_spans(head: Head) -> Signal:
    """A span of ours around each exchange, and the context that everything inside belongs to.

    An exchange that the sampler is known to drop costs no more than a context in which its children
    are silent.
    """
    tracer = trace.get_tracer("fastobs", __version__)
    carrier = _Carrier()

    def begin(exchange: Exchange) -> Finish | None:
        # Never the context that happens to be current: a server may start a request in the one of
        # an earlier request on the same connection (cpython#140947, uvicorn#2167).
        parent = carrier.extract(exchange)
        # FastAPI >= 0.142 leaves a request alone that has this key; mounted apps would else add a
        # server span of their own.
        exchange.scope.setdefault("fastapi.telemetry", None)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            if parent:
                _follow(exchange, parent)
            announce(exchange)
            return None
        if not parent and head.drops(exchange.trace_number):
            _enter(exchange, _Silent(exchange))
            announce(exchange)
            return None
        span = tracer.start_span(
            exchange.method, parent, kind=SpanKind.SERVER, attributes=_first_attributes(exchange)
        )
        adopt(exchange, span)
        _enter(exchange, span)
        return _finish if span.is_recording() else None

    return begin


def foreign_spans(find: Callable[[Exchange], Span | None]) -> Signal:
    """Adopt the server span that somebody else makes, and add what we know; make none.

    Args:
        find: The span, if there is one when the exchange begins. One that is made further inside
            sets ``exchange.span`` itself.
    """

    def begin(exchange: Exchange) -> Finish:
        if (span := find(exchange)) is not None:
            adopt(exchange, span)
        exchange.scope.setdefault("fastapi.telemetry", None)
        return finish

    def finish(exchange: Exchange) -> None:
        span = exchange.span
        if span is not None and span.is_recording() and exchange.route:
            span.set_attribute("http.route", exchange.route)

    return begin


def _finish(exchange: Exchange) -> None:
    span: Span = exchange.span
    # All at once: each call takes the span's lock.
    attributes: dict[str, Any] = {"http.response.body.size": exchange.response_bytes}
    if route := exchange.route:
        span.update_name(f"{exchange.method} {route}")
        attributes["http.route"] = route
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
    if exchange.error_type:
        attributes["error.type"] = exchange.error_type
        if exchange.exception is not None:
            span.record_exception(exchange.exception)
        if not exchange.disconnected:
            span.set_status(Status(StatusCode.ERROR))
    span.set_attributes(attributes)
    span.end()


def _first_attributes(exchange: Exchange) -> dict[str, Any]:
    """What a sampler may decide on, and what does not change later."""
    scope = exchange.scope
    attributes: dict[str, Any] = {
        "http.request.method": exchange.method,
        "url.path": exchange.path,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", ""),
    }
    if exchange.method == "_OTHER":
        attributes["http.request.method_original"] = scope["method"]
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    if server := scope.get("server"):
        attributes["server.address"] = server[0]
    if agent := exchange.request_headers.get(b"user-agent"):
        attributes["user_agent.original"] = agent.decode("latin-1")
    return attributes


def adopt(exchange: Exchange, span: Span) -> None:
    """This is the exchange's span, whoever made it."""
    context = span.get_span_context()
    exchange.span = span
    if context.is_valid:
        exchange.joins(context.trace_id, context.span_id)
        exchange.sampled = context.trace_flags.sampled
    announce(exchange)


def announce(exchange: Exchange) -> None:
    """Tell the caller the trace id, whatever becomes of the request."""
    exchange.headers.append((b"x-trace-id", b"%032x" % exchange.trace_number))


def _follow(exchange: Exchange, parent: Context) -> None:
    """Without a provider: at least answer and log under the caller's trace id."""
    remote = trace.get_current_span(parent).get_span_context()
    if remote.is_valid:
        exchange.joins(remote.trace_id, 0)


def _enter(exchange: Exchange, span: Span) -> None:
    token = otel.attach(Context({_SPAN: span}))
    # Given back where it was taken: the last byte may be sent from another task.
    exchange.leaving.append(partial(otel.detach, token))


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
    """Request headers, as the propagators want to read them."""

    def __init__(self) -> None:
        self._fields: frozenset[bytes] | None = None

    def extract(self, exchange: Exchange) -> Context:
        """The caller's context; empty if it sent none."""
        if self._fields is None:
            fields = propagate.get_global_textmap().fields
            self._fields = frozenset(field.lower().encode() for field in fields)
        headers = exchange.request_headers
        if self._fields.isdisjoint(headers):
            return Context()
        return propagate.extract(headers, Context(), getter=self)

    def get(self, carrier: dict[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: dict[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]
