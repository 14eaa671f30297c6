"""``GET /metrics``: negotiated, compressed, guarded, and rendered off the event loop."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from hmac import compare_digest
from time import perf_counter

from prometheus_client import Metric as Family
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from . import catalogue
from ._aside import Aside
from .cells import Meters
from .cells.bridge import write
from .cells.render import OPENMETRICS, TEXT, render

__all__ = ["exposition", "metrics_page", "zipped"]


Users = Callable[[], list[Family]]
"""The users' own metrics, now."""


def metrics_page(meters: Meters, *, token: str | None, users: Users) -> ASGIApp:
    """An ASGI app that answers with all metrics.

    Args:
        meters: Ours.
        token: Bearer token that must be sent; None lets everybody in.
        users: Metrics that are appended.
    """
    # One scrape at a time.
    aside = Aside(1)
    took = meters.histogram(catalogue.SELF_SCRAPE)

    def produce(*, openmetrics: bool, compressed: bool) -> bytes:
        started = perf_counter()
        parts = exposition(meters, users, openmetrics=openmetrics)
        body = zipped(parts) if compressed else b"".join(parts)
        took.observe(perf_counter() - started)
        return body

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] not in {"GET", "HEAD"}:
            response: Response = PlainTextResponse(
                "Method Not Allowed\n", status_code=405, headers={"Allow": "GET, HEAD"}
            )
        elif token is not None and not _allowed(headers.get("authorization", ""), token):
            response = PlainTextResponse(
                "Send the token of fastobs' metrics.token: 'Authorization: Bearer ...'.\n",
                status_code=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        else:
            openmetrics = _wants_openmetrics(headers.get("accept", ""))
            compressed = _accepts_gzip(headers.get("accept-encoding", ""))
            body = await aside.run(lambda: produce(openmetrics=openmetrics, compressed=compressed))
            response = Response(
                body,
                headers={"Vary": "Accept, Accept-Encoding"}
                | ({"Content-Encoding": "gzip"} if compressed else {}),
                media_type=OPENMETRICS if openmetrics else TEXT,
            )
        await response(scope, receive, send)

    return page


def exposition(meters: Meters, users: Users, *, openmetrics: bool) -> Iterator[bytes]:
    """Everything there is to show now, in one of the two text formats, part by part."""
    meters.refresh()
    for part in render(meters, openmetrics=openmetrics):
        yield part.encode()
    yield write(users(), openmetrics=openmetrics).encode()
    if openmetrics:
        yield b"# EOF\n"


def zipped(parts: Iterable[bytes]) -> bytes:
    """As gzip has it. Level 1 takes a tenth of the default's time for a body a third larger."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*map(packer.compress, parts), packer.flush()])


def _allowed(authorization: str, token: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and compare_digest(given.strip().encode(), token.encode())


def _wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics is preferred over text; RFC 9110 section 12.5.1, as far as scrapers go."""
    weights = {kind: weight for kind, weight in map(_weighed, accept.split(",")) if kind}
    openmetrics = weights.get("application/openmetrics-text", 0.0)
    text = max(weights.get("text/plain", 0.0), weights.get("text/*", 0.0), weights.get("*/*", 0.0))
    return openmetrics > 0 and openmetrics >= text


def _accepts_gzip(accept_encoding: str) -> bool:
    weights = dict(map(_weighed, accept_encoding.split(",")))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weighed(entry: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in entry.split(";"))
    weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0.0
