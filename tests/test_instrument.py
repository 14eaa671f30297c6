"""The one call."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY, make_asgi_app
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fastobs import ConfigError, Settings, catalogue, current, instrument, limiter
from fastobs._middleware import Middleware
from fastobs.cells import Meters
from tests.driving import call, values
from tests.parts import eventually

Observed = Callable[..., Any]


def seen(meters: Meters) -> dict[tuple[str, ...], float]:
    return values(meters, catalogue.HTTP_DURATION)


@pytest.mark.anyio
async def test_an_app_is_observed_whatever_is_added_before_or_after(
    observed: Observed, meters: Meters
) -> None:
    """Routes, routers and middleware; the middleware's time is inside."""
    app = FastAPI()
    app.get("/before")(lambda: 1)
    observed(app)
    app.get("/after/{x}")(lambda x: x)
    router = APIRouter()
    router.get("/routed")(lambda: 2)
    app.include_router(router, prefix="/api")

    async def dispatch(request: Request, call_next: Any) -> Any:
        if request.url.path == "/early":
            return PlainTextResponse("early", 418)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    for path in ("/before", "/after/1", "/api/routed", "/early"):
        await call(app, path)

    assert seen(meters) == {
        ("GET", "/before", "200", ""): 1.0,
        ("GET", "/after/{x}", "200", ""): 1.0,
        ("GET", "/api/routed", "200", ""): 1.0,
        ("GET", "", "418", ""): 1.0,
    }


def test_an_app_may_be_instrumented_in_its_lifespan(observed: Observed, meters: Meters) -> None:
    """Its middleware stack is built by then."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        observed(app)
        yield

    app = FastAPI(lifespan=lifespan)
    app.get("/x")(lambda: 1)

    with TestClient(app) as client:
        client.get("/x")

    assert seen(meters) == {("GET", "/x", "200", ""): 1.0}


@pytest.mark.anyio
async def test_plain_starlette_is_observed_as_well(observed: Observed, meters: Meters) -> None:
    """fastobs needs ASGI, not FastAPI."""
    app = Starlette(routes=[Route("/x/{y}", lambda request: PlainTextResponse("x"))])
    observed(app)

    answer = await call(app, "/x/1")

    assert answer.status == 200
    assert seen(meters) == {("GET", "/x/{y}", "200", ""): 1.0}
    assert (await call(app, "/metrics")).status == 200


@pytest.mark.anyio
async def test_a_second_call_for_the_same_app_changes_nothing(
    observed: Observed, meters: Meters
) -> None:
    """It answers with the handle of the first."""
    app = FastAPI()
    handle = observed(app)

    assert instrument(app, slow={"after": 9}) is handle
    await call(app, "/")
    assert sum(seen(meters).values()) == 1


@pytest.mark.anyio
async def test_two_apps_in_one_process_share_their_series(
    observed: Observed, meters: Meters
) -> None:
    """And each has an endpoint that shows both."""
    one, two = FastAPI(), FastAPI()
    one.get("/one")(lambda: 1)
    two.get("/two")(lambda: 2)
    observed(one)
    observed(two)

    await call(one, "/one")
    await call(two, "/two")

    body = (await call(one, "/metrics")).body
    assert body == (await call(two, "/metrics")).body or b"/two" in body
    assert set(seen(meters)) == {("GET", "/one", "200", ""), ("GET", "/two", "200", "")}


@pytest.mark.anyio
async def test_uninstrument_restores_the_app(meters: Meters) -> None:
    """The stack, the method, the state, FastAPI's telemetry, prometheus_client's registry."""
    app = FastAPI()
    app.get("/")(lambda: 1)
    telemetry = dict(app._telemetry)
    collectors = set(REGISTRY._collector_to_names)

    handle = instrument(app)
    await call(app, "/")
    assert type(app.middleware_stack) is Middleware
    handle.uninstrument()

    assert type(app.middleware_stack) is not Middleware
    assert "build_middleware_stack" not in app.__dict__
    assert not hasattr(app.state, "fastobs")
    assert app._telemetry == telemetry
    assert set(REGISTRY._collector_to_names) == collectors
    await call(app, "/")
    assert sum(seen(meters).values()) == 1
    handle.uninstrument()


@pytest.mark.anyio
async def test_uninstrument_leaves_alone_what_was_wrapped_around_us(meters: Meters) -> None:
    """Another tool may have replaced the method after us; its function stays, ours lets through."""
    app = FastAPI()
    handle = instrument(app)
    ours = app.build_middleware_stack
    theirs = lambda: ours()  # noqa: E731, PLW0108
    app.__dict__["build_middleware_stack"] = theirs

    handle.uninstrument()

    assert app.build_middleware_stack is theirs
    await call(app, "/")
    assert seen(meters) == {}


def test_uninstrument_gives_back_what_was_there_before_us() -> None:
    """A method that somebody had replaced already."""
    app = FastAPI()
    theirs = app.build_middleware_stack
    app.__dict__["build_middleware_stack"] = theirs

    instrument(app).uninstrument()

    assert app.__dict__["build_middleware_stack"] is theirs


@pytest.mark.parametrize("how", ["route", "mount", "router"])
def test_a_path_that_the_app_has_already_is_refused(how: str) -> None:
    """The message names the setting that moves ours."""
    app = FastAPI()
    if how == "route":
        app.get("/metrics")(lambda: 1)
    elif how == "mount":
        app.mount("/metrics", make_asgi_app())
    else:
        router = APIRouter()
        router.get("/metrics")(lambda: 1)
        app.include_router(router)

    with pytest.raises(ConfigError, match=r"already has a route at '/metrics'.*metrics\.path"):
        instrument(app)

    assert not hasattr(app.state, "fastobs")


@pytest.mark.anyio
async def test_a_path_that_the_app_takes_later_is_the_apps(
    observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    """It answered before fastobs came, and nobody reads a refusal once requests are on their way."""
    app = FastAPI()
    observed(app)
    app.get("/metrics")(lambda: "theirs")

    answer = await call(app, "/metrics")

    assert answer.body == b'"theirs"'
    assert "'/metrics', which answers instead of ours. Set metrics.path" in caplog.text
    assert (await call(app, "/_fastobs/livez")).status == 200


@pytest.mark.anyio
async def test_what_the_app_has_below_our_path_is_the_apps(observed: Observed) -> None:
    """/metrics/daily is nobody's but the app's."""
    app = FastAPI()
    app.get("/metrics/daily")(lambda: "theirs")
    observed(app)

    assert (await call(app, "/metrics/daily")).body == b'"theirs"'
    assert (await call(app, "/metrics/")).status == 200


class Copying:
    """Hands on a copy of the scope, as ASGI asks of a middleware that changes something in it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "path": scope["path"].removeprefix("/v1")}, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [FastAPI, Starlette])
