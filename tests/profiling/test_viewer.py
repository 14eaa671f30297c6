"""Profiles are shown to whoever may see them, as pages that can do no harm."""

from __future__ import annotations

import base64
import json
import re
import threading
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import quote

import pytest
from starlette.responses import PlainTextResponse

from fastobs.config import Profiles
from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Folder
from fastobs.profiling.tokens import sign
from fastobs.profiling.views import FORMATS
from tests.driving import Answer
from tests.profiling.rig import HOME, TOKEN, Rig, burn, run
from tests.profiling.test_store import meta

NOW = 1_800_000_000.0
EVIL = "</script><script>document.title='owned'</script><!--"


async def app(scope, receive, send) -> None:
    renamed(burn, EVIL)()
    await PlainTextResponse("done")(scope, receive, send)


def renamed(function, name: str):
    """The function with another name and file, as a hostile or merely odd one could have."""
    code = function.__code__.replace(co_name=name, co_filename=name)
    return FunctionType(code, function.__globals__, name, function.__defaults__)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(app, tmp_path)


@pytest.fixture
def profile(rig: Rig) -> str:
    """The id of a profile that is there."""
    answer = run(rig.get("/some/where"))
    rig.kept(answer)
    return answer.headers["x-profile-id"]


def look(rig: Rig, path: str, **more) -> Answer:
    return run(rig.get(f"/_fastobs/{path}", **more))


def basic(password: str, user: str = "me") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Profile": TOKEN},
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        basic(TOKEN),
        basic(TOKEN, user=""),
    ],
)
def test_the_token_opens(rig: Rig, profile: str, headers: dict[str, str]):
    """As the header, as a bearer's, or as the password that a browser asked for."""
    for path in ("profiles", f"profiles/{profile}"):
        assert look(rig, path, token=None, headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Profile": ""},
        {"X-Profile": "wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": "Basic"},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic ÿ"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
        basic("wrong"),
        basic("me", user=TOKEN),
        {"Authorization": "Bearer ünüsual"},
    ],
)
def test_without_it_nothing_is_shown(rig: Rig, profile: str, headers: dict[str, str]):
    """Not even which profiles there are; a browser is told to ask for a password."""
    answers = [
        look(rig, path, token=None, headers=headers)
        for path in ("profiles", f"profiles/{profile}", "profiles/" + "0" * 32, "nothing")
    ]

    assert [answer.status for answer in answers] == [401] * 4
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].headers["www-authenticate"].startswith("Basic realm=")


def test_a_token_in_the_url_opens_nothing(rig: Rig, profile: str):
    """It would be in every log on the way."""
    answer = look(rig, f"profiles/{profile}", token=None, query_string=f"token={TOKEN}".encode())

    assert answer.status == 401


@pytest.fixture
def shop(tmp_path: Path) -> Rig:
    """Profiles of an order, of another one's lines, of an item, and of what no route is for."""
    rig = Rig(app, tmp_path, now=lambda: NOW)
    for number, route in enumerate(("/orders/{order_id}", "/orders/{id}/lines", "/items", "")):
        rig.store.put(meta(number, route=route), empty())
    return rig


def signed(pattern: str, *, secret: str = TOKEN, expires: float = NOW + 1) -> str:
    return sign(secret, pattern=pattern, expires=expires)


def seen(rig: Rig, **more) -> list[int]:
    """The numbers of the profiles in the list."""
    answer = look(rig, "profiles", token=None, **more)
    assert answer.status == 200
    return sorted(int(each, 16) for each in re.findall(rb'href="profiles/(\w{32})', answer.body))


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("*", [0, 1, 2, 3]),
        ("/orders/*", [0, 1]),
        ("/orders/{number}", [0]),
        ("/orders/{id}/lines", [1]),
        ("/items", [2]),
        ("/orders/7", []),
    ],
)
def test_a_signed_token_shows_the_profiles_of_its_routes(
    shop: Rig, pattern: str, numbers: list[int]
):
    """In the list those only, and another one not at all, whichever way the token is sent."""
    token = signed(pattern)
    ways: list[dict[str, Any]] = [
        {"headers": {"X-Profile": token}},
        {"headers": {"Authorization": f"Bearer {token}"}},
        {"headers": basic(token)},
        {"query_string": f"token={token}".encode()},
    ]
    for way in ways:
        shown = [look(shop, f"profiles/{n:032x}", token=None, **way).status for n in range(4)]

        assert seen(shop, **way) == numbers
        assert shown == [200 if number in numbers else 403 for number in range(4)]


