"""The server span of our own provider: the SDK's only when somebody touches it.

Nobody writes to most server spans but we, and we know everything about one when it ends. So it begins
as little more than its ids, and ends as a `ReadableSpan` that the span processors get; the SDK's own
span, with its lock, its limits and its checks of every attribute, is made when the app writes to it,
at once and with the same ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ._exchange import NO_PARTS, Exchange
from ._parts import Parts, account
from ._version import __version__

__all__ = ["MAKING", "PART", "SAMPLED", "ServerSpan", "Way", "first_attributes", "last_attributes"]

MAKING: ContextVar[Exchange | None] = ContextVar("fastobs_making_span_of", default=None)
"""Whose span the SDK is making just now, so that it gets the exchange's ids."""

SCOPE = InstrumentationScope("fastobs", __version__)
# W3C Trace Context level 2; OpenTelemetry before 1.42 does not know that trace ids can be random.
SAMPLED = TraceFlags(TraceFlags.SAMPLED | getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
KEPT = "fastobs.kept"
"""Attribute of a span that the sampler did not want: ``error`` or ``slow``. Whoever counts spans to
count requests has to leave these out."""
PART = "fastobs.part"
"""Attribute of a span inside of a server span: which part of its time it was."""
LEFT_OUT = "fastobs.parts.left_out"
"""Attribute of a server span: how many more spans would have been inside of it."""
ERROR = Status(StatusCode.ERROR)
UNSET = Status(StatusCode.UNSET)

_lock = threading.Lock()


class Way:
    """Where finished spans go, without the SDK's spans.

    Args:
        resource: Of the provider; asked each time, since a fork changes it.
        ends: Of the span processors.
    """

    def __init__(
        self, resource: Callable[[], Resource], ends: tuple[Callable[[ReadableSpan], None], ...]
    ) -> None:
        self.resource = resource
        self.ends = ends

    def send(
        self,
        exchange: Exchange,
        context: SpanContext,
        *,
        parent: SpanContext | None,
        began: int,
        kept: str = "",
        events: Sequence[Event] = (),
    ) -> None:
        """The server span of an exchange that is closed.

        Args:
            exchange: Says everything else.
            context: The span's.
            parent: The caller's span; None for a trace that begins here.
            began: Nanoseconds since the epoch.
            kept: Why there is a span although the sampler wanted none.
            events: What happened meanwhile.
        """
        attributes = first_attributes(exchange)
        attributes.update(last_attributes(exchange))
        if kept:
            attributes[KEPT] = kept
        failed = exchange.error_type and not exchange.disconnected
        span = ReadableSpan(
            f"{exchange.method} {exchange.route}" if exchange.route else exchange.method,
            context,
            parent,
            self.resource(),
            attributes,
            events,
            kind=SpanKind.SERVER,
            status=ERROR if failed else UNSET,
            start_time=began,
            end_time=began + int(exchange.duration * 1e9),
            instrumentation_scope=SCOPE,
        )
        for end in self.ends:
            end(span)


class ServerSpan(Span):
    """A recording span that becomes one of the SDK's when it is written to.

    Args:
        exchange: Whose span it is.
        parent: The caller's span; None for a trace that begins here.
        way: Where it goes at its end.
        tracer: Makes the SDK's span; its sampler must record this trace.
        outside: The context that the parent is in.
    """

    def __init__(
        self,
        exchange: Exchange,
        parent: SpanContext | None,
        way: Way,
        tracer: trace.Tracer,
        outside: Context,
    ) -> None:
        self._exchange = exchange
        self._parent = parent
        self._way = way
        self._tracer = tracer
        self._outside = outside
        self._began = time_ns()
        self._context: SpanContext | None = None
        self._real: Span | None = None
        self._ended = False

    @property
    def began(self) -> int:
        """Nanoseconds since the epoch."""
        return self._began

    def get_span_context(self) -> SpanContext:
        if self._context is None:
            exchange, parent = self._exchange, self._parent
            self._context = SpanContext(
                exchange.trace_number,
                exchange.span_number,
                is_remote=False,
                trace_flags=SAMPLED if parent is None else parent.trace_flags,
                trace_state=None if parent is None else parent.trace_state,
            )
        return self._context

    def finish(self) -> bool:
        """End the span with everything that the exchange knows; not for exceptions, see `touched`.

        False if somebody has written to it, so that it is the SDK's to end.
        """
        if self._real is not None:
            return False
        self._ended = True
        self._way.send(
            self._exchange, self.get_span_context(), parent=self._parent, began=self._began
        )
        return True

    def send_inside(
        self, part: str, number: int, *, kind: SpanKind, began: int, ended: int
    ) -> None:
        """A part of the exchange, as a span inside of this one.

        Args:
            part: Its name.
            number: The new span's.
            kind: Whether somebody else was asked.
            began: Nanoseconds since the epoch.
            ended: The same.
        """
        parent = self.get_span_context()
        context = SpanContext(
            parent.trace_id,
            number,
            is_remote=False,
            trace_flags=parent.trace_flags,
            trace_state=parent.trace_state,
        )
        span = ReadableSpan(
            part,
            context,
            parent,
            self._way.resource(),
            {PART: part},
            kind=kind,
            start_time=began,
            end_time=ended,
            instrumentation_scope=SCOPE,
        )
        for end in self._way.ends:
            end(span)

    def touched(self) -> Span:
        """The SDK's span, made now if there was none."""
        with _lock:
            if self._real is None:
                if self._ended:
                    return trace.INVALID_SPAN
                token = MAKING.set(self._exchange)
                try:
                    self._real = self._tracer.start_span(
                        self._exchange.method,
                        self._outside,
                        kind=SpanKind.SERVER,
                        attributes=first_attributes(self._exchange),
                        start_time=self._began,
                    )
                finally:
                    MAKING.reset(token)
            return self._real

    def is_recording(self) -> bool:
        return not self._ended if self._real is None else self._real.is_recording()

    def end(self, end_time: int | None = None) -> None:
        self.touched().end(end_time)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.touched().set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self.touched().set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.touched().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        self.touched().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self.touched().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.touched().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - as the API has it
    ) -> None:
        self.touched().record_exception(exception, attributes, timestamp, escaped)

    def __getattr__(self, name: str) -> Any:
        # Not of the API, but of the SDK's spans: some read their name or attributes.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.touched(), name)


def first_attributes(exchange: Exchange) -> dict[str, Any]:
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


def last_attributes(exchange: Exchange) -> dict[str, Any]:
    """What is known when the exchange is closed."""
    attributes: dict[str, Any] = {"http.response.body.size": exchange.response_bytes}
    if exchange.route:
        attributes["http.route"] = exchange.route
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
    if exchange.error_type:
        attributes["error.type"] = exchange.error_type
    parts = exchange.parts
    # Most have none, and an identity is no call.
    if parts is not NO_PARTS and isinstance(parts, Parts):
        for part, seconds in account(exchange).items():
            attributes[f"fastobs.part.{part}"] = seconds
        if parts.intervals is not None and parts.intervals.left_out:
            attributes[LEFT_OUT] = parts.intervals.left_out
    return attributes
