"""Hooks that come out, and those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from fastobs.probes._hooks import Hooks, alike


@pytest.fixture
def kind() -> type:
    """A library's class."""

    class Kind:
        def ask(self) -> list[str]:
            return ["asked"]

    return Kind


def around(original: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return lambda it: ["hooked", *original(it)]


def hide(original: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    def wrapper(it: Any) -> list[str]:
        return ["theirs", *original(it)]

    wrapper.__module__ = "elsewhere"
    return wrapper


def show(original: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return wraps(original)(hide(original))


@pytest.mark.parametrize("wrapped", [show, hide])
def test_a_hook_that_somebody_has_wrapped_is_not_put_in_again(kind: Any, wrapped: Any) -> None:
    """Whether or not their wrapper says what it wraps; it is on again."""
    hooks = Hooks()
    hooks.wrap(kind, "ask", around)
    kind.ask = wrapped(kind.ask)
    for _ in range(2):
        hooks.undo()
        assert not hooks.on
        hooks.wrap(kind, "ask", around)

    assert hooks.on
    assert kind().ask() == ["theirs", "hooked", "asked"]


def test_a_hook_that_somebody_has_put_back_comes_out_the_next_time(kind: Any) -> None:
    """Their wrapper was taken out after ours could not be."""
    plain, hooks = kind.ask, Hooks()
    hooks.wrap(kind, "ask", around)
    hook = kind.ask
    kind.ask = show(hook)
    hooks.undo()
    kind.ask = hook

    hooks.wrap(kind, "ask", around)
    assert kind().ask() == ["hooked", "asked"]

    hooks.undo()
    assert kind.ask is plain


def test_a_hook_that_somebody_has_thrown_out_is_put_in_again(kind: Any) -> None:
    """They restored what they had found before ours was there."""
    plain, hooks = kind.ask, Hooks()
    kind.ask = show(plain)
    hooks.wrap(kind, "ask", around)
    kind.ask = plain
    hooks.undo()

    hooks.wrap(kind, "ask", around)

    assert kind().ask() == ["hooked", "asked"]


def test_a_hook_hands_on_one_by_one_only_what_the_method_takes() -> None:
    """Name by name with its defaults; of what somebody has wrapped, or of C, nobody knows."""

    def hook(it: Any, key: Any, default: Any = None) -> Any:
        return it, key, default

    def same(self: Any, key: str, default: int | None = None) -> Any:
        return hook(self, key, default)

    def another_default(self: Any, key: str, default: int | None = 0) -> Any:
        return hook(self, key, default)

    def more(self: Any, key: str, default: int | None = None, *, tags: tuple[str, ...] = ()) -> Any:
        return hook(self, key, default), tags

    others: list[Any] = [another_default, more, lambda: None, wraps(same)(lambda *_: None)]

    assert alike(hook, same)
    assert [other for other in (*others, dict.get, dict.update) if alike(hook, other)] == []
