"""The header Server-Timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from fastobs import catalogue, current, section
from fastobs._exchange import Exchange
from fastobs._parts import enter
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.signals import timing
from fastobs.signals.timing import server_timing
from tests.driving import Answer, call, scope

Observed = Callable[..., Any]

UNDISTURBED = {"loop_block_after": None}
"""A machine that stands still for a moment would be a part, too."""


def shop(*, debug: bool = False) -> FastAPI:
    app = FastAPI(debug=debug)

    @app.get("/")
    async def page(response: Response) -> int:
        response.headers["server-timing"] = "theirs;dur=1"
        async with section("render page, Größe"):
            return 1

    return app


def entries(answer: Answer) -> dict[str, float]:
    """Milliseconds by name, of what is ours."""
    (*_, last) = [
        value.decode()
        for message in answer.messages
        if message["type"] == "http.response.start"
        for name, value in message["headers"]
        if name == b"server-timing"
    ]
    pairs = (entry.split(";dur=") for entry in last.split(", "))
    return {name: float(milliseconds) for name, milliseconds in pairs}


@pytest.mark.anyio
async def test_by_default_there_is_none(observed: Observed) -> None:
    """Who is not trusted is not told how a service works."""
    app = shop()
    observed(app, profiles={"token": "secret"})

    for headers in ({}, {"x-profile": "wrong"}):
        answer = await call(app, headers=headers)
        assert entries(answer) == {"theirs": 1}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("debug", "metrics", "headers"),
    [
        (True, {}, {}),
        (True, {}, {"x-profile": "secret"}),
        (False, {"server_timing": True}, {}),
        (False, {}, {"x-profile": "secret"}),
    ],
)
async def test_debug_mode_a_setting_or_a_token_has_it(
    observed: Observed, tmp_path: Any, debug: bool, metrics: Any, headers: dict[str, str]
) -> None:
    """Parts by cleaned names in milliseconds, which add up to the total; the app's own stays."""
    app = shop(debug=debug)
    profiles = {"token": "secret", "directory": tmp_path / "kept"}
    observed(app, metrics=metrics, profiles=profiles, runtime=UNDISTURBED)

    answer = await call(app, headers=headers)
    told = entries(answer)
    total = told.pop("total")

    assert answer.status == 200
    assert set(told) == {"render_page_Gr_e", "unaccounted"}
    assert abs(sum(told.values()) - total) <= 0.002
    starts = answer.messages[0]["headers"]
    assert [name for name, _ in starts].count(b"server-timing") == 2


@pytest.mark.anyio
@pytest.mark.parametrize("off", [{"server_timing": False}, None])
async def test_it_can_be_switched_off(observed: Observed, off: Any) -> None:
    """In debug mode, too."""
    app = shop(debug=True)
    observed(app, metrics=off)

    assert entries(await call(app)) == {"theirs": 1}


@pytest.mark.anyio
async def test_it_says_what_is_known_when_the_response_starts(observed: Observed) -> None:
    """Also of a part that goes on; not of what the stream does then."""
    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            async with section("later"):
                yield b"x"

        exchange = current()
        assert exchange is not None
        enter(exchange, "db", exchange.started)
        return StreamingResponse(chunks())

    observed(app, metrics={"server_timing": True}, runtime=UNDISTURBED)
    told = entries(await call(app))

    assert set(told) == {"db", "total"}
    assert told["db"] == told["total"] > 0


@pytest.mark.anyio
async def test_names_made_from_data_do_not_make_a_header_too_long(observed: Observed) -> None:
    """The largest parts are told, and the total of all."""
    app = FastAPI()

    @app.get("/")
    async def many() -> None:
        for number in range(50):
            async with section(f"user {number}"):
                pass

    observed(app, metrics={"server_timing": True})

    assert len(entries(await call(app))) == timing.MOST + 1


@pytest.mark.anyio
@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("broken", ["so_far", "_announce"])
async def test_an_error_of_ours_stays_ours(
    observed: Observed,
    meters: Meters,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    broken: str,
) -> None:
    """The response goes out without the header."""
    app = shop()
    observed(app, profiles={"token": "secret", "directory": tmp_path / "kept"})
    monkeypatch.setattr(timing, broken, lambda *_: 1 / 0)

    answer = await call(app, headers={"x-profile": "secret"})

    assert answer.status == 200
    assert entries(answer) == {"theirs": 1}
    assert meters.counter(catalogue.SELF_ERRORS, "timing").value == 1


def test_an_exchange_that_answers_nobody_has_no_header() -> None:
    """There is no response that it could be in."""
    server_timing()(Exchange(scope(), Routes(None), 0.0))  # type: ignore[arg-type]
