"""Calls per request, counted by the interpreter: the same number every time, on every machine."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from types import FrameType
from typing import Any, TypedDict

from . import driver, shop
from .variants import VARIANTS, Subject

__all__ = ["Calls", "count_calls"]

WARM_UP = 50


class Calls(TypedDict):
    """What one request calls.

    The request is a typical one: where one request in a hundred is sampled, it is one of the others.
    """

    python: int
    """Functions written in Python, entered or resumed."""
    c: int
    """Functions written in C, called from Python."""
    same: float
    """Share of the requests that had exactly these numbers."""


def count_calls(name: str, *, requests: int) -> Calls:
    """Count what one request calls, in this process."""
    return asyncio.run(_count(Subject(VARIANTS[name]), requests))


async def _count(subject: Subject, requests: int) -> Calls:
    async with subject.running():
        await subject.drive(WARM_UP)
        with subject.world():
            # A collection calls back whoever asked for it, in the middle of whatever runs.
            gc.collect()
            gc.disable()
            counts = Counter([await _one(subject) for _ in range(requests)])
            gc.enable()
        subject.driven += requests
        await subject.check()
    ((python, c), times), *_ = counts.most_common(1)
    return Calls(python=python, c=c, same=times / requests)


async def _one(subject: Subject) -> tuple[int, int]:
    python = c = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal python, c
        if event == "call":
            python += 1
        elif event == "c_call":
            c += 1

    answer = driver.Answer()
    scope = driver.scope_for(shop.PATH)
    sys.setprofile(count)
    try:
        await subject.app(scope, answer.receive, answer.send)
    finally:
        sys.setprofile(None)
    # The call that ends the counting was counted.
    return python, c - 1
