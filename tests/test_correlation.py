"""The request's ids in the app's own log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

import fastobs
from tests.driving import call

Observed = Callable[..., Any]


@pytest.mark.anyio
async def test_a_structlog_line_within_a_request_has_its_ids(observed: Observed) -> None:
    """The same as the answer; what the line says itself stays."""
    app = FastAPI()
    lines: list[Any] = []

    @app.get("/")
    def endpoint() -> None:
        lines.append(fastobs.add_trace_context(None, "info", {"event": "x", "request_id": "mine"}))

    observed(app)

    answer = await call(app, "/")

    (line,) = lines
    assert line["trace_id"] == answer.headers["x-trace-id"]
    assert len(line["span_id"]) == 16
    assert line["request_id"] == "mine"


def test_outside_a_request_a_structlog_line_is_left_alone() -> None:
    """There are no ids to add."""
    assert fastobs.add_trace_context(None, "info", {"event": "x"}) == {"event": "x"}


@pytest.mark.anyio
async def test_a_record_of_the_standard_library_has_them_too(observed: Observed) -> None:
    """Empty outside a request, so that a format may always name them."""
    app = FastAPI()
    records: list[Any] = []

    @app.get("/")
    async def endpoint() -> None:
        record = logging.makeLogRecord({})
        assert fastobs.TraceContextFilter().filter(record)
        records.append(record)

    observed(app)

    answer = await call(app, "/", headers={"x-request-id": "r-1"})
    outside: Any = logging.makeLogRecord({})
    fastobs.TraceContextFilter().filter(outside)

    (record,) = records
    assert (record.trace_id, record.request_id) == (answer.headers["x-trace-id"], "r-1")
    assert (outside.trace_id, outside.span_id, outside.request_id) == ("", "", "")
