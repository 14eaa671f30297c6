"""The way of a request through the middleware."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastobs import catalogue, current
from fastobs._exchange import Exchange, Finish, Signal
from fastobs._middleware import Inmost, Middleware, Passage
from fastobs._routes import Routes
from fastobs.cells import Meters
from tests.driving import Clock, call, scope, values

Observed = Callable[..., Any]


class Told:
    """A signal that remembers what it was told."""

    def __init__(self) -> None:
        self.closed: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> Finish:
        return self.closed.append

    @property
    def only(self) -> Exchange:
        assert len(self.closed) == 1
        return self.closed[0]


def around(app: ASGIApp, *signals: Signal, clock: Clock | None = None, **more: Any) -> Middleware:
    return Middleware(
        app,
        signals=signals,
        routes=Routes(app),
        pages=more.pop("pages", {}),
        excluded=more.pop("excluded", ()),
        sockets=more.pop("sockets", lambda change: None),
        started=more.pop("started", lambda: None),
        clock=clock or Clock(),
        **more,
    )


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1234)
    return path


@pytest.mark.anyio
async def test_duration_ends_with_the_last_byte_not_with_the_background_task(told: Told) -> None:
    """What happens after the response is complete is not part of the exchange."""
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.now += 0.25
        await PlainTextResponse("ok")(scope, receive, send)
        clock.now += 60.0

    await call(around(app, told, clock=clock))

    assert told.only.duration == 0.25


@pytest.mark.anyio
async def test_a_stream_lasts_until_its_last_chunk(told: Told) -> None:
    """Headers and early chunks do not end an exchange; all bytes are counted."""
    clock = Clock()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            clock.now += 0.5
            yield b"12345"

    await call(around(StreamingResponse(chunks()), told, clock=clock))

    assert (told.only.duration, told.only.response_bytes) == (2.0, 20)


@pytest.mark.anyio
async def test_an_exchange_with_trailers_ends_with_them(told: Told) -> None:
    """The body's last message is not the last message when trailers were announced."""
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        assert not told.closed
        clock.now += 1.0
        await send({"type": "http.response.trailers", "headers": []})

    await call(around(app, told, clock=clock))

    assert told.only.duration == 1.0


@pytest.mark.anyio
async def test_a_file_that_the_server_sends_ends_the_exchange_and_counts_its_size(
    told: Told, file: Path
) -> None:
    """http.response.pathsend has no body, but the client gets one."""
    await call(around(FileResponse(file), told), extensions={"http.response.pathsend": {}})

    assert (told.only.status, told.only.response_bytes) == (200, 1234)


@pytest.mark.anyio
async def test_the_duration_includes_the_time_the_server_takes_to_send(told: Told) -> None:
    """A slow client is part of what the user waits for."""
    clock = Clock()

    def slow(message: Message) -> None:
        clock.now += 0.1

    await call(around(answer_ok, told, clock=clock), on_send=slow)

    assert told.only.duration == pytest.approx(0.2)
    assert told.only.answered == told.only.started


@pytest.mark.anyio
async def test_an_answer_to_head_has_no_bytes(told: Told) -> None:
    """Most apps hand over the body that a GET would get; servers send none of it."""
    await call(around(answer_ok, told), method="HEAD")

    assert told.only.response_bytes == 0


@pytest.mark.anyio
async def test_request_bytes_are_those_that_arrived(told: Told) -> None:
    """Chunks without a Content-Length are counted as they are read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await PlainTextResponse(str(len(body)))(scope, receive, send)

    answer = await call(around(app, told), "/", "POST", body=[b"abc", b"de"])

    assert (answer.body, told.only.request_bytes) == (b"5", 5)


@pytest.mark.anyio
async def test_an_unhandled_exception_is_one_500_and_reaches_the_server_unchanged(
    told: Told,
) -> None:
    """Starlette answers, re-raises, and the exchange has the exception's class."""
    boom = LookupError("secret")

    async def endpoint(request: Request) -> None:
        raise boom

    app = Starlette(routes=[Route("/", endpoint)])

    answer = await call(around(app, told))

    assert answer.raised is boom
    assert (told.only.status, told.only.error_type) == (500, "LookupError")


@pytest.mark.anyio
async def test_an_exception_behind_base_http_middleware_is_named_too(told: Told) -> None:
    """The endpoint runs in another task there."""

    async def endpoint(request: Request) -> None:
        raise KeyError

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    await call(around(app, told))

    assert (told.only.status, told.only.error_type) == (500, "KeyError")


