"""Profiles of requests to a real server, seen in a real browser."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.parts import Server
from tests.profiling.rig import BURNT, TOKEN

pytestmark = pytest.mark.integration

APP = "tests.profiling.shop:app"
KEY = {"X-Profile": TOKEN}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def shop(request, tmp_path_factory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("profiles"), "--loop", request.param) as server:
        yield server


def serve(folder: Path, *options: str, **env: str):
    environment = {"SHOP_PROFILES": str(folder / "kept"), "FASTOBS_STRICT": "1", **env}
    workers = 2 if "--workers" in options else 1
    return parts.serve(APP, options=options, env=environment, workers=workers)


def profile(server: Server, path: str, *, status: int = 200) -> dict[str, Any]:
    """The profile of one request."""
    answer = server.get(path, headers=KEY)
    assert answer.status == status
    page = f"/_fastobs/profiles/{answer.headers['x-profile-id']}?format=json"

    def shown() -> str:
        # The server waits for a second; on a busy machine the profile may take longer.
        found = server.get(page, headers=KEY)
        return found.body if found.status == 200 else ""

    document: dict[str, Any] = json.loads(parts.eventually(shown, what=page))
    return document


def seconds(document: dict[str, Any], function: str, *, below: str = "") -> float:
    """What was spent in a function, by the profile."""

    def look(frame: dict[str, Any], *, counts: bool) -> float:
        if counts and frame["function"] == function:
            return float(frame["time"])
        counts = counts or frame["function"] == below
        return sum(look(child, counts=counts) for child in frame["children"])

    return look(document["session"]["root_frame"], counts=not below)


@pytest.mark.parametrize(
    ("path", "functions"),
    [
        ("/plain/7", [("in_endpoint", "plain"), ("in_dependency", "dependency")]),
        ("/async", [("[await]", "query")]),
        ("/stream", [("in_endpoint", "chunks")]),
        ("/astream", [("[await]", "asynchronous_chunks")]),
    ],
)
def test_most_of_the_time_is_explained(shop: Server, path: str, functions: list[tuple[str, str]]):
    """Whatever kind of function works or waits, under a BaseHTTPMiddleware, on both event loops."""
    document = profile(shop, path)
    explained = [seconds(document, function, below=below) for function, below in functions]

    # Of what each is known to take; the whole is longer where the processor is not ours alone.
    assert all(each > 0.8 * BURNT for each in explained), explained


def test_an_error_is_profiled_too(shop: Server):
    """The 500 carries the id, and the profile says what was raised."""
    document = profile(shop, "/broken", status=500)

    assert document["profile"]["error_type"] == "LookupError"
    assert seconds(document, "burn")


def test_the_route_and_not_the_path_is_shown(shop: Server):
    """The path may hold what nobody else should see."""
    document = profile(shop, "/plain/s3cret?also=s3cret")

    assert document["profile"]["route"] == "/plain/{item_id}"
    assert "s3cret" not in json.dumps(document)


def test_a_wrong_token_changes_no_byte(shop: Server):
    """On the wire the answer is the one without the header, but for the date and the trace's id."""
    without, wrong = (
        raw(shop, f"GET /async HTTP/1.1\r\nHost: shop\r\n{header}Connection: close\r\n\r\n")
        for header in ("", "X-Profile: wrong\r\n")
    )

    assert stable(wrong) == stable(without)
    assert b"200 OK" in wrong


def stable(answer: bytes) -> list[bytes]:
    return [
        line for line in answer.split(b"\r\n") if not line.startswith((b"date:", b"x-trace-id:"))
    ]


def test_pipelined_requests_are_all_answered(shop: Server):
    """Each inherits the context of the one before, and none of them its profiler."""
    one = f"GET /plain/1 HTTP/1.1\r\nHost: shop\r\nX-Profile: {TOKEN}\r\n"
    answers = raw(shop, f"{one}\r\n" * 3 + f"{one}Connection: close\r\n\r\n")

    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.count(b"x-profile-id: ") == 4


def test_a_client_that_leaves_ends_its_profile(shop: Server):
    """The next request can be profiled."""
    with closing(
        socket.create_connection(("127.0.0.1", shop.port), timeout=parts.PATIENCE)
    ) as connection:
        connection.sendall(
            f"GET /astream HTTP/1.1\r\nHost: shop\r\nX-Profile: {TOKEN}\r\n\r\n".encode()
        )
        connection.recv(16)

    def profiled() -> bool:
        return "x-profile-id" in shop.get("/async", headers=KEY).headers

    assert parts.eventually(profiled)


def raw(server: Server, request: str) -> bytes:
    """Everything that the server says to these bytes until it hangs up."""
    with closing(
        socket.create_connection(("127.0.0.1", server.port), timeout=parts.PATIENCE)
    ) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_metrics_tell_what_became_of_them(shop: Server):
    """Each outcome is a series of its own."""
    profile(shop, "/async")
    shop.get("/async", headers={"X-Profile": "wrong"})
    metrics = shop.get("/metrics").body

    for outcome in ("kept", "denied"):
        [line] = [
            line
            for line in metrics.splitlines()
            if line.startswith("fastobs_profiles_total{")
            and f'outcome="{outcome}"' in line
            and 'trigger="header"' in line
        ]
        assert float(line.rpartition(" ")[2]) >= 1
    assert 'fastobs_instrumentation_errors_total{component="profiles"} 0.0' in metrics


def test_any_worker_shows_the_profiles_of_all(tmp_path: Path):
    """They share the folder; one that is not written yet is waited for."""
    with serve(tmp_path, "--workers", "2") as shop:
        documents = [profile(shop, "/async") for _ in range(8)]

    assert all(seconds(document, "query") for document in documents)


def test_in_debug_mode_a_browser_just_opens_it(tmp_path: Path):
    """The page shows the user's functions; a hostile name is text in it and no script."""
    with serve(tmp_path, SHOP_DEBUG="1") as shop:
        answer = shop.get("/evil", headers={"X-Profile": "1"})
        page = parts.dom(f"{shop.url}/_fastobs/profiles/{answer.headers['x-profile-id']}")

    title = page.partition("<title>")[2].partition("</title>")[0]
    assert title == "GET /evil · fastobs"
    assert 'class="frame ' in page
    assert "&lt;script&gt;document.title=" in page


def test_a_browser_gets_in_with_the_token_as_password(shop: Server):
    """The page works without storage, without foreign sites, in its sandbox."""
    answer = shop.get("/plain/7", headers=KEY)
    address = shop.url.replace("http://", f"http://me:{TOKEN}@")
    page = parts.dom(f"{address}/_fastobs/profiles/{answer.headers['x-profile-id']}")
    listed = parts.dom(f"{address}/_fastobs/profiles")

    assert "in_endpoint" in page
    assert "in_dependency" in page
    assert "frames hidden" in page
    assert "fonts.googleapis" not in page
    assert answer.headers["x-profile-id"] in listed
