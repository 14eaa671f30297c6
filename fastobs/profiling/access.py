"""Who may have a request profiled, and who may look at profiles."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from fastobs._exchange import Exchange

from .tokens import Pattern, verify

__all__ = ["Access", "Grant", "Visit"]

FORWARDED = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""With one of these the peer is a proxy, and whoever is behind it may be anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Leave to profile one request.

    Attributes:
        trigger: What asked for the profile; a label of the counter, and shown with the profile.
    """

    trigger: str = "header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a visitor of the viewer may see.

    Attributes:
        refused: The status with which they are turned away; None lets them in.
        routes: Those whose profiles they see; None is all.
        link: The token that was part of the address, and has to be part of the next one.
    """

    refused: int | None = None
    routes: Pattern | None = None
    link: str = ""

    def shows(self, route: str) -> bool:
        """Whether profiles of a route, given by its template, are for this visitor."""
        return self.routes is None or self.routes.fits(route)


class Access:
    """The one place that compares tokens: the secret itself, and those that are signed with it.

    Without a token everything is closed, except in debug mode for who sits at the same machine.

    Args:
        token: The secret; None or empty is no token.
        debug: Whether the app is in debug mode; asked each time, since an app may change it.
        now: Seconds since the epoch, by which signed tokens end.
    """

    def __init__(
        self,
        token: str | None,
        *,
        debug: Callable[[], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        # FASTOBS_PROFILES_TOKEN= in an environment file must not admit everybody without a token.
        self._token = token.encode() if token else None
        self._debug = debug
        self._now = now

    def concerns(self, scope: Scope) -> bool:
        """Whether ``X-Profile`` means us; else it is a header like any other, maybe the app's own."""
        return self._token is not None or self._at_home(scope)

    def allowed(self, value: bytes, exchange: Exchange) -> Grant | None:
        """Leave for this exchange to be profiled, given what its ``X-Profile`` header says."""
        if self._token is None:
            return Grant() if self._at_home(exchange.scope) else None
        value = value.strip()
        if compare_digest(value, self._token):
            return Grant()
        signed = verify(value, self._token, now=self._now())
        # It is not routed yet, so that the path stands for the route.
        if signed is not None and signed.pattern.fits(_path(exchange.scope)):
            return Grant()
        return None

    def visit(self, scope: Scope) -> Visit:
        """What may be seen by whoever sent this request to the viewer."""
        if self._token is not None:
            return self._with_token(scope, self._token)
        if not self._at_home(scope):
            return Visit(refused=404)
        # A foreign site can point its name at 127.0.0.1 and have a browser read what is open to
        # that browser's machine (DNS rebinding); it cannot do so with a number or "localhost".
        known = _names_this_machine(Headers(scope=scope).get("host", ""))
        return Visit(refused=None if known else 403)

    def _with_token(self, scope: Scope, secret: bytes) -> Visit:
        offered = [each.encode() for each in _offered(Headers(scope=scope))]
        if any(compare_digest(each, secret) for each in offered):
            return Visit()
        for each in offered:
            if (signed := verify(each, secret, now=self._now())) is not None:
                return Visit(routes=signed.pattern)
        # An address is in every log on the way, so that only what ends by itself may be part of it.
        link = QueryParams(scope["query_string"]).get("token", "")
        if (signed := verify(link.encode(), secret, now=self._now())) is not None:
            return Visit(routes=signed.pattern, link=link)
        return Visit(refused=401)

    def _at_home(self, scope: Scope) -> bool:
        if not self._debug() or not (client := scope.get("client")):
            return False
        if any(name in FORWARDED for name, _ in scope["headers"]):
            return False
        return _is_loopback(client[0])


def _offered(headers: Headers) -> list[str]:
    """Every token in a request: the header's own, a bearer's, or the password of a browser."""
    offered = [headers.get("x-profile", "").strip()]
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        offered.append(credentials.strip())
    elif scheme.lower() == "basic":
        try:
            pair = base64.b64decode(credentials.strip(), validate=True).decode()
        except ValueError:
            # Not ASCII, not base64, or not UTF-8.
            return offered
        offered.append(pair.partition(":")[2])
    return offered


def _path(scope: Scope) -> str:
    """As routing sees it: without the prefix of a proxy."""
    path, root = scope["path"], scope.get("root_path", "")
    below: str = path.removeprefix(root)
    return below if below.startswith("/") else path


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _names_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
