"""The HTTP cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from fastobs import catalogue
from fastobs.cells import Meters
from tests.driving import call, values

Observed = Callable[..., Any]

OLD, NEW = '"1"', '"2"'
LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.api_route("/items/{item}", methods=["GET", "HEAD", "PUT"])
    async def item(item: int, request: Request) -> Response:
        if item == 404:
            return Response(status_code=404)
        same = request.headers.get("if-none-match") == NEW
        return Response(status_code=304 if same else 200, headers={"etag": NEW})

    return app


def counted(meters: Meters) -> dict[tuple[str, ...], float]:
    return {
        key: count
        for key, count in values(meters, catalogue.CACHE_REQUESTS).items()
        if key[0] == "http"
    }


@pytest.mark.anyio
async def test_a_copy_that_is_still_good_is_a_hit(
    app: FastAPI, observed: Observed, meters: Meters
) -> None:
    """One that has to be sent again is a miss; what else is answered is neither."""
    observed(app)
    for tag in (NEW, NEW, OLD):
        await call(app, "/items/1", headers={"If-None-Match": tag})
    await call(app, "/items/1", "HEAD", headers={"If-None-Match": NEW})
    await call(app, "/items/404", headers={"If-None-Match": OLD})

    assert counted(meters) == {("http", "hit"): 3.0, ("http", "miss"): 1.0}


@pytest.mark.anyio
async def test_who_asks_for_no_copy_is_not_counted(
    app: FastAPI, observed: Observed, meters: Meters
) -> None:
    """Neither a request without conditions, nor a change that has one."""
    observed(app)
    await call(app, "/items/1")
    await call(app, "/items/1", "PUT", headers={"If-None-Match": OLD})

    assert counted(meters) == {}


@pytest.mark.anyio
async def test_two_conditions_are_one_question(
    app: FastAPI, observed: Observed, meters: Meters
) -> None:
    """Browsers send both."""
    observed(app)
    for tag in (NEW, OLD):
        await call(app, "/items/1", headers={"If-None-Match": tag, "If-Modified-Since": LONG_AGO})

    assert counted(meters) == {("http", "hit"): 1.0, ("http", "miss"): 1.0}


def test_files_are_asked_for_by_time(tmp_path: Any, observed: Observed, meters: Meters) -> None:
    """As Starlette serves them."""
    (tmp_path / "logo.svg").write_text("<svg/>")
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=tmp_path))
    observed(app)
    with TestClient(app) as client:
        modified = client.get("/static/logo.svg").headers["last-modified"]
        statuses = [
            client.get("/static/logo.svg", headers={"If-Modified-Since": since}).status_code
            for since in (modified, LONG_AGO)
        ]

    assert statuses == [304, 200]
    assert counted(meters) == {("http", "hit"): 1.0, ("http", "miss"): 1.0}


@pytest.mark.anyio
async def test_caches_can_be_switched_off(app: FastAPI, observed: Observed, meters: Meters) -> None:
    """This one, too."""
    observed(app, caches=None)
    await call(app, "/items/1", headers={"If-None-Match": NEW})

    assert counted(meters) == {}
