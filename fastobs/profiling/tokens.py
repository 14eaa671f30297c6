"""Signed tokens: leave for some routes that ends by itself, made of a secret that is not given away.

``v1.<expires>.<pattern>.<nonce>.<signature>``: seconds since the epoch, a pattern of routes, a random
number, and the HMAC of all that is before it. Pattern, nonce and signature are base64url without its
padding. Nothing about a token is kept anywhere, so that any worker can check it.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest, digest

from fastobs.errors import ConfigError

__all__ = ["EVERY", "LONGEST", "Pattern", "Signed", "read", "sign", "verify"]

EVERY = "*"
"""The pattern of all routes."""
LONGEST = 24 * 3600.0
"""Seconds for which a token may be good."""
VERSION = b"v1"
PURPOSE = b"fastobs: leave to profile\0"
"""Is signed too, so that what the secret signs for another purpose is no token."""
MAX_TOKEN = 1024
"""Bytes. One that is longer is not looked at."""
MAX_DIGITS = 12
"""Of a time."""
MAX_PATTERN = 512
"""Bytes."""
MAX_PATH = 4096
"""Characters. One that is longer fits no pattern."""
ELEMENT = re.compile(
    r"(?P<any>(?:\*|\{[^{}/]*:path\})+)|(?P<part>\{[^{}/]+\})|(?P<letter>.)", re.DOTALL
)


class Pattern:
    """Routes, written like one.

    ``*`` is any text, ``{name}`` a segment of a path or a part of one, and ``{name:path}`` any text
    again. Everything else stands for itself. So the template of a route fits its paths, and itself.

    All ways in which a path may fit are followed at the same time, so that it takes no longer than
    the path is; a regular expression could be made to try for hours, by whoever chooses the path.

    Args:
        text: What to fit.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # A bit for each place in the pattern; those at which there may be any character, any but a
        # slash, exactly one that is no slash, and this character.
        self._any = self._many = self._one = 0
        self._letters: dict[str, int] = {}
        place = 1
        for element in ELEMENT.finditer(text):
            match element.lastgroup:
                case "any":
                    self._any |= place
                case "part":
                    self._one |= place
                    place <<= 1
                    self._many |= place
                case _:
                    letter = element[0]
                    self._letters[letter] = self._letters.get(letter, 0) | place
            place <<= 1
        self._end = place

    def fits(self, path: str) -> bool:
        """Whether a path, or the template of a route, is meant."""
        if len(path) > MAX_PATH:
            return False
        reached = self._onward(1)
        for letter in path:
            steps, stays = self._letters.get(letter, 0), self._any
            if letter != "/":
                steps, stays = steps | self._one, stays | self._many
            reached = self._onward((reached & steps) << 1 | (reached & stays))
        return bool(reached & self._end)

    def _onward(self, reached: int) -> int:
        """Also the places behind what may be nothing."""
        empty = self._any | self._many
        while (more := reached | (reached & empty) << 1) != reached:
            reached = more
        return reached


@dataclass(frozen=True, slots=True)
class Signed:
    """What a token says."""

    expires: int
    """Seconds since the epoch."""
    pattern: Pattern


def sign(secret: str, *, pattern: str = EVERY, expires: float) -> str:
    """A new token.

    Args:
        secret: The service's ``profiles.token``.
        pattern: Routes, see `Pattern`.
        expires: Seconds since the epoch.

    Raises:
        ConfigError: No route fits the pattern, or it is too long.
    """
    if not pattern.startswith(("/", EVERY)):
        msg = f"No route is like {pattern!r}; write it like '/orders/*' or '/orders/{{order_id}}'."
        raise ConfigError(msg)
    if len(encoded := pattern.encode()) > MAX_PATTERN:
        msg = f"A pattern has at most {MAX_PATTERN} bytes; shorten it with '*'."
        raise ConfigError(msg)
    said = (VERSION, b"%d" % expires, _base64(encoded), _base64(secrets.token_bytes(12)))
    signed = b".".join(said)
    return b".".join((signed, _signature(signed, secret.encode()))).decode()


def verify(token: bytes, secret: bytes, *, now: float) -> Signed | None:
    """What a token gives; None if the secret did not make it, or it is over. Takes any bytes.

    Args:
        token: As it came.
        secret: The service's ``profiles.token``.
        now: Seconds since the epoch.
    """
    if len(token) > MAX_TOKEN or not token.startswith(VERSION + b"."):
        return None
    signed, _, signature = token.rpartition(b".")
    if not compare_digest(signature, _signature(signed, secret)):
        return None
    given = read(token)
    return given if given is not None and now < given.expires else None


def read(token: bytes) -> Signed | None:
    """What a token says, whoever made it; None if it is no signed token. Takes any bytes."""
    version, *said = token.split(b".") if len(token) <= MAX_TOKEN else [b""]
    if version != VERSION or len(said) != 4:
        return None
    expires, pattern, _, _ = said
    if not expires.isdigit() or len(expires) > MAX_DIGITS:
        return None
    try:
        text = b64decode(pattern + b"=" * (-len(pattern) % 4), b"-_", validate=True).decode()
    except ValueError:
        # Neither base64 nor UTF-8.
        return None
    return Signed(int(expires), _pattern(text))


_pattern = lru_cache(maxsize=64)(Pattern)


def _signature(signed: bytes, secret: bytes) -> bytes:
    return _base64(digest(secret, PURPOSE + signed, "sha256"))


def _base64(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")