def test_the_list_for_scripts_shows_no_more(shop: Rig):
    """Nor is a profile of another route there in another format."""
    token = signed("/items").encode()
    document = look(shop, "profiles", token=None, query_string=b"format=json&token=" + token)
    other = look(
        shop, f"profiles/{0:032x}", token=None, query_string=b"format=pprof&token=" + token
    )

    assert [each["route"] for each in json.loads(document.body)["profiles"]] == ["/items"]
    assert other.status == 403
    assert other.body == b"This token is for other routes than the one of this profile.\n"


@pytest.mark.parametrize(
    "token",
    [
        signed("*", expires=NOW),
        signed("*", secret="another"),
        signed("*")[:-1],
        "v1....",
        "v1." + "x" * 5000,
        "",
        "ü",
        "\udcff",
    ],
    ids=["over", "other secret", "cut", "empty parts", "long", "nothing", "letter", "broken"],
)
def test_a_signed_token_that_is_not_good_shows_nothing(shop: Rig, token: str):
    """A link to a profile ends with its token."""
    said = quote(token, errors="surrogateescape")
    answers = [
        look(shop, path, token=None, query_string=f"token={said}".encode())
        for path in ("profiles", f"profiles/{0:032x}", "profiles/" + "f" * 32)
    ]

    assert [answer.status for answer in answers] == [401] * 3


def test_who_has_the_secret_needs_no_link(shop: Rig):
    """An old link shows them everything all the same, and is not handed on."""
    old = f"token={signed('/items')}".encode()

    assert seen(shop, headers={"X-Profile": TOKEN}, query_string=old) == [0, 1, 2, 3]
    assert b"token=" not in look(shop, "profiles", query_string=old).body


def test_a_link_leads_to_more_of_its_kind(shop: Rig):
    """From the list to a profile, from there to its formats, and back."""
    token = signed("/orders/*")
    query = f"token={token}".encode()
    listed = look(shop, "profiles", token=None, query_string=query).body.decode()
    page = look(shop, f"profiles/{1:032x}", token=None, query_string=query).body.decode()
    header = look(shop, f"profiles/{1:032x}", token=None, headers={"X-Profile": token}).body

    assert f'href="profiles/{1:032x}?token={token}"' in listed
    assert f'href="?format=speedscope&amp;token={token}"' in page
    assert f'href="../profiles?token={token}"' in page
    assert b"token=" not in header


def test_a_signed_token_needs_a_secret(tmp_path: Path):
    """Without one configured there is nothing to sign with, not even the empty one."""
    for secret in (None, ""):
        rig = Rig(app, tmp_path, token=secret, now=lambda: NOW)
        token = signed("*", secret="")

        assert look(rig, "profiles", token=token, client=HOME).status == 404


@pytest.mark.parametrize("headers", [{}, {"X-Profile": ""}, {"Authorization": "Bearer "}])
def test_without_a_token_configured_there_is_nothing(tmp_path: Path, headers: dict[str, str]):
    """It is as if the paths did not exist, also for those of this machine."""
    rig = Rig(app, tmp_path, token=None)

    for path in ("profiles", "profiles/" + "0" * 32):
        assert look(rig, path, token=None, headers=headers, client=HOME).status == 404


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "shop.localhost"]
)
def test_in_debug_mode_it_is_open_to_this_machine(tmp_path: Path, host: str):
    """No token is needed to look at one's own."""
    rig = Rig(app, tmp_path, token=None, debug=True)
    answer = look(rig, "profiles", token=None, client=HOME, headers={"Host": host})

    assert answer.status == 200


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (("192.0.2.7", 1), {"Host": "localhost"}, 404),
        (HOME, {"Host": "localhost", "X-Forwarded-For": "192.0.2.7"}, 404),
        (HOME, {"Host": "evil.example"}, 403),
        (HOME, {"Host": "localhost.evil.example"}, 403),
        (HOME, {}, 403),
    ],
)
def test_debug_mode_is_not_open_to_others(tmp_path: Path, client, headers, status: int):
    """Nor to a site that has its own name point at this machine."""
    rig = Rig(app, tmp_path, token=None, debug=True)

    assert look(rig, "profiles", token=None, client=client, headers=headers).status == status


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nothing",
        "profiles/" + "0" * 32,
        "profiles/../../../../etc/passwd",
        "profiles/%2e%2e%2fetc",
        "profiles/" + "A" * 32,
        "profiles/" + "0" * 32 + "/",
        "profiles/" + "0" * 32 + ".json",
        "profiles//",
        "profiles/\x00",
    ],
)
def test_what_is_not_there_is_not_found(rig: Rig, profile: str, path: str):
    """Whatever the path looks like, it is compared and never opened."""
    assert look(rig, path).status == 404


