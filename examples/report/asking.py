"""Asks the running shop: is it ready, what are its numbers, where did one request's time go."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2

from fastobs.cli.exposition import Samples, parse

__all__ = ["ready", "save_profile", "scrape"]


def ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/healthz", timeout=2).is_success
    except httpx2.HTTPError:
        return False


def scrape(address: str) -> tuple[str, Samples]:
    """The numbers of whichever worker accepts, and who that was.

    Raises:
        ConnectionError: There was no answer, or not one that could be used.
    """
    try:
        # One connection stays with one worker, so the second answer names who gave the first.
        with httpx2.Client(base_url=address, timeout=10) as connection:
            metrics = connection.get("/metrics").raise_for_status().text
            worker = connection.get("/healthz").raise_for_status().json()["pid"]
    except httpx2.HTTPError as error:
        msg = f"/metrics did not answer: {error!r}."
        raise ConnectionError(msg) from error
    return str(worker), parse(metrics)


def save_profile(address: str, path: str, *, token: str, folder: Path) -> Path | None:
    """Ask for a profile of one request and keep its page; None when there is none.

    Raises:
        ConnectionError: There was no answer.
    """
    key = {"X-Profile": token}
    try:
        answer = httpx2.get(f"{address}{path}", headers=key, timeout=30)
        profile = answer.headers.get("X-Profile-Id")
        if profile is None:
            return None
        # It is rendered after the response, so the first question may come too early.
        for _ in range(600):
            page = httpx2.get(f"{address}/_fastobs/profiles/{profile}", headers=key, timeout=30)
            if page.is_success:
                file = folder / f"profile-{profile}.html"
                file.write_bytes(page.content)
                return file
            time.sleep(0.05)
    except httpx2.HTTPError as error:
        msg = f"The profile could not be fetched: {error!r}."
        raise ConnectionError(msg) from error
    return None
