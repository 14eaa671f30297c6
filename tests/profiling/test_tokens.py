"""A signed token gives what it says until it ends, and nothing that was changed in it gives anything."""

from __future__ import annotations

import hmac
import random
import time
from base64 import urlsafe_b64encode

import pytest

from fastobs.errors import ConfigError
from fastobs.profiling import tokens
from fastobs.profiling.tokens import MAX_PATH, MAX_TOKEN, Pattern, read, sign, verify

SECRET = "a secret of the tests"
NOW = 1_800_000_000.0


def signed(
    pattern: str = "/orders/*", *, secret: str = SECRET, expires: float = NOW + 900
) -> bytes:
    return sign(secret, pattern=pattern, expires=expires).encode()


def good(token: bytes, *, now: float = NOW) -> bool:
    return verify(token, SECRET.encode(), now=now) is not None


def forged(signed_part: bytes) -> bytes:
    """What the secret's owner could sign by mistake, or with another program."""
    return signed_part + b"." + tokens._signature(signed_part, SECRET.encode())


def test_a_token_says_until_when_and_for_which_routes():
    """Both are read from it, by whoever has it."""
    token = signed()
    given = verify(token, SECRET.encode(), now=NOW)
    said = read(token)

    assert given is not None
    assert said is not None
    assert (given.expires, given.pattern.text) == (NOW + 900, "/orders/*")
    assert (said.expires, said.pattern.text) == (NOW + 900, "/orders/*")


