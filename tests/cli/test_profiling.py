"""``fastobs profile`` brings the profile of one request, or says why there is none."""

from __future__ import annotations

import json

import pytest

from fastobs.cli.profiling import ENDINGS, Format
from fastobs.profiling.tokens import read, sign
from fastobs.profiling.views import FORMATS
from tests.cli.conftest import TOKEN
from tests.cli.running import complaint, fastobs
from tests.parts import serve


def test_a_request_is_profiled_and_its_page_kept(service, tmp_path):
    """The token of the environment will do; status, time and trace are told."""
    done = fastobs(
        "profile", f"{service.url}/items/3", folder=tmp_path, FASTOBS_PROFILES_TOKEN=TOKEN
    )

    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.iterdir()
    assert page.name.startswith("profile-")
    assert "/items/{item_id}" in page.read_text()
    for expected in ("status    200", "duration  ", "trace id  ", f"profile   {page.name}"):
        assert expected in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_text_goes_to_the_terminal(service, tmp_path):
    """The tree can be read where the command was typed, or be piped."""
    words = ("--token", TOKEN, "--format", "text")

    done = fastobs("profile", f"{service.url}/items/3", *words, folder=tmp_path)

    assert "GET /items/{item_id}" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("speedscope", ".speedscope.json"), ("folded", ".folded"), ("pprof", ".pb.gz")],
)
def test_a_file_has_the_ending_that_its_programs_know(service, tmp_path, kind, ending):
    """So that they open it."""
    words = ("--token", TOKEN, "--format", kind)

    done = fastobs("profile", f"{service.url}/items/3", *words, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    assert file.name.partition(".")[2] == ending[1:]
    assert f"profile   {file.name}" in done.stderr


def test_the_formats_are_those_of_the_viewer():
    """All of them, with the endings that a browser would be told."""
    assert [str(kind) for kind in Format] == list(FORMATS)
    for kind in Format:
        assert FORMATS[kind].ending in {"", ENDINGS.get(kind, kind)}


def test_a_failing_request_has_a_profile_too(service, tmp_path):
    """It is the failing ones that are looked at; a redirect is not followed with the token."""
    for path, status in (("broken", 503), ("moved", 307)):
        file = tmp_path / f"{path}.json"
        words = ("--token", TOKEN, "--format", "json", "--output", file)

        done = fastobs("profile", f"{service.url}/{path}", *words)

        assert done.returncode == 0, done.stderr
        assert f"status    {status}" in done.stderr
        assert json.loads(file.read_text())["profile"]["status"] == status


def test_method_and_headers_are_those_of_the_request(service, tmp_path):
    """What the endpoint needs can be sent along."""
    words = ("--token", TOKEN, "--method", "POST", "--header", "Accept: text/html")

    done = fastobs("profile", f"{service.url}/items/3", *words, folder=tmp_path)

    assert "status    405" in done.stderr


def signed(*words: str) -> str:
    """What the command makes of the secret."""
    done = fastobs("token", *words, FASTOBS_PROFILES_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    (token,) = done.stdout.split()
    return token


@pytest.mark.parametrize("pattern", ["/items/*", "/items/{item_id}"])
def test_a_signed_token_will_do_for_its_routes(service, tmp_path, pattern):
    """From the command that makes it to the page that it shows, and no further."""
    token = signed("--ttl", "15m", "--route", pattern)
    words = ("--token", token)
    done = fastobs("profile", f"{service.url}/items/3", *words, folder=tmp_path)
    fastobs("profile", f"{service.url}/broken", "--token", TOKEN, folder=tmp_path)
    listed = service.get(f"/_fastobs/profiles?format=json&token={token}")

    assert done.returncode == 0, done.stderr
    assert token not in done.stdout + done.stderr
    assert {each["route"] for each in json.loads(listed.body)["profiles"]} == {"/items/{item_id}"}
    assert service.get(f"/_fastobs/profiles?token={TOKEN}").status == 401


def test_a_signed_token_says_what_it_is_for():
    """On stderr, so that the token stands alone; without --route it is all routes."""
    one = fastobs("token", "--route", "/items/*", FASTOBS_PROFILES_TOKEN=TOKEN)
    two = fastobs("token", "--ttl", "24h", "--token", "short")
    given = read(two.stdout.strip().encode())

    assert given is not None
    assert given.pattern.text == "*"
    assert "profile requests to /items/* and see the profiles" in one.stderr
    assert "The secret is short" not in one.stderr
    assert "profile requests to all routes" in two.stderr
    assert "The secret is short" in two.stderr


def test_a_secret_is_made_though_there_is_one():
    """It is what is asked for without --ttl and --route, as for a change of it."""
    done = fastobs("token", FASTOBS_PROFILES_TOKEN=TOKEN)

    assert done.stdout.startswith("FASTOBS_PROFILES_TOKEN=")
    assert TOKEN not in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--ttl", "15"), "write it like 90s, 15m or 2h"),
        (("--ttl", "0s"), "is not a time of at most 24 hours"),
        (("--ttl", "25h"), "is not a time of at most 24 hours"),
        (("--ttl", "24h1s"), "is not a time"),
        (("--ttl", "-5m"), "is not a time"),
        (("--route", "items"), "write it like '/orders/*'"),
        (("--ttl", "1m", "--for", "metrics"), "Only tokens for profiles"),
        (("--ttl", "1m", "--token", ""), "set FASTOBS_PROFILES_TOKEN"),
        (("--ttl", "1m", "--token", sign(TOKEN, expires=0)), "is a signed token itself"),
    ],
)
def test_what_cannot_be_signed_is_one_line(words, expected):
    """A time, a route, a secret: each error says what to write instead."""
    assert expected in complaint(fastobs("token", *words, FASTOBS_PROFILES_TOKEN=TOKEN))