@pytest.mark.parametrize("when", ["before", "running"])
async def test_a_middleware_that_copies_the_scope_hides_no_route(
    kind: type[Starlette], when: str, observed: Observed, meters: Meters
) -> None:
    """Routing says in the copy what it has found; the path is the one that was requested."""
    inner = Starlette(routes=[Route("/in/{j}", PlainTextResponse("in"))])
    app = kind(routes=[Route("/x/{i}", PlainTextResponse("x")), Mount("/m", inner)])
    app.add_middleware(Copying)
    app.add_middleware(Copying)
    if when == "running":
        app.middleware_stack = app.build_middleware_stack()
    paths: list[str] = []
    handle = observed(app)

    for path in ("/v1/x/1", "/m/in/2", "/nope"):
        await call(app, path, on_send=lambda _: paths.append(current().path))  # type: ignore[union-attr]

    assert {route for _, route, *_ in seen(meters)} == {"/x/{i}", "/m/in/{j}", ""}
    assert set(paths) == {"/v1/x/1", "/m/in/2", "/nope"}
    handle.uninstrument()
    assert (await call(app, "/v1/x/1")).body == b"x"


@pytest.mark.anyio
async def test_an_app_with_an_endpoint_of_its_own_keeps_it(observed: Observed) -> None:
    """It shows our metrics through prometheus_client's default registry."""
    app = FastAPI()
    app.mount("/metrics", make_asgi_app())
    observed(app, metrics={"path": None})
    app.get("/x")(lambda: 1)
    await call(app, "/x")

    answer = await call(app, "/metrics/")

    assert b"http_server_request_duration_seconds_count{" in answer.body


