"""Asks a service: urllib, because it is in Python, and a command asks a handful of times."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fastobs import catalogue
from fastobs._version import __version__

from .exposition import Samples, parse
from .failure import Failed

__all__ = ["TEXT", "Answer", "ask", "fetch", "is_url", "metrics_url", "origin", "samples", "scrape"]

TEXT = "text/plain; version=0.0.4"


class Answer(NamedTuple):
    """What a service said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def text(self) -> str:
        """The body; what is not UTF-8 is replaced."""
        return self.body.decode(errors="replace")


class _Stay(HTTPRedirectHandler):
    """A token goes to the address that was typed and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = build_opener(_Stay())


def ask(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    patience: float = 60.0,
) -> Answer:
    """One request, whatever the status of its answer; redirects are not followed.

    Args:
        url: http or https.
        headers: To send.
        method: Of the request.
        patience: Seconds without a byte until it is given up.

    Raises:
        Failed: There was no answer.
    """
    _check(url)
    said = {"User-Agent": f"fastobs/{__version__}", **(headers or {})}
    try:
        with _opener.open(Request(url, headers=said, method=method), timeout=patience) as response:  # noqa: S310 - checked above
            return _answer(response.status, response)
    except HTTPError as refused:
        with refused:
            return _answer(refused.code, refused)
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        msg = f"{url} did not answer: {reason}. Is the service running, and is this its address?"
        raise Failed(msg) from error


def is_url(place: str) -> bool:
    """Whether this names a service, not a file or a module."""
    return place.lower().startswith(("http://", "https://"))


def origin(url: str) -> str:
    """Scheme, host and port: ``http://127.0.0.1:8000``."""
    _check(url)
    where = urlsplit(url)
    return urlunsplit((where.scheme, where.netloc, "", "", ""))


def metrics_url(url: str) -> str:
    """The address of the metrics; a service without a path has them at ``/metrics``."""
    _check(url)
    where = urlsplit(url)
    return url if where.path.strip("/") else urlunsplit(where._replace(path="/metrics"))


def scrape(url: str, *, token: str | None = None) -> Samples:
    """What a service shows at the moment.

    Raises:
        Failed: No answer, or none with series of fastobs.
    """
    where = metrics_url(url)
    return samples(fetch(where, token=token).text, place=where)


def fetch(where: str, *, token: str | None = None, accept: str = TEXT) -> Answer:
    """One scrape as it is sent.

    Raises:
        Failed: The answer was not 200.
    """
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
    answer = ask(where, headers=headers)
    if answer.status == 401:
        msg = (
            f"{where} wants the token of metrics.token: give --token or set FASTOBS_METRICS_TOKEN."
        )
        raise Failed(msg)
    if answer.status != 200:
        msg = (
            f"{where} answered {answer.status}, not 200. Give the address that Prometheus scrapes."
        )
        raise Failed(msg)
    return answer


def samples(text: str, *, place: str) -> Samples:
    """The samples of a scrape.

    Raises:
        Failed: It cannot be parsed, or fastobs did not write it.
    """
    try:
        found = parse(text)
    except ValueError as error:
        msg = f"{place} is not in the Prometheus text format: {error}."
        raise Failed(msg) from error
    if catalogue.BUILD_INFO.name not in found:
        msg = (
            f"{place} has no {catalogue.BUILD_INFO.name}, so fastobs did not write it. "
            "Does the app call instrument(), and is this its address for metrics?"
        )
        raise Failed(msg)
    return found


def _check(url: str) -> None:
    if not is_url(url) or not urlsplit(url).hostname:
        msg = f"{url!r} is no address of a service; write it like http://127.0.0.1:8000."
        raise Failed(msg)


def _answer(status: int, response: Any) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status, headers, response.read())
