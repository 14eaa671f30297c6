"""``GET /_fastobs/profiles`` and ``/_fastobs/profiles/{id}``: guarded, rendered off the event loop."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import partial
from time import monotonic

import anyio
from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastobs._aside import Aside
from fastobs._contain import contain

from .access import Access, Visit
from .stacks import Stacks
from .store import Store, is_id

__all__ = ["viewer"]

PAUSE = 0.05
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CLOSED = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'nonce-{}'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Scripts of the page run, but in an origin of their own: even one that was smuggled into a profile
could neither call the app on behalf of the viewer nor send anything anywhere. Its links to formats
that are files may be followed."""

REFUSALS = {
    401: "Send the token of profiles.token, or one that was made from it and has not ended: "
    "'Authorization: Bearer ...', 'X-Profile: ...', or as the password a browser asks for.\n",
    403: "Without a token, profiles are shown under the name of this machine only. Open "
    "http://localhost or http://127.0.0.1 with the port of the app.\n",
    404: "Not Found\n",
}


OTHER_ROUTE = "This token is for other routes than the one of this profile.\n"


def viewer(store: Store, *, access: Access, prefix: str, patience: float = 1.0) -> ASGIApp:
    """An ASGI app that lists profiles and shows one.

    Args:
        store: Where they are.
        access: Who may look.
        prefix: The path that we answer at and below.
        patience: Seconds to wait for a profile that is not there: the response with its id is on
            its way before the profile is written, maybe by another worker.
    """
    aside = Aside(2)

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(scope)
        response.headers.update({**HEADERS, **response.headers})
        await response(scope, receive, send)

    async def answer(scope: Scope) -> Response:
        visit = access.visit(scope)
        if visit.refused is not None:
            return _refuse(visit.refused)
        below = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(prefix)
        kind, _, profile = below.removeprefix("/").partition("/")
        if kind != "profiles" or (profile and not is_id(profile)):
            return _refuse(404)
        if scope["method"] not in {"GET", "HEAD"}:
            return _plain("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"})
        name = QueryParams(scope["query_string"]).get("format", "html")
        if not profile:
            here = "" if below.endswith("/") else "profiles/"
            return await aside.run(partial(_list, store, visit, name, here))
        return await show(visit, profile, name)

    async def show(visit: Visit, profile: str, name: str) -> Response:
        deadline = monotonic() + patience
        while True:
            shown = await aside.run(partial(_show, store, visit, profile, name))
            if shown is not None:
                return shown
            if monotonic() >= deadline:
                return _refuse(404)
            await anyio.sleep(PAUSE)

    return page


def _list(store: Store, visit: Visit, name: str, here: str) -> Response:
    from .views import LISTS, Around

    if (chosen := LISTS.get(name)) is None:
        return _unknown(LISTS)
    try:
        found = [meta for meta in store.list() if visit.shows(meta.route)]
        body = chosen.render(found, Around(here=here, token=visit.link))
    except Exception as error:
        return _broken(error)
    return Response(body, media_type=chosen.media_type, headers={"Content-Security-Policy": CLOSED})


def _show(store: Store, visit: Visit, profile: str, name: str) -> Response | None:
    from .views import FORMATS, Around

    if (chosen := FORMATS.get(name)) is None:
        return _unknown(FORMATS)
    nonce = secrets.token_urlsafe(16)
    try:
        if (found := store.get(profile)) is None:
            return None
        meta, stored = found
        if not visit.shows(meta.route):
            return _plain(OTHER_ROUTE, 403)
        body = chosen.render(meta, Stacks.decode(stored), Around(nonce=nonce, token=visit.link))
    except Exception as error:
        return _broken(error)
    headers = {"Content-Security-Policy": SANDBOX.format(nonce) if name == "html" else CLOSED}
    if chosen.ending:
        file = f"profile-{profile}.{chosen.ending}"
        headers["Content-Disposition"] = f'attachment; filename="{file}"'
    if isinstance(body, str):
        # What was a broken byte in a file's name cannot be encoded again.
        body = body.encode(errors="replace")
    return Response(body, media_type=chosen.media_type, headers=headers)


def _unknown(formats: Iterable[str]) -> Response:
    return _plain(f"Formats are: {', '.join(formats)}.\n", 400)


def _broken(error: Exception) -> Response:
    contain("profiles", error)
    return _plain("This cannot be shown; the log of the app says why.\n", 500)


def _refuse(status: int) -> Response:
    # The realm is what a browser's question shows; it sends the password as HTTP Basic.
    asks = {"WWW-Authenticate": 'Basic realm="fastobs profiles", charset="UTF-8"'}
    return _plain(REFUSALS[status], status, asks if status == 401 else {})


def _plain(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(
        text, status_code=status, headers={"Content-Security-Policy": CLOSED, **(headers or {})}
    )