def test_an_app_that_is_gone_is_gone(meters: Meters) -> None:
    """A test-suite makes one for each of its tests."""
    gone: list[weakref.ref[FastAPI]] = []

    def make() -> None:
        app = FastAPI()
        gone.append(weakref.ref(app))

        @app.get("/x")
        def endpoint() -> int:
            return 1

        instrument(app).check("its own", lambda: app.title)
        with TestClient(app) as client:
            assert client.get("/x").status_code == 200
            assert client.get("/_fastobs/readyz").status_code == 200

    for _ in range(3):
        make()

    # The watchdog may be looking at one.
    eventually(lambda: gc.collect() >= 0 and all(app() is None for app in gone))
    meters.refresh()


def test_what_is_no_app_is_refused() -> None:
    """With the remedy for the usual reason."""
    wrapped = BaseHTTPMiddleware(FastAPI(), dispatch=None)

    with pytest.raises(ConfigError, match=r"not BaseHTTPMiddleware\. .* the application inside"):
        instrument(wrapped)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_every_concern_can_be_switched_off(observed: Observed, meters: Meters) -> None:
    """An app with all sections off is let through as it is."""
    app = FastAPI()
    off = dict.fromkeys(Settings.model_fields.keys() - {"service"})
    observed(app, **off)
    app.get("/x")(lambda: 1)

    answer = await call(app, "/x")

    assert answer.status == 200
    assert "x-trace-id" not in answer.headers
    assert seen(meters) == {}
    assert (await call(app, "/metrics")).status == 404


@pytest.mark.anyio
async def test_probe_and_documentation_paths_are_excluded_by_default(
    observed: Observed, meters: Meters
) -> None:
    """They would drown what users do."""
    app = FastAPI()
    app.get("/healthz")(lambda: 1)
    observed(app)

    for path in ("/healthz", "/docs", "/openapi.json"):
        assert (await call(app, path)).status == 200

    assert seen(meters) == {}


@pytest.mark.anyio
async def test_what_alerts_read_exists_from_the_first_scrape(observed: Observed) -> None:
    """A counter that is born with its first event has no rate for it."""
    app = FastAPI()
    observed(app)

    text = (await call(app, "/metrics")).body.decode()

    for line in (
        'fastobs_rate_limited_requests_total{http_route="",source="limiter"} 0.0',
        'fastobs_instrumentation_errors_total{component="request"} 0.0',
        'fastobs_telemetry_dropped_total{signal="logs",reason="queue_full"} 0.0',
        "fastobs_build_info{",
        'target_info{service_name="FastAPI",service_version="0.1.0"} 1.0',
    ):
        assert line in text


@pytest.mark.anyio
async def test_floods_of_unknown_paths_and_methods_make_no_series(
    observed: Observed, meters: Meters
) -> None:
    """One per known method and status, however many strangers knock."""
    app = FastAPI()
    observed(app)

    for number in range(500):
        await call(app, f"/wp-admin/{number}", "GET" if number % 2 else f"M{number}")

    assert seen(meters) == {
        ("GET", "", "404", ""): 250.0,
        ("_OTHER", "", "404", ""): 250.0,
    }


def test_status_is_text_for_people(observed: Observed) -> None:
    """What is watched, and what could be."""
    assert isinstance(observed(FastAPI()).status(), str)


def test_status_names_routes_without_a_limit(
    observed: Observed,
) -> None:
    """And only those that one might decide on: no documentation, no paths that we do not look at, no
    WebSockets."""
    app = FastAPI(docs_url="/manual")
    for path in ("/items/{item}", "/internal/a", "/ping"):
        app.get(path)(lambda: 1)
    app.websocket("/ws")(lambda socket: None)
    handle = observed(app, metrics={"exclude": ["/ping", "/internal*"]})
    limiter("logins").decision(True)
    _, told = handle.status().split("routes that no limiter decided on\n")

    assert told.splitlines()[:2] == [
        "  /items/{item}: no decision",
        "  There is a limiter, but it was never asked for these. slowapi's middleware passes over what",
    ]


def test_without_limits_status_accuses_no_route(observed: Observed) -> None:
    """Nothing is known of decisions then."""
    handle = observed(FastAPI(), limits=None)
    limiter("logins").decision(True)

    assert "no limiter" not in handle.status()
