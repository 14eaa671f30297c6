"""Thresholds as somebody else wants them: read from words like ``pool_use=0.9``, and checked."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from textwrap import dedent
from typing import Any, NamedTuple, get_type_hints

from fastobs.catalogue import HTTP_DURATION

from .thresholds import FALLS, OFF, SHARE, THRESHOLDS, Pair, Thresholds

__all__ = ["SLOS", "Line", "chosen", "listed"]

SLOS = {"availability": "slo_availability", "latency": "slo_latency"}
"""The objectives that people state in per cent, and the thresholds that are their budgets."""

BURNS = ("burn_1h", "burn_6h", "burn_1d", "burn_3d")
SAID: dict[str, tuple[str, ...]] = {
    name: hint.__metadata__
    for name, hint in get_type_hints(Thresholds, include_extras=True).items()
}
"""Of each threshold its unit, and whether it falls or may be off."""
LIST = "`fastobs alerts thresholds` lists them."


class Line(NamedTuple):
    """A threshold as it can be set."""

    name: str
    value: float
    unit: str
    reason: str


def listed(limits: Thresholds = THRESHOLDS) -> Iterator[Line]:
    """Every number that can be set, with the reason for what it is."""
    reasons = _reasons()
    for name, value in _flat(limits).items():
        field, _, _ = name.partition(".")
        yield Line(name, value, SAID[field][0], reasons[field])


def chosen(slos: Iterable[str], given: Iterable[str]) -> Thresholds:
    """The shipped thresholds, but for these.

    Args:
        slos: ``availability=99.5``: the per cent of requests that keep the promise.
        given: ``pool_use=0.9``, ``latency_p99.critical=1``: a number in the threshold's unit.

    Raises:
        ValueError: One does not exist, or rules with it could not mean anything. The message says
            what, why, and what to write.
    """
    flat = _flat(THRESHOLDS)
    for word in slos:
        name, percent = _read(word, like="availability=99.5")
        flat[_objective(name)] = _budget(name, percent)
    for word in given:
        name, value = _read(word, like="pool_use=0.9")
        _check_name(name, flat)
        flat[name] = value
        _check_value(name, value)
    _check_together(limits := _built(flat))
    return limits


def _read(word: str, *, like: str) -> tuple[str, float]:
    name, _, text = word.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{word!r} is no name and number; write it like {like}."
        raise ValueError(msg)
    return name, value


def _objective(name: str) -> str:
    if name not in SLOS:
        msg = f"There is no SLO {name!r}; there are {' and '.join(SLOS)}."
        raise ValueError(msg)
    return SLOS[name]


def _budget(name: str, percent: float) -> float:
    # Nobody promises less than half; 0.995 is a ratio by mistake.
    if not 50 <= percent < 100:
        msg = (
            f"An SLO of {name}={percent:g} is no promise: it is per cent of requests, at least 50 and "
            f"below 100. Write it like {name}=99.5."
        )
        raise ValueError(msg)
    # In floats, 1 - 0.999 is a little more than 0.001.
    return round(1 - percent / 100, 12)


def _check_name(name: str, flat: dict[str, float]) -> None:
    if name in flat:
        return
    if name in SAID:
        msg = f"{name} is two thresholds: set {name}.target, {name}.critical, or both."
        raise ValueError(msg)
    near = get_close_matches(name, flat, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    msg = f"There is no threshold {name!r}.{hint} {LIST}"
    raise ValueError(msg)


def _check_value(name: str, value: float) -> None:
    unit, *more = SAID[name.partition(".")[0]]
    if value < 0 or (value == 0 and OFF not in more):
        msg = f"{name}={value:g} is always or never reached; give a number above 0 ({unit})."
        raise ValueError(msg)
    if unit == SHARE and value > 1:
        msg = f"{name}={value:g} is more than everything; it is a share from 0 to 1, like 0.9 for 90 %."
        raise ValueError(msg)


def _check_together(limits: Thresholds) -> None:
    for name, said in SAID.items():
        pair = getattr(limits, name)
        if not isinstance(pair, Pair) or (OFF in said and 0 in (pair.target, pair.critical)):
            continue
        first, second = sorted((pair.target, pair.critical), reverse=FALLS in said)
        if (pair.target, pair.critical) != (first, second):
            msg = (
                f"{name}.critical={pair.critical:g} is reached before {name}.target={pair.target:g}, so "
                "somebody is woken before there is a ticket. Set the other one, too."
            )
            raise ValueError(msg)
    bound = limits.latency_p99.target
    if bound not in HTTP_DURATION.buckets:
        buckets = ", ".join(f"{one:g}" for one in HTTP_DURATION.buckets)
        msg = (
            f"latency_p99.target={bound:g} is no bucket of {HTTP_DURATION.name}, so nobody can count the "
            f"requests that keep the latency SLO. Choose one of {buckets}."
        )
        raise ValueError(msg)
    for slo, budget in ((slo, getattr(limits, name)) for slo, name in SLOS.items()):
        for burn in BURNS:
            times = getattr(limits, burn)
            if times * budget >= 1:
                msg = (
                    f"{burn}={times:g} times the budget of the {slo} SLO ({budget:g}) is more than all "
                    f"requests, so its alert could never fire. Give {slo} an SLO above "
                    f"{100 - 100 / times:.4g}, or set a lower {burn}."
                )
                raise ValueError(msg)


def _flat(limits: Thresholds) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name in SAID:
        value = getattr(limits, name)
        if isinstance(value, Pair):
            flat |= {f"{name}.target": value.target, f"{name}.critical": value.critical}
        else:
            flat[name] = value
    return flat


def _built(flat: dict[str, float]) -> Thresholds:
    values: dict[str, Any] = {
        name: flat[name] if name in flat else Pair(flat[f"{name}.target"], flat[f"{name}.critical"])
        for name in SAID
    }
    return Thresholds(**values)


def _reasons() -> dict[str, str]:
    """The docstring below each threshold, on one line."""
    (written,) = ast.parse(dedent(inspect.getsource(Thresholds))).body
    assert isinstance(written, ast.ClassDef)
    found = {}
    for line, below in zip(written.body, written.body[1:], strict=False):
        match line, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
