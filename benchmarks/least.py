"""The least that an adapter's event can cost: hooks that only pass on, and what numbers are made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, partialmethod
from inspect import Parameter, iscoroutinefunction, signature
from time import perf_counter
from typing import Any, NamedTuple

from fastobs import catalogue
from fastobs._exchange import CURRENT
from fastobs._parts import enter, leave
from fastobs._process import process
from fastobs.probes._sites import call_site

__all__ = ["MadeOf", "empty_hooks", "keep", "nothing", "pieces"]


class MadeOf(NamedTuple):
    """What is needed to tell of an event, and how often. Parts only in a request."""

    adds: int = 0
    observes: int = 0
    clocks: int = 0
    asks: int = 1
    finds: int = 1
    keeps: int = 0
    lines: int = 0
    parts: int = 0


class Held:
    """What an adapter knows of a connection that is out."""

    account: object
    exchange: object
    proxy: object
    site: object
    since: float


def pieces(made_of: MadeOf) -> Callable[[], object]:
    """A function that does what the event is told by, and nothing else."""
    meters = process().meters
    counter = meters.counter(catalogue.CACHE_REQUESTS, "bench", "hit")
    takes = made_of._asdict()
    lines = {
        "adds": "cells[at] += 1.0",
        "observes": "observe(0.02)",
        "clocks": "clock()",
        "asks": "exchange = ask()",
        "finds": "rows[key]",
        "keeps": "keep()",
        "lines": "line()",
    }
    does = [line for piece, line in lines.items() for _ in range(takes[piece])]
    if made_of.parts:
        # Those two readings may be the ones of another number.
        now = "0.0" if made_of.clocks >= 2 else "clock()"
        does.append("if exchange is not None:")
        does += [f" {way}(exchange, 'bench', {now})" for way in ("enter", "leave")] * made_of.parts
    names: dict[str, Any] = {
        "cells": counter.cells,
        "at": counter.at,
        "observe": meters.histogram(catalogue.CACHE_LOAD, "bench").observe,
        "clock": perf_counter,
        "ask": CURRENT.get,
        "rows": {id(counter): counter},
        "key": id(counter),
        "keep": partial(keep, {}, counter),
        "line": call_site,
        "enter": enter,
        "leave": leave,
    }
    # Of defaults, which are the nearest.
    takes_them = ", ".join(f"{name}={name}" for name in names)
    exec("\n".join([f"def pieces({takes_them}):", *(f" {line}" for line in does)]), names)
    return names["pieces"]  # type: ignore[no-any-return]


def nothing() -> None:
    """Nothing."""


def keep(kept: dict[int, Held], counter: object) -> None:
    """Who has a connection."""
    key = id(held := Held())
    held.account = held.exchange = held.proxy = held.site = counter
    held.since = 0.0
    kept[key] = held
    del kept[key]


@contextmanager
def empty_hooks() -> Iterator[None]:
    """What adapters hook meanwhile is hooked with functions that do nothing of their own."""
    from fastobs.probes._hooks import Hooks

    owners: list[tuple[Any, str, Any]] = [(Hooks, "wrap", _wrap_empty)]
    if adapter := sys.modules.get("fastobs.probes.sqlalchemy"):
        owners.append((adapter.SQLAlchemy, "_listen", _listen_empty))
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in owners]
    for owner, name, empty in owners:
        setattr(owner, name, partialmethod(empty, vars(owner)[name]))
    try:
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def _wrap_empty(hooks: Any, wrap: Any, owner: type, name: str, _around: object) -> None:
    wrap(hooks, owner, name, _passing_on)


def _listen_empty(probe: Any, listen: Any, target: Any, name: str, _listener: object) -> None:
    # Each has one of its own, as each adapter has.
    listen(probe, target, name, lambda *_: None)


def _passing_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes what the original takes, and hands it on one by one: the cheapest way."""
    takes, gives = [], []
    for name, parameter in signature(original, follow_wrapped=False).parameters.items():
        star = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        only_named = parameter.kind is Parameter.KEYWORD_ONLY
        if only_named and not any(one.startswith("*") for one in takes):
            takes.append("*")
        takes.append(star + name)
        gives.append(f"{name}={name}" if only_named else star + name)
    # What is awaited has its answer only then.
    way = ("async def", "await") if iscoroutinefunction(original) else ("def", "")
    source = f"{way[0]} hook({', '.join(takes)}): return {way[1]} original({', '.join(gives)})"
    names: dict[str, Any] = {"original": original}
    exec(source, names)
    hook = names["hook"]
    hook.__defaults__ = getattr(original, "__defaults__", None)
    hook.__kwdefaults__ = getattr(original, "__kwdefaults__", None)
    return hook  # type: ignore[no-any-return]
