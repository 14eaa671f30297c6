"""Exchange: what is known about one request and its response, in one mutable object."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from starlette.types import Scope

from ._contain import contain
from ._routes import Routes

__all__ = [
    "CURRENT",
    "KEEP",
    "METHODS",
    "NO_PARTS",
    "SLOWEST",
    "Exchange",
    "current",
    "qualified_name",
]

METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""Methods that may become a label; any other is ``_OTHER``
(https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/)."""

# Ids need no secrecy, and a process that was forked must not repeat its sibling's.
_ids = random.Random()  # noqa: S311
_random_bits = _ids.getrandbits
os.register_at_fork(after_in_child=_ids.seed)


class Exchange:
    """One request and its response, from arrival to the last byte.

    Signals and probes write to it while it is open; once closed it does not change. Threads and
    child tasks of the request see the same object, through `current`.

    Attributes:
        method: As a label: one of the known methods or ``_OTHER``.
        started: When the request arrived, on the middleware's clock, in seconds.
        answered: When the response began, on the same clock; 0.0 until it does.
        duration: Seconds to the last byte of the response; 0.0 until the exchange is closed.
        status: The status code sent, or None if no response was started.
        error_type: Class of the exception, ``client_disconnect``, ``cancelled``,
            ``incomplete_response`` or the status code of a 5xx; empty when nothing failed.
        request_bytes: Body bytes received.
        response_bytes: Body bytes sent.
        inflight: Requests of its method that were in flight when it began, itself included.
        noted: Whether there is something to tell at its end: parts, decisions, a 429.
        notes: What probes remember of it for its end, and what is found in that; None until something
            is.
        parts: Seconds by part, for the breakdown.
        request_headers: By lower-case name; of repeated ones the last.
        context: OpenTelemetry's, for what the request does; None if nothing is recorded.
        trace_number: The trace id as OpenTelemetry's API has it.
        headers: Response headers that signals add.
        leaving: Called when the app has returned, in the task and context that the exchange began
            in: the place to give back ContextVars. Background tasks are over then, too.
    """

    __slots__ = (
        "_request_id",
        "_route",
        "_routed",
        "_routes",
        "_span_number",
        "answered",
        "closed",
        "context",
        "disconnected",
        "duration",
        "error_type",
        "exception",
        "headers",
        "inflight",
        "leaving",
        "method",
        "noted",
        "notes",
        "parts",
        "profile_id",
        "request_bytes",
        "request_headers",
        "response_bytes",
        "sampled",
        "scope",
        "span",
        "started",
        "status",
        "trace_number",
    )

    def __init__(self, scope: Scope, routes: Routes, started: float) -> None:
        self.scope = scope
        self.started = started
        method = scope["method"]
        self.method: str = method if method in METHODS else "_OTHER"
        self.request_headers: dict[bytes, bytes] = dict(scope["headers"])
        self.answered = 0.0
        self.duration = 0.0
        self.status: int | None = None
        self.error_type = ""
        self.exception: BaseException | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.inflight = 0.0
        self.closed = False
        self.disconnected = False
        self.noted = False
        self.notes: dict[str, Any] | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: Mapping[str, float] = NO_PARTS
        self.profile_id: str | None = None
        self.span: Any = None
        self.context: dict[str, Any] | None = None
        self.sampled = False
        self.leaving: list[Callable[[], object]] = []
        self.trace_number: int = _random_bits(128) or 1
        self._span_number = 0
        self._request_id: str | None = None
        self._routes = routes
        self._routed = scope
        self._route: str | None = None

    @property
    def route(self) -> str:
        """The declared template; empty while routing has not happened, and if nothing matched."""
        if self._route is None:
            # Asked first: another thread may look while the exchange goes on to its end.
            final = self.closed
            try:
                route = self._routes.template(self._routed)
            except Exception as error:
                contain("routes", error)
                route = ""
            if not final:
                return route
            self._route = route
        return self._route

    def routed_in(self, scope: Scope) -> None:
        """The route is found in this copy of the scope; the path stays the one that was requested."""
        self._routed = scope
        # It leads back to us.
        self.leaving.append(lambda: scope.pop("fastobs", None))

    @property
    def trace_id(self) -> str:
        """32 hex characters: the span's, the caller's, or made up here."""
        return f"{self.trace_number:032x}"

    @property
    def span_id(self) -> str:
        """16 hex characters."""
        return f"{self.span_number:016x}"

    @property
    def span_number(self) -> int:
        """The span id as OpenTelemetry's API has it."""
        if self._span_number == 0:
            self._span_number = _random_bits(64) or 1
        return self._span_number

    def joins(self, trace_number: int, span_number: int) -> None:
        """The exchange is this span of this trace; without one it has an id of its own."""
        self.trace_number = trace_number
        self._span_number = span_number

    def keep_profile(self) -> None:
        """Have what is sampled of this request kept, though it may end neither slow nor failed.

        Sampling begins at the share `slow.profile_from` of its threshold: one that is over by then
        leaves no profile. From any of its threads and tasks, at any time before its end; the limits
        of profiles apply.
        """
        if self.notes is None:
            self.notes = {}
            # Whoever finds notes relies on their being told.
            self.noted = True
        self.notes[KEEP] = True

    @property
    def request_id(self) -> str:
        """The caller's ``X-Request-Id`` if it is a reasonable one, else the trace id."""
        if self._request_id is None:
            given = self.request_headers.get(b"x-request-id", b"")
            # Anything may be in the header; what goes into a log line must be short and plain.
            plain = 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable()
            self._request_id = given.decode() if plain else self.trace_id
        return self._request_id

    @property
    def path(self) -> str:
        """The path as requested, without the query; for log lines and spans, never for labels."""
        path: str = self.scope["path"]
        return path


SLOWEST = "slowest_query"
"""The note of the statement that took longest, if it took long: seconds, statement, line of the app."""
KEEP = "keep_profile"
"""The note of an exchange whose profile the app asks to be kept."""

NO_PARTS: Mapping[str, float] = MappingProxyType({})
"""What most exchanges have; with the first part it gets its own."""


def qualified_name(cls: type) -> str:
    """As OpenTelemetry names exceptions: with the module, unless it is a builtin."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


CURRENT: ContextVar[Exchange | None] = ContextVar("fastobs_exchange", default=None)


def current() -> Exchange | None:
    """The exchange of the running request; None outside a request, and in its background tasks."""
    exchange = CURRENT.get()
    return None if exchange is None or exchange.closed else exchange


Finish = Callable[[Exchange], None]
"""Told once, when the exchange is closed."""
Signal = Callable[[Exchange], Finish | None]
"""Told when an exchange begins; answers with what wants to know its end, or nothing."""