def test_it_has_five_parts_of_which_the_secret_is_none():
    """Letters that an address and a header can carry as they are."""
    one, two = signed(), signed()
    parts = one.decode().split(".")

    assert parts[:3] == ["v1", "1800000900", "L29yZGVycy8q"]
    assert [len(part) for part in parts[3:]] == [16, 43]
    assert one != two
    assert set("".join(parts)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


def test_it_ends():
    """To the second, by the clock of who checks it."""
    token = signed(expires=NOW + 900.7)

    assert good(token, now=NOW + 899.9)
    assert not good(token, now=NOW + 900)
    assert not good(token, now=NOW + 1e9)


def test_another_secret_makes_another_token():
    """Also one that begins in the same way."""
    assert not good(signed(secret="another"))
    assert not good(signed(secret=SECRET + " "))


def test_no_byte_of_it_can_be_another():
    """Nor be missing, nor be twice; base64 has several spellings of the same, of which one is right."""
    token = signed()
    changed = {
        token[:at] + other + token[at + 1 :]
        for at in range(len(token))
        for other in (*(bytes([each]) for each in b"A_-9.=v/\x00 "), b"", token[at : at + 1] * 2)
    } | {
        token[:at] + bytes([token[at] ^ bit]) + token[at + 1 :]
        for at in range(len(token))
        for bit in (1, 2, 4, 8, 16, 32, 64, 128)
    }
    changed -= {token}

    assert len(changed) > 10 * len(token)
    assert good(token)
    assert not [each for each in changed if good(each)]


def test_whatever_is_sent_is_no_error():
    """Bytes come from strangers."""
    chance = random.Random(7)
    odd = [
        b"",
        b".",
        b"v1",
        b"v1.",
        b"v1....",
        b"v1.....",
        b"v2." + signed()[3:],
        b"v1.1800000900.L29yZGVycy8q.nonce.",
        "v1.ünüsual".encode(),
        b"v1." + b"9" * 200 + b".a.b.c",
        *(b"v1." + chance.randbytes(chance.randrange(200)) for _ in range(500)),
    ]

    assert not [each for each in odd if good(each)]
    assert [read(each) for each in odd[:6]] == [None] * 6


@pytest.mark.parametrize(
    "signed_part",
    [
        b"v1",
        b"v1.1800000900",
        b"v1.1800000900.Kg.n.more",
        b"v1.18e8.Kg.n",
        b"v1.-1800000900.Kg.n",
        b"v1." + "²²".encode() + b".Kg.n",
        b"v1." + b"9" * 5000 + b".Kg.n",
        b"v1.9999999999999.Kg.n",
        b"v1.1800000900.Kgg$!.n",
        b"v1.1800000900.A.n",
        b"v1.1800000900." + urlsafe_b64encode(b"\xff\xfe").rstrip(b"=") + b".n",
    ],
)
def test_what_cannot_be_read_is_not_good_though_it_is_signed(signed_part: bytes):
    """A time that is none, a pattern that is no text, a part too much or too few."""
    assert not good(forged(signed_part))


def test_a_token_that_is_too_long_is_not_looked_at():
    """Whoever signed it."""
    front = b"v1.1800000900.Kg."
    room = MAX_TOKEN - len(front) - len(b"." + forged(b"").rpartition(b".")[2])
    longest, longer = forged(front + b"n" * room), forged(front + b"n" * (room + 1))

    assert (len(longest), len(longer)) == (MAX_TOKEN, MAX_TOKEN + 1)
    assert (good(longest), good(longer), read(longer)) == (True, False, None)


def test_what_the_secret_signs_for_another_purpose_is_no_token():
    """The same bytes, signed without saying what for."""
    signed_part, _, _ = signed().rpartition(b".")
    other = hmac.digest(SECRET.encode(), signed_part, "sha256")

    assert not good(signed_part + b"." + urlsafe_b64encode(other).rstrip(b"="))


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("orders", "write it like '/orders/*'"),
        ("", "write it like"),
        ("/" * 600, "at most 512 bytes"),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error(pattern: str, complaint: str):
    """Said to who makes the token, since who uses it would learn nothing."""
    with pytest.raises(ConfigError, match=complaint.replace("*", r"\*")):
        signed(pattern)


def test_the_longest_pattern_fits_into_a_token():
    """So what can be made can be used."""
    assert good(signed("/" + "ü" * 255))


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"),
    [
        ("*", ["", "/", "/a/b", "/a\nb"], []),
        ("/", ["/"], ["", "//", "/a"]),
        ("/orders", ["/orders"], ["/orders/", "/order", "/orderss", "/x/orders", "/ORDERS"]),
        ("/orders/*", ["/orders/", "/orders/7", "/orders/7/lines"], ["/orders", "/orders7", "/x"]),
        ("/*/lines", ["/7/lines", "/a/b/lines", "//lines"], ["/lines", "/7/lines/1"]),
        ("*lines*", ["lines", "/a/lines/b"], ["/line", "/line/s"]),
        (
            "/orders/{order_id}",
            ["/orders/7", "/orders/{id}", "/orders/{order_id}"],
            ["/orders/", "/orders", "/orders/7/", "/orders/7/lines"],
        ),
        ("/o/{id:int}/x", ["/o/7/x"], ["/o//x", "/o/7/8/x"]),
        ("/files/{path:path}", ["/files/", "/files/a/b", "/files/{path}"], ["/files"]),
        ("/f/{name}.{kind}", ["/f/a.json", "/f/a.b.c", "/f/...", "/f/{n}.{k}"], ["/f/.a", "/f/a."]),
        ("/{a}/*", ["/a/", "/a/b/c"], ["//b", "/a"]),
        ("/{a}{b}", ["/ab", "/abc"], ["/a", "/a/b"]),
        ("/{", ["/{"], ["/", "/a"]),
        ("/{}", ["/{}"], ["/a"]),
        ("/a.c", ["/a.c"], ["/abc"]),
        ("/[ab]?", ["/[ab]?"], ["/a", "/ab"]),
        ("/ü/日*", ["/ü/日本"], ["/u/日本"]),
    ],
)
def test_what_a_pattern_means(pattern: str, fits: list[str], not_: list[str]):
    """A star is any text, a name in braces a segment, the rest stands for itself."""
    meant = Pattern(pattern)

    assert [path for path in fits if not meant.fits(path)] == []
    assert [path for path in not_ if meant.fits(path)] == []


def test_no_path_makes_a_pattern_try_for_long():
    """All ways are followed at once: a path that almost fits costs what any other of its length does."""
    paths = ["/" + "a" * (MAX_PATH - 1), "/" + "ab" * 2000]
    pattern = Pattern("/" + "*a" * 100 + "b{x}{y}{z}*" * 10 + "/end")
    began = time.thread_time()
    found = [pattern.fits(path) for path in paths for _ in range(3)]
    hard = time.thread_time() - began
    began = time.thread_time()
    plain = [Pattern("/*").fits(path) for path in paths for _ in range(3)]
    easy = time.thread_time() - began

    assert not any(found)
    assert all(plain)
    # With tries it would be more than the age of the universe.
    assert hard < 1000 * easy


def test_a_path_that_is_too_long_fits_nothing():
    """It is not looked at."""
    assert Pattern("*").fits("/" * MAX_PATH)
    assert not Pattern("*").fits("/" * (MAX_PATH + 1))
