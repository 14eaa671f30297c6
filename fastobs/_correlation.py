"""The request's ids in other people's log lines: offered, never installed."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from ._exchange import current

__all__ = ["TraceContextFilter", "add_trace_context"]


def add_trace_context(
    logger: Any,  # noqa: ARG001 - structlog's signature
    method_name: str,  # noqa: ARG001
    event_dict: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """A structlog processor: adds ``trace_id``, ``span_id`` and ``request_id`` within a request.

    Fields that the line has already stay as they are.
    """
    exchange = current()
    if exchange is not None:
        event_dict.setdefault("trace_id", exchange.trace_id)
        event_dict.setdefault("span_id", exchange.span_id)
        event_dict.setdefault("request_id", exchange.request_id)
    return event_dict


class TraceContextFilter(logging.Filter):
    """A filter of the standard library: gives every record ``trace_id``, ``span_id``, ``request_id``.

    They are empty outside a request, so that a format string may always name them. It lets every
    record through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        exchange = current()
        record.trace_id = "" if exchange is None else exchange.trace_id
        record.span_id = "" if exchange is None else exchange.span_id
        record.request_id = "" if exchange is None else exchange.request_id
        return True
