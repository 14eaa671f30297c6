"""Hooks into other libraries, and how they come out again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

__all__ = ["Hooks", "alike", "parameters"]


class Hooks:
    """What one adapter hooked.

    Attributes:
        on: Whether the hooks are meant to do anything. If somebody wrapped one of them in turn, it
            cannot be taken out; then it must call the original and nothing else.
    """

    def __init__(self) -> None:
        self.on = False
        self._undo: list[Callable[[], object]] = []
        # What could not be taken out: the hook, and how to try again.
        self._left: dict[tuple[type, str], tuple[Any, Callable[[], object]]] = {}

    def wrap(self, owner: type, name: str, around: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a method that the class itself defines by what ``around`` makes of it."""
        original = owner.__dict__[name]
        left, undo_it = self._left.pop((owner, name), (None, None))
        if undo_it is not None and _lies_within(left, original, owner):
            # A second one would count everything twice.
            self.undone_by(undo_it)
            return
        hooked = wraps(original)(around(original))

        def undo() -> None:
            if owner.__dict__.get(name) is hooked:
                setattr(owner, name, original)
            else:
                self._left[owner, name] = hooked, undo

        setattr(owner, name, hooked)
        self.undone_by(undo)

    def undone_by(self, undo: Callable[[], object]) -> None:
        """Remember how to take out what was hooked in another way."""
        self.on = True
        self._undo.append(undo)

    def undo(self) -> None:
        """Take out everything, the latest first."""
        self.on = False
        while self._undo:
            self._undo.pop()()


def alike(hook: Callable[..., Any], method: Callable[..., Any]) -> bool:
    """Whether a hook takes exactly what the method takes: then it may hand that on one by one.

    To pack and to unpack it takes longer than most hooks. Somebody's wrapper is not asked what is
    within it.
    """
    try:
        mine, its = (signature(each, follow_wrapped=False) for each in (hook, method))
    except (TypeError, ValueError):
        return False
    # Behind ``self``, which has another name in a hook.
    taken, given = (
        [(one.name, one.kind, one.default) for one in each.parameters.values()][1:]
        for each in (mine, its)
    )
    return taken == given


def parameters(owner: type, name: str) -> tuple[str, ...]:
    """What a method of that class takes; nothing if it has none, or does not tell."""
    try:
        return tuple(signature(vars(owner)[name]).parameters)
    except (KeyError, TypeError, ValueError):
        return ()


def _lies_within(hook: Any, method: Any, owner: type) -> bool:
    """Whether a method leads to this hook, as far as can be told."""
    while method is not hook:
        inner = getattr(method, "__wrapped__", None)
        if inner is None:
            # Not the library's own, so it is somebody's wrapper that hides what it wraps.
            return getattr(method, "__module__", None) != owner.__module__
        method = inner
    return True