def test_only_reading_is_possible(rig: Rig, profile: str):
    """HEAD answers as GET does, without the body being of interest."""
    assert look(rig, "profiles", method="HEAD").status == 200
    answer = look(rig, f"profiles/{profile}", method="DELETE")

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert rig.store.get(profile) is not None


def test_a_profile_is_shown_as_page_json_or_text(rig: Rig, profile: str):
    """A page by default; another name is answered with those that there are."""
    page, text, document, unknown = (
        look(rig, f"profiles/{profile}", query_string=query)
        for query in (b"", b"format=text", b"format=json", b"format=pdf")
    )
    parsed = json.loads(document.body)

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert document.headers["content-type"] == "application/json"
    assert b"burn" in page.body or b"owned" in page.body
    assert b"Recorded" in text.body
    assert parsed["profile"]["id"] == profile
    assert parsed["session"]["target_description"] == "GET (no route)"
    assert unknown.status == 400
    assert unknown.body == b"Formats are: html, json, text, speedscope, folded, pprof.\n"


@pytest.mark.parametrize(
    ("name", "media_type", "ending"),
    [
        ("speedscope", "application/json", "speedscope.json"),
        ("folded", "text/plain; charset=utf-8", "folded"),
        ("pprof", "application/octet-stream", "pb.gz"),
    ],
)
def test_formats_of_other_programs_are_files(
    rig: Rig, profile: str, name: str, media_type: str, ending: str
):
    """With the ending by which those know them; the page that links to them may have them saved."""
    answer = look(rig, f"profiles/{profile}", query_string=f"format={name}".encode())
    page = look(rig, f"profiles/{profile}")

    assert (answer.status, answer.headers["content-type"]) == (200, media_type)
    assert (
        answer.headers["content-disposition"]
        == f'attachment; filename="profile-{profile}.{ending}"'
    )
    assert "content-disposition" not in page.headers
    assert f'href="?format={name}"'.encode() in page.body


def test_the_list_is_json_too(rig: Rig, profile: str):
    """What is known about each profile, for a script; the list has no other formats."""
    page, document, unknown = (
        look(rig, "profiles", query_string=query)
        for query in (b"format=html", b"format=json", b"format=pprof")
    )
    (listed,) = json.loads(document.body)["profiles"]

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert document.headers["content-type"] == "application/json"
    assert (listed["id"], listed["method"], listed["status"]) == (profile, "GET", 200)
    assert (unknown.status, unknown.body) == (400, b"Formats are: html, json.\n")


def test_a_page_runs_its_own_scripts_and_no_others(rig: Rig, profile: str):
    """A name in the profile that ends the script element does not; the policy would stop it too."""
    answer = look(rig, f"profiles/{profile}")
    page, policy = answer.body.decode(), answer.headers["content-security-policy"]
    [nonce] = re.findall(r"script-src 'nonce-([\w-]{22,})'", policy)
    scripts = re.findall(r"<script[^>]*>", page)

    assert "owned" in page
    assert EVIL not in page
    assert "</script><script>document" not in page
    assert (
        scripts
        == ['<script type="application/json" id="session">'] + [f'<script nonce="{nonce}">'] * 3
    )
    assert "sandbox allow-scripts allow-downloads;" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    assert look(rig, f"profiles/{profile}").headers["content-security-policy"] != policy


