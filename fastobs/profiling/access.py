"""Who may have a request profiled, and who may look at profiles."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from fastobs._exchange import Exchange

__all__ = ["Access", "Grant"]

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


class Access:
    """The one place that compares tokens.

    Without a token everything is closed, except in debug mode for who sits at the same machine.

    Args:
        token: The secret; None or empty is no token.
        debug: Whether the app is in debug mode; asked each time, since an app may change it.
    """

    def __init__(self, token: str | None, *, debug: Callable[[], bool]) -> None:
        # FASTOBS_PROFILES_TOKEN= in an environment file must not admit everybody without a token.
        self._token = token.encode() if token else None
        self._debug = debug

    def concerns(self, scope: Scope) -> bool:
        """Whether ``X-Profile`` means us; else it is a header like any other, maybe the app's own."""
        return self._token is not None or self._at_home(scope)

    def allowed(self, value: bytes, exchange: Exchange) -> Grant | None:
        """Leave for this exchange to be profiled, given what its ``X-Profile`` header says."""
        if self._token is None:
            return Grant() if self._at_home(exchange.scope) else None
        return Grant() if compare_digest(value.strip(), self._token) else None

    def refusal(self, scope: Scope) -> int | None:
        """The status with which a visitor of the viewer is turned away; None lets them in."""
        if self._token is not None:
            headers = Headers(scope=scope)
            return None if any(map(self._is_token, _offered(headers))) else 401
        if not self._at_home(scope):
            return 404
        # A foreign site can point its name at 127.0.0.1 and have a browser read what is open to
        # that browser's machine (DNS rebinding); it cannot do so with a number or "localhost".
        return None if _names_this_machine(Headers(scope=scope).get("host", "")) else 403

    def _is_token(self, given: str) -> bool:
        return compare_digest(given.encode(), self._token or b"")

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
