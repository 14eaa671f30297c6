"""Rate, errors, duration, sizes and what is in flight, written into cells."""

from __future__ import annotations

from collections.abc import Callable

from fastobs import catalogue
from fastobs._exchange import METHODS, Exchange, Finish, Signal, qualified_name
from fastobs.cells.meters import Histogram, Meters

__all__ = ["http", "late_exceptions"]


def http(meters: Meters) -> tuple[Signal, Finish]:
    """The http family, except for its WebSockets: what is told of the beginning and of the end."""
    active = {
        method: meters.gauge(catalogue.HTTP_ACTIVE, method) for method in (*METHODS, "_OTHER")
    }
    rows = _Rows(meters)

    def begin(exchange: Exchange) -> None:
        gauge = active[exchange.method]
        cells, at = gauge.cells, gauge.at
        # One statement, see `Row`.
        exchange.inflight = cells[at] = cells[at] + 1.0
        cells[at + 1] = 1.0

    def finish(exchange: Exchange) -> None:
        if exchange.inflight:
            gauge = active[exchange.method]
            gauge.cells[gauge.at] -= 1.0
        # The same parts in the same order find the same histograms, without making label objects.
        duration, received, sent = rows[
            exchange.method, exchange.route, exchange.status, exchange.error_type
        ]
        duration.observe(exchange.duration)
        if exchange.request_bytes:
            # Most requests have no body; as zeros they would be the median of every route.
            received.observe(exchange.request_bytes)
        sent.observe(exchange.response_bytes)
        if exchange.sampled:
            duration.remember(exchange.duration, exchange.trace_number, exchange.span_number)
        if exchange.error_type:
            _count_failure(meters, exchange)

    return begin, finish


class _Rows(dict[tuple[str, str, int | None, str], tuple[Histogram, Histogram, Histogram]]):
    """The histograms by what identifies them; bounded, since the meters bound their label sets."""

    def __init__(self, meters: Meters) -> None:
        super().__init__()
        self._meters = meters

    def __missing__(
        self, key: tuple[str, str, int | None, str]
    ) -> tuple[Histogram, Histogram, Histogram]:
        method, route, status, error = key
        code = "" if status is None else str(status) if 100 <= status <= 999 else "_other"
        found = (
            self._meters.histogram(catalogue.HTTP_DURATION, method, route, code, error),
            self._meters.histogram(catalogue.HTTP_REQUEST_SIZE, method, route, code),
            self._meters.histogram(catalogue.HTTP_RESPONSE_SIZE, method, route, code),
        )
        if len(self) < catalogue.HTTP_DURATION.limit:
            self[key] = found
        return found


def _count_failure(meters: Meters, exchange: Exchange) -> None:
    if exchange.disconnected:
        meters.counter(catalogue.HTTP_DISCONNECTS, exchange.route).add()
    elif exchange.exception is not None:
        meters.counter(catalogue.HTTP_EXCEPTIONS, exchange.route, exchange.error_type).add()


def late_exceptions(meters: Meters) -> Callable[[Exchange, Exception], None]:
    """What is told of exceptions after the last byte: they change no response, and are counted."""

    def count(exchange: Exchange, error: Exception) -> None:
        name = qualified_name(type(error))
        meters.counter(catalogue.HTTP_EXCEPTIONS, exchange.route, name).add()

    return count