def test_a_page_asks_nobody_else(rig: Rig, profile: str):
    """pyinstrument's page loads fonts from another site; ours names none."""
    page = look(rig, f"profiles/{profile}").body.decode()

    assert set(re.findall(r"https?://[\w./-]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_every_answer_is_private(rig: Rig, profile: str):
    """Nothing is stored on the way, guessed at, framed, or told to another site."""
    for path in ("profiles", f"profiles/{profile}", "nothing"):
        headers = look(rig, path).headers

        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_what_is_known_about_a_request_is_escaped(rig: Rig):
    """A route, a service and an error may be called anything."""
    rig.store.put(
        meta(9, route=EVIL, service=EVIL, error_type=EVIL, truncated=True, samples=0, status=None),
        empty(),
    )
    page, listed = look(rig, f"profiles/{9:032x}").body, look(rig, "profiles").body

    assert EVIL.encode() not in page
    assert EVIL.encode() not in listed
    assert b"The recording reached its limit" in page
    assert b"No samples" in page


def empty() -> bytes:
    return Stacks(
        description=EVIL,
        started=0.0,
        duration=0.0,
        cpu=0.0,
        interval=0.001,
        count=0,
        truncated=True,
        beginning=[],
        parents=[],
        frames=[],
        samples=[],
    ).encode()


@pytest.mark.parametrize("name", FORMATS)
def test_a_profile_without_samples_can_be_shown(rig: Rig, name: str):
    """A request can be faster than the first sample."""
    rig.store.put(meta(9), empty())

    assert look(rig, f"profiles/{9:032x}", query_string=f"format={name}".encode()).status == 200


def test_the_list_leads_to_the_profiles(rig: Rig, profile: str):
    """Its links hold with and without a slash at the end, behind any prefix."""
    plain, slash = look(rig, "profiles").body.decode(), look(rig, "profiles/").body.decode()

    assert f'href="profiles/{profile}"' in plain
    assert f'href="{profile}"' in slash
    assert "GET (no route)" in plain


def test_an_empty_list_says_how_to_fill_it(rig: Rig):
    """The first visitor learns about the header."""
    assert (
        b"None yet. Send a request with the header <code>X-Profile</code>"
        in look(rig, "profiles").body
    )


def test_the_apps_prefix_is_not_part_of_the_path(rig: Rig, profile: str):
    """Behind a proxy that adds /shop the server says so in root_path."""
    answer = run(rig.get(f"/shop/_fastobs/profiles/{profile}", root_path="/shop"))

    assert answer.status == 200


def test_a_profile_that_is_being_written_is_waited_for(tmp_path: Path):
    """Its id is known before another worker has it on disk."""
    asked = threading.Event()

    class Slow(Folder):
        def get(self, profile: str):
            found = None if not asked.is_set() else super().get(profile)
            asked.set()
            return found

    store = Slow(Profiles(directory=tmp_path))
    rig = Rig(app, tmp_path, store=store, patience=30.0)

    def write() -> None:
        # Not for ever: a viewer that never asks is a failure, not a hanging run.
        asked.wait(timeout=30)
        store.put(meta(9), empty())

    writer = threading.Thread(target=write)
    writer.start()
    answer = look(rig, f"profiles/{9:032x}")
    writer.join()

    assert answer.status == 200


@pytest.mark.usefixtures("contained_errors")
def test_a_profile_that_cannot_be_read_is_an_answer_too(rig: Rig):
    """What is broken is said without details, which are in the log."""
    rig.store.put(meta(9), b"damaged")
    answer = look(rig, f"profiles/{9:032x}")

    assert (answer.status, answer.raised) == (500, None)
    assert answer.body == b"This cannot be shown; the log of the app says why.\n"


@pytest.mark.usefixtures("contained_errors")
def test_a_folder_that_cannot_be_trusted_is_an_answer_too(tmp_path: Path):
    """Nothing from it is shown."""
    tmp_path.chmod(0o777)
    rig = Rig(app, tmp_path)

    assert look(rig, "profiles").status == 500
    assert look(rig, "profiles/" + "0" * 32).status == 500
