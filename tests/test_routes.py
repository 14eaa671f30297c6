"""The template of a request's route, whatever declared it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fastobs._routes import Routes
from tests.driving import call, scope


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


def starlette() -> Starlette:
    return Starlette(
        routes=[
            Route("/r/{a}", plain),
            Mount("/m/{b}", routes=[Route("/leaf/{c:int}", plain)]),
        ]
    )


def shop(folder: Path) -> FastAPI:
    """One of everything that declares routes."""
    inner = APIRouter(prefix="/in")
    inner.get("/y/{k}")(lambda k: k)
    middle = APIRouter(prefix="/v1")
    middle.get("/items/{i}")(lambda i: i)
    middle.include_router(inner)

    sub = FastAPI()
    sub.get("/s/{z}")(lambda z: z)
    deep = FastAPI()
    deep.include_router(middle, prefix="/q")
    mounting = APIRouter()
    mounting.mount("/inmount", starlette())

    app = FastAPI()
    app.include_router(middle, prefix="/api")
    app.include_router(middle, prefix="/api2")
    app.include_router(mounting, prefix="/pre")
    app.get("/direct/{d}")(lambda d: d)
    app.router.add_route("/plain/{p}", plain)
    app.router.add_route("/plain-too/{p}", plain)
    app.mount("/sub", sub)
    app.mount("/t/{tenant}", sub)
    app.mount("/deep", deep)
    app.mount("/star", starlette())
    app.mount("/static", StaticFiles(directory=folder))
    app.router.routes.append(Host("other.example", app=starlette()))
    return app


async def template(app: ASGIApp, path: str, method: str = "GET", root_path: str = "") -> str:
    """What `Routes` reads from the scope that the app leaves behind."""
    seen = scope()

    async def remember(inner_scope, receive, send) -> None:
        nonlocal seen
        seen = inner_scope
        await app(inner_scope, receive, send)

    await call(remember, root_path + path, method, root_path=root_path)
    return Routes(app).template(seen)


@pytest.mark.anyio
@pytest.mark.parametrize("root_path", ["", "/proxy"], ids=["direct", "behind a proxy"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/direct/1", "/direct/{d}"),
        ("/api/v1/items/3", "/api/v1/items/{i}"),
        ("/api2/v1/items/3", "/api2/v1/items/{i}"),
        ("/api/v1/in/y/2", "/api/v1/in/y/{k}"),
        ("/plain/1", "/plain/{p}"),
        ("/plain-too/1", "/plain-too/{p}"),
        ("/sub/s/2", "/sub/s/{z}"),
        ("/t/acme/s/2", "/t/{tenant}/s/{z}"),
        ("/deep/q/v1/in/y/1", "/deep/q/v1/in/y/{k}"),
        ("/star/r/1", "/star/r/{a}"),
        ("/star/m/1/leaf/2", "/star/m/{b}/leaf/{c}"),
        ("/pre/inmount/r/1", "/pre/inmount/r/{a}"),
        ("/static/missing.css", "/static/{path}"),
        ("/docs", "/docs"),
        ("/nope", ""),
        ("/sub/nope", ""),
        ("/t/acme/nope", ""),
        ("/star/nope", ""),
        ("/pre/inmount/nope", ""),
        ("/direct/1/", ""),
    ],
)
async def test_the_template_is_the_declared_path_with_all_its_prefixes(
    path: str, expected: str, root_path: str, tmp_path: Path
) -> None:
    """Routers, nested routers, mounts, parametrised mounts; empty when nothing matched."""
    found = await template(shop(tmp_path), path, root_path=root_path)

    assert found == expected


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/direct/1", "/direct/{d}"),
        ("/api/v1/items/3", "/api/v1/items/{i}"),
        ("/sub/s/2", "/sub/s/{z}"),
    ],
)
async def test_a_method_that_is_not_allowed_keeps_the_template(
    path: str, expected: str, tmp_path: Path
) -> None:
    """A 405 is an answer of that route."""
    assert await template(shop(tmp_path), path, "DELETE") == expected


@pytest.mark.anyio
async def test_a_plain_starlette_app_is_read_as_well() -> None:
    """It has no FastAPI scope."""
    app = starlette()

    assert await template(app, "/r/1") == "/r/{a}"
    assert await template(app, "/m/2/leaf/3") == "/m/{b}/leaf/{c}"
    assert await template(app, "/nope") == ""


@pytest.mark.anyio
async def test_a_route_that_is_added_later_is_found() -> None:
    """The table is made again when the app has grown."""
    app = FastAPI()
    routes = Routes(app)
    app.mount("/a", starlette())
    first = scope("/a/r/1")
    await call(lambda s, r, w: app(first, r, w))
    assert routes.template(first) == "/a/r/{a}"

    app.mount("/b", starlette())
    second = scope("/b/r/1")
    await call(lambda s, r, w: app(second, r, w))

    assert routes.template(second) == "/b/r/{a}"


@pytest.mark.parametrize(
    ("asked_for", "template"),
    [
        ("/direct/1", "/direct/{d}"),
        ("/api/v1/in/y/1", "/api/v1/in/y/{k}"),
        ("/t/a/s/1", "/t/{tenant}/s/{z}"),
        ("/star/m/1/leaf/2", "/star/m/{b}/leaf/{c}"),
        ("/static/a/b.css", "/static/{path}"),
        ("/proxy/direct/1", "/direct/{d}"),
        ("/files/a/b", "/files/{f}"),
        ("/files/own", "/files/own"),
        ("/late/own", "/late/{f}"),
        ("/v2.json", "/{name}.json"),
        ("/a/b.json", ""),
        ("/r/of-a-host", ""),
        ("/nothing", ""),
        ("/direct", ""),
        ("/direct/", ""),
        ("/direct/1/2", ""),
    ],
)
def test_what_was_answered_before_routing_has_the_route_that_was_asked_for(
    asked_for: str, template: str, tmp_path: Path
) -> None:
    """As by a middleware; behind a proxy, too. What routing has looked for in vain has none."""
    app = shop(tmp_path)
    for path in ("/files/own", "/files/{f:path}", "/late/{f:path}", "/late/own", "/{name}.json"):
        app.router.add_route(path, plain)
    asked = {**scope(asked_for), "root_path": "/proxy" if "proxy" in asked_for else ""}
    routes = Routes(app)

    assert routes.template(asked) == routes.template(asked) == template
    assert routes.template({**asked, "router": app.router}) == ""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/sub/s/2", "/sub/s/{z}"),
        ("/t/acme/s/2", "/t/{tenant}/s/{z}"),
        ("/within/leaf/3", "/within/leaf/{c}"),
        ("/sub/nope", ""),
    ],
)
async def test_what_a_mounted_apps_middleware_answers_has_the_route_that_was_asked_for(
    path: str, expected: str
) -> None:
    """Routing has led to the app, and no further."""

    def full(app: ASGIApp) -> ASGIApp:
        return PlainTextResponse("later", 429)

    sub = FastAPI()
    sub.get("/s/{z}")(lambda z: z)
    sub.add_middleware(full)
    app = FastAPI()
    app.mount("/sub", sub)
    app.mount("/t/{tenant}", sub)
    within = [Route("/leaf/{c}", plain)]
    app.router.routes.append(Mount("/within", routes=within, middleware=[Middleware(full)]))

    assert await template(app, path) == expected


def test_what_was_answered_before_routing_may_have_a_route_that_was_added_later() -> None:
    """The routes are looked at again when there are more."""
    app = FastAPI()
    routes = Routes(app)
    assert routes.template(scope("/late/1")) == ""

    app.get("/late/{l}")(lambda l: l)  # noqa: E741
    assert routes.template(scope("/late/1")) == "/late/{l}"


def test_what_is_no_application_has_no_routes() -> None:
    """A bare ASGI callable inside the middleware."""
    assert Routes(plain).template(scope()) == ""  # type: ignore[arg-type]
