"""The http family."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from tests.driving import call, values

Observed = Callable[..., Any]


@pytest.mark.anyio
async def test_each_answer_is_counted_with_its_exact_status(
    observed: Observed, meters: Meters
) -> None:
    """A 429 is not a 4xx among others."""
    app = FastAPI()

    @app.get("/answer/{status}")
    async def answer(status: int) -> Response:
        if status == 429:
            raise HTTPException(429)
        return JSONResponse({}, status)

    observed(app)
    for status in (200, 201, 204, 404, 429, 503):
        await call(app, f"/answer/{status}")
    await call(app, "/answer/1", "PUT")

    assert values(meters, catalogue.HTTP_DURATION) == {
        ("GET", "/answer/{status}", "200", ""): 1.0,
        ("GET", "/answer/{status}", "201", ""): 1.0,
        ("GET", "/answer/{status}", "204", ""): 1.0,
        ("GET", "/answer/{status}", "404", ""): 1.0,
        ("GET", "/answer/{status}", "429", ""): 1.0,
        ("GET", "/answer/{status}", "503", "503"): 1.0,
        ("PUT", "/answer/{status}", "405", ""): 1.0,
    }


@pytest.mark.anyio
async def test_an_impossible_status_is_folded(observed: Observed, meters: Meters) -> None:
    """An app may send any number."""
    app = FastAPI()

    async def odd(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 70000, "headers": []})
        await send({"type": "http.response.body"})

    app.mount("/odd", odd)
    observed(app)

    await call(app, "/odd/x")

    ((_, _, status, _),) = values(meters, catalogue.HTTP_DURATION)
    assert status == "_other"


@pytest.mark.anyio
async def test_sizes_are_the_bytes_that_went_through(observed: Observed, meters: Meters) -> None:
    """Not what a header claims."""
    app = FastAPI()

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> Response:
        return Response(b"x" * 250)

    observed(app)

    await call(
        app, "/echo", "POST", headers={"content-type": "application/json"}, body=[b'{"a":', b"1}"]
    )

    labels = ("POST", "/echo", "200")
    assert meters.histogram(catalogue.HTTP_REQUEST_SIZE, *labels).sum == 7
    assert meters.histogram(catalogue.HTTP_RESPONSE_SIZE, *labels).sum == 250


@pytest.mark.anyio
async def test_a_request_without_a_body_is_not_one_of_no_bytes(
    observed: Observed, meters: Meters
) -> None:
    """Most have none; as zeros they would be the median of every route."""
    app = FastAPI()
    app.get("/")(lambda: 1)
    observed(app)

    await call(app, "/")

    assert meters.histogram(catalogue.HTTP_REQUEST_SIZE, "GET", "/", "200").count == 0
    assert meters.histogram(catalogue.HTTP_RESPONSE_SIZE, "GET", "/", "200").count == 1


@pytest.mark.anyio
async def test_exceptions_are_counted_by_route_and_class(
    observed: Observed, meters: Meters
) -> None:
    """The text of an exception is nobody's label."""
    app = FastAPI()

    @app.get("/boom/{x}")
    async def boom(x: str) -> None:
        raise KeyError(x)

    observed(app)

    for x in "ab":
        await call(app, f"/boom/{x}")

    assert values(meters, catalogue.HTTP_EXCEPTIONS) == {("/boom/{x}", "KeyError"): 2.0}
    assert values(meters, catalogue.HTTP_DURATION) == {("GET", "/boom/{x}", "500", "KeyError"): 2.0}


@pytest.mark.anyio
async def test_a_client_that_leaves_is_counted_apart(observed: Observed, meters: Meters) -> None:
    """Not as an error of ours."""
    app = FastAPI()
    app.get("/")(lambda: 1)
    observed(app)

    def gone(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    await call(app, "/", on_send=gone)

    assert values(meters, catalogue.HTTP_DISCONNECTS) == {("/",): 1.0}
    assert values(meters, catalogue.HTTP_EXCEPTIONS) == {}
    assert set(values(meters, catalogue.HTTP_DURATION)) == {
        ("GET", "/", "200", "client_disconnect")
    }


@pytest.mark.anyio
@pytest.mark.parametrize("middleware", [False, True], ids=["", "behind BaseHTTPMiddleware"])
async def test_exceptions_after_the_last_byte_are_counted(
    middleware: bool, observed: Observed, meters: Meters
) -> None:
    """Of background tasks, and of streams whose end was sent all the same; each once, also a 500."""
    app = FastAPI()

    def fail() -> None:
        raise LookupError

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError

    @app.get("/task")
    async def task(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    app.get("/stream")(lambda: StreamingResponse(broken()))
    app.get("/500")(fail)
    if middleware:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, go_on: go_on(request))
    observed(app)

    raised = [(await call(app, path)).raised for path in ("/task", "/stream", "/500")]

    assert [type(each) for each in raised] == [LookupError, ValueError, LookupError]
    assert values(meters, catalogue.HTTP_EXCEPTIONS) == {
        ("/task", "LookupError"): 1.0,
        ("/stream", "ValueError"): 1.0,
        ("/500", "LookupError"): 1.0,
    }
    # The response was a good one, and stays so.
    assert ("GET", "/task", "200", "") in values(meters, catalogue.HTTP_DURATION)


@pytest.mark.anyio
async def test_what_is_in_flight_returns_to_zero(observed: Observed, meters: Meters) -> None:
    """Also after failures."""
    app = FastAPI()
    seen: list[float] = []

    @app.get("/")
    async def endpoint() -> None:
        seen.append(values(meters, catalogue.HTTP_ACTIVE)["GET",])
        raise ValueError

    observed(app)
    await call(app, "/")

    assert seen == [1.0]
    assert values(meters, catalogue.HTTP_ACTIVE) == {}


@pytest.mark.anyio
async def test_label_sets_above_the_limit_do_not_grow_memory(
    observed: Observed, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the meters nor in the cache in front of them."""
    app = FastAPI()
    observed(app)
    limit = catalogue.HTTP_DURATION.limit

    for number in range(limit + 50):
        app.get(f"/r{number}")(lambda: 1)
    for number in range(limit + 50):
        await call(app, f"/r{number}")

    rows = meters.rows(catalogue.HTTP_DURATION)
    assert len(rows) == limit + 1
    folded = rows[-1]
    assert isinstance(folded, Histogram)
    assert (folded.values, folded.count) == (("GET", "_other", "200", "_other"), 50)