def test_a_token_for_a_path_does_not_show_its_routes_profile(service):
    """The path may be profiled; the profile is of the route, which is more."""
    done = fastobs("profile", f"{service.url}/items/3", "--token", signed("--route", "/items/3"))

    assert "Make one for that, like '/orders/{order_id}'" in complaint(done)


@pytest.mark.parametrize(
    ("path", "words", "expected"),
    [
        (
            "/items/1",
            ("--token", sign("another", expires=4e9)),
            "the token was made of another secret",
        ),
        ("/items/1", ("--token", sign(TOKEN, expires=1e9)), "its end is 2001-09-09 01:46:40 UTC"),
        (
            "/items/1",
            ("--token", sign(TOKEN, pattern="/orders/*", expires=4e9)),
            "the token is for /orders/*, and this path is another one",
        ),
        ("/items/1", (), "it wants a token. Give --token"),
        ("/items/1", ("--token", "wrong"), "its token is another one"),
        ("/internal", ("--token", TOKEN), "it leaves this path alone. See its setting metrics.ex"),
        ("/items/1", ("--token", "wrong", "--prefix", "/elsewhere"), "give --prefix"),
        ("/items/1", ("--header", "Accept"), "write it like --header 'Accept: text/html'"),
        ("/items/1", ("--token", TOKEN, "--output", "/no/such/folder"), "with --output"),
    ],
)
def test_a_missing_profile_has_its_reason(service, path, words, expected):
    """No token, another one, a path that is not observed: each is told apart."""
    assert expected in complaint(fastobs("profile", service.url + path, *words))


def test_a_service_that_has_profiled_enough_says_so(tmp_path):
    """The limit of the service is named with the setting that moves it."""
    env = {
        "FASTOBS_PROFILES_TOKEN": TOKEN,
        "FASTOBS_PROFILES_DIRECTORY": str(tmp_path / "kept"),
        "FASTOBS_PROFILES_PER_MINUTE": "1",
    }
    with serve("tests.cli.shop:app", env=env) as server:
        words = ("profile", f"{server.url}/items/1", "--token", TOKEN, "--format", "text")
        assert fastobs(*words).returncode == 0

        assert "FASTOBS_PROFILES_PER_MINUTE" in complaint(fastobs(*words))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000/items", "write it like http://127.0.0.1:8000"),
        ("file:///etc/passwd", "is no address of a service"),
        ("http://127.0.0.1:1/items", "did not answer: [Errno 111] Connection refused"),
        ("http://127.0.0.1:one/", "did not answer"),
    ],
)
def test_an_address_without_a_service_is_one_line(url, expected):
    """Whether it was mistyped or nobody listens."""
    assert expected in complaint(fastobs("profile", url))