@pytest.mark.anyio
async def test_an_exception_that_a_handler_turns_into_a_5xx_is_named(told: Told) -> None:
    """Operators want the reason, not only the number."""

    async def endpoint(request: Request) -> None:
        raise ConnectionRefusedError

    async def unavailable(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("later", 503)

    app = Starlette(
        routes=[Route("/", endpoint)], exception_handlers={ConnectionRefusedError: unavailable}
    )

    answer = await call(around(app, told))

    assert answer.raised is None
    assert (told.only.status, told.only.error_type) == (503, "ConnectionRefusedError")


@pytest.mark.anyio
async def test_a_deliberate_5xx_is_named_by_its_status(told: Told) -> None:
    """HTTPException is an answer, not a failure of the code."""
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> None:
        raise HTTPException(503)

    await call(around(app, told))

    assert (told.only.error_type, told.only.exception) == ("503", None)


@pytest.mark.anyio
async def test_an_exception_after_the_response_began_keeps_the_status_that_was_sent(
    told: Told,
) -> None:
    """The client saw a 200 that broke off."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        raise OverflowError

    app = Starlette(routes=[Route("/", lambda request: StreamingResponse(chunks()))])

    answer = await call(around(app, told))

    assert isinstance(answer.raised, OverflowError)
    assert (told.only.status, told.only.error_type) == (200, "OverflowError")


@pytest.mark.anyio
async def test_an_app_that_does_not_answer_is_a_500(told: Told) -> None:
    """The server says so to the client, and we to the operator."""

    async def silent(scope: Scope, receive: Receive, send: Send) -> None: ...

    await call(around(silent, told))

    assert (told.only.status, told.only.error_type) == (500, "incomplete_response")


@pytest.mark.anyio
async def test_a_cancelled_request_is_counted_once_and_the_cancellation_goes_on(
    told: Told,
) -> None:
    """Neither swallowed nor taken for an error of the app."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    answer = await call(around(app, told))

    assert isinstance(answer.raised, asyncio.CancelledError)
    assert (told.only.status, told.only.error_type) == (None, "cancelled")


@pytest.mark.anyio
async def test_a_client_that_leaves_while_a_stream_runs_is_no_error_of_ours(told: Told) -> None:
    """ASGI 2.4: the server's send raises OSError."""

    def gone(message: Message) -> None:
        if message.get("body") == b"b":
            raise BrokenPipeError

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    app = Starlette(routes=[Route("/", lambda request: StreamingResponse(chunks()))])

    await call(around(app, told), on_send=gone)

    assert (told.only.status, told.only.error_type) == (200, "client_disconnect")
    assert told.only.exception is None


@pytest.mark.anyio
async def test_a_client_that_leaves_before_its_body_is_complete_is_counted(told: Told) -> None:
    """The app reads http.disconnect and gives up; nothing was sent, so there is no status."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    async def left() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    with pytest.raises(ClientDisconnect):
        await around(app, told)(scope("/", "POST"), left, send)

    assert (told.only.status, told.only.error_type) == (None, "client_disconnect")


@pytest.mark.anyio
async def test_signals_that_raise_do_not_reach_the_request(
    contained_errors: None, meters: Meters
) -> None:
    """The response is the same, the others are told, and the error is counted by component."""
    told = Told()

    def bad_begin(exchange: Exchange) -> Finish:
        raise ZeroDivisionError

    def bad_finish(exchange: Exchange) -> Finish:
        def finish(ended: Exchange) -> None:
            raise ZeroDivisionError

        return finish

    answer = await call(around(answer_ok, bad_begin, bad_finish, told))

    assert (answer.status, answer.body) == (200, b"ok")
    assert told.only.status == 200
    assert values(meters, catalogue.SELF_ERRORS) == {("test_middleware",): 2.0}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("hook", "status"), [("_note", 503), ("_is_last", 200)], ids=["start", "last message"]
)
async def test_a_bug_of_the_middleware_itself_does_not_reach_the_request(
    hook: str,
    status: int,
    file: Path,
    contained_errors: None,
    monkeypatch: pytest.MonkeyPatch,
    meters: Meters,
) -> None:
    """The message is passed on as it came."""

    def bug(self: Any, *message: Message) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"fastobs._middleware.Passage.{hook}", bug)

    answer = await call(
        around(FileResponse(file, status), Told()), extensions={"http.response.pathsend": {}}
    )

    assert (answer.status, answer.messages[-1]["type"]) == (status, "http.response.pathsend")
    assert values(meters, catalogue.SELF_ERRORS) == {("request",): 1.0}


@pytest.mark.anyio
async def test_the_exchange_is_current_inside_the_request_and_gone_after_it() -> None:
    """Also in background tasks, which run when the exchange is closed."""
    seen: list[Exchange | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current())
        await PlainTextResponse("ok")(scope, receive, send)
        seen.append(current())

    await call(around(app))

    assert isinstance(seen[0], Exchange)
    assert (seen[1], current()) == (None, None)


@pytest.mark.anyio
@pytest.mark.parametrize(("header", "count"), [("x-wish", 1), ("x-other", 0)])
async def test_a_signal_on_request_is_told_when_its_header_is_there(
    header: str, count: int, told: Told
) -> None:
    """After the others, so that what it does slows none of them down."""
    order: list[str] = []

    def first(exchange: Exchange) -> None:
        order.append("first")

    def wish(exchange: Exchange) -> Finish:
        order.append("wish")
        return told(exchange)

    await call(around(answer_ok, first, requested={b"x-wish": wish}), headers={header: "1"})

    assert order == ["first", *["wish"] * count]
    assert len(told.closed) == count


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("seconds", "noted", "status", "count"),
    [(0.9, False, 200, 0), (1.0, False, 200, 1), (0.0, True, 200, 1), (0.0, False, 429, 1)],
    ids=["ordinary", "slow", "noted", "rejected"],
)
async def test_the_ends_are_told_of_what_there_is_something_to_tell_of(
    seconds: float, noted: bool, status: int, count: int
) -> None:
    """Most exchanges are fast and ordinary, and pay for none of them."""
    ended: list[Exchange] = []
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.now += seconds
        exchange = current()
        assert exchange is not None
        exchange.noted = noted
        await PlainTextResponse("ok", status)(scope, receive, send)

    await call(around(app, ends=[ended.append], patience=1.0, clock=clock))

    assert len(ended) == count


@pytest.mark.anyio
async def test_headers_that_signals_add_go_out_without_changing_the_apps_list() -> None:
    """An app may send the same list with every response."""
    constant = [(b"a", b"1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": constant})
        await send({"type": "http.response.body"})

    def signal(exchange: Exchange) -> None:
        exchange.headers.append((b"x-ours", b"2"))

    answer = await call(around(app, signal))

    assert answer.headers == {"a": "1", "x-ours": "2"}
    assert constant == [(b"a", b"1")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "seen"),
    [("/health", False), ("/internal/x", False), ("/internals", True), ("/healthy", True)],
)
async def test_excluded_paths_are_passed_on_unseen(path: str, seen: bool, told: Told) -> None:
    """Exactly, or by prefix with a star."""
    app = around(answer_ok, told, excluded=["/health", "/internal/*"])

    answer = await call(app, path)

    assert (answer.status, bool(told.closed)) == (200, seen)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/tree", "/tree/", "/tree/leaf"])
async def test_our_pages_answer_at_their_path_and_below_it_where_they_say_so(
    path: str, told: Told
) -> None:
    """Without a redirect, and unmeasured."""
    page = PlainTextResponse("ours")
    app = around(answer_ok, told, pages={"/metrics": page, "/tree/*": page})

    answer = await call(app, path)

    assert (answer.body, told.closed) == (b"ours", [])


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/metricsfoo", "/metrics/daily", "/treefoo"])
async def test_a_path_that_only_begins_like_ours_is_the_apps(path: str, told: Told) -> None:
    """The app may well have pages about metrics of its own."""
    page = PlainTextResponse("ours")

    answer = await call(around(answer_ok, told, pages={"/metrics": page, "/tree/*": page}), path)

    assert (answer.body, len(told.closed)) == (b"ok", 1)


@pytest.mark.anyio
async def test_our_pages_are_found_behind_a_proxys_prefix() -> None:
    """The prefix is the proxy's; servers put it in front of the path."""
    app = around(answer_ok, pages={"/metrics": PlainTextResponse("ours")})

    answer = await call(app, "/api/metrics", root_path="/api")

    assert answer.body == b"ours"


@pytest.mark.anyio
async def test_an_app_mounted_in_an_observed_one_is_seen_once(told: Told) -> None:
    """By the outer one."""
    inner = Told()

    await call(around(around(answer_ok, inner), told))

    assert (len(told.closed), len(inner.closed)) == (1, 0)


@pytest.mark.anyio
async def test_what_cannot_be_given_back_is_contained(
    contained_errors: None, meters: Meters
) -> None:
    """The response is out already."""

    def signal(exchange: Exchange) -> None:
        exchange.leaving.append(lambda: 1 // 0)

    answer = await call(around(answer_ok, signal))

    assert answer.status == 200
    assert values(meters, catalogue.SELF_ERRORS) == {("request",): 1.0}


async def answer_a_copy(scope: Scope, receive: Receive, send: Send) -> None:
    await Inmost(answer_ok)({**scope}, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize("inner", [answer_ok, answer_a_copy])
async def test_a_request_leaves_nothing_for_the_garbage_collector(inner: ASGIApp) -> None:
    """A cycle per request would cost more than everything else that we do."""
    app = around(inner, lambda exchange: None)
    gc.disable()
    try:
        await call(app)

        assert not [
            each
            for each in gc.get_objects()
            if isinstance(each, Passage) and each.middleware is app
        ]
    finally:
        gc.enable()


def test_websockets_have_their_own_series_and_touch_no_http_series(
    observed: Observed, meters: Meters
) -> None:
    """A connection is not a request."""
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(values(meters, catalogue.HTTP_WEBSOCKETS).get((), 0.0))
        await socket.close()

    observed(app)

    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        assert socket.receive_json() == 1.0

    assert values(meters, catalogue.HTTP_WEBSOCKETS) == {}
    assert values(meters, catalogue.HTTP_DURATION) == {}


def test_background_tasks_are_outside_the_gauge_of_active_requests(
    observed: Observed, meters: Meters
) -> None:
    """The client has its answer."""
    app = FastAPI()
    active: list[dict[tuple[str, ...], float]] = []

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> None:
        active.append(values(meters, catalogue.HTTP_ACTIVE))
        tasks.add_task(lambda: active.append(values(meters, catalogue.HTTP_ACTIVE)))

    observed(app)

    with TestClient(app) as client:
        client.get("/")

    assert active == [{("GET",): 1.0}, {}]


@pytest.mark.anyio
async def test_what_starts_with_the_app_is_told_once_before_the_first_request() -> None:
    """Even where no lifespan is run."""
    started: list[str] = []
    app = around(answer_ok, started=lambda: started.append("now"))

    await call(app)
    await call(app)

    assert started == ["now"]


def test_what_starts_with_the_app_is_told_when_its_own_start_up_is_complete() -> None:
    """So the first request does not pay for it."""
    order: list[str] = []

    async def lifespan_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            order.append("app")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    with TestClient(around(lifespan_app, started=lambda: order.append("fastobs"))):
        pass

    assert order == ["app", "fastobs"]


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["complete", "failed"])
async def test_what_ends_with_the_app_is_told_after_its_own_shut_down_and_before_the_server(
    end: str, contained_errors: None
) -> None:
    """Servers may end the process right after it. In a thread, for it waits; its errors are ours."""
    order: list[str] = []
    threads: list[int] = []

    async def lifespan_app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append("app")
        await send({"type": f"lifespan.shutdown.{end}"})

    async def server(message: Message) -> None:
        order.append("server")

    def ended() -> None:
        threads.append(threading.get_ident())
        order.append("fastobs")
        raise OSError

    await around(lifespan_app, ended=ended)({"type": "lifespan"}, None, server)  # type: ignore[arg-type]

    assert order == ["app", "fastobs", "server"]
    assert threads != [threading.get_ident()]


@pytest.mark.anyio
async def test_other_kinds_of_scope_are_passed_on() -> None:
    """Servers may invent some."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await around(app)({"type": "webtransport"}, None, None)  # type: ignore[arg-type]

    assert seen == ["webtransport"]


@pytest.mark.anyio
@pytest.mark.parametrize("answers", [True, False])
async def test_an_exchange_that_is_over_keeps_nothing_of_the_apps(
    answers: bool, told: Told, contained_errors: None
) -> None:
    """Neither its state nor the server's functions, which have the scope, too; what it is called stays."""

    class Session:
        pass

    sessions = []
    app = FastAPI()

    @app.get("/items/{item}")
    async def look(request: Request) -> str:
        request.state.session = Session()
        sessions.append(ref(request.state.session))
        if not answers:
            raise ZeroDivisionError
        return "ok"

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def goes(message: Message) -> None:
            await send(message)
            assert scope

        await around(app, told)(scope, receive, goes)

    with suppress(ZeroDivisionError):
        await call(server, "/items/3")
    gc.collect()

    (session,) = sessions
    assert session() is None
    assert (told.only.route, told.only.path) == ("/items/{item}", "/items/3")
    assert told.only.error_type == ("" if answers else "ZeroDivisionError")


@pytest.mark.anyio
async def test_what_comes_after_the_app_has_returned_is_as_if_the_client_had_gone() -> None:
    """Whoever has kept the functions of a request may still call them."""
    kept: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.extend((receive, send))
        await answer_ok(scope, receive, send)

    await call(around(app))
    receive, send = kept

    assert await receive() == {"type": "http.disconnect"}
    with pytest.raises(OSError, match="after the app had returned"):
        await send({"type": "http.response.body", "body": b"more"})
    with pytest.raises(OSError, match="after the app had returned"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
