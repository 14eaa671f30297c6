"""The shape of an SQL statement: its text without what came from data."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["LONGEST", "shape", "shown"]

LONGEST = 10_000
"""Characters; a longer text has no shape."""

SHOWN = 300
"""Characters that people are shown."""

_UNSURE = re.compile(r"[\\#]|\$\w*\$|\bn?q'|\[[^]']*'|--|/\*", re.IGNORECASE)
"""Escapes, comments and quotes that databases read differently: where one of them is in a text, it
is not sure where a literal ends."""

_LITERAL = re.compile(
    r"""
    (?P<name> "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) )    # a literal only for some databases
    | '(?:[^']|'')*(?:'|\Z)
    | \b\d[\w.]*
    """,
    re.VERBOSE,
)
_LIST = re.compile(r"\(\s*(?:\?|%s)(?:\s*,\s*(?:\?|%s))*\s*\)")
_ROWS = re.compile(r"\(\?\)(?:\s*,\s*\(\?\))+")
_EXPANDING = re.compile(r"__\[POSTCOMPILE_[^]]*\]")

DOUBLE_QUOTED = frozenset({"mysql", "mariadb", "sqlite"})
"""Databases that may take ``"text"`` for a literal."""


def shape(text: str) -> str:
    """What is equal for statements that differ in literals and in the length of lists only.

    Not to be shown: where it is not sure what is a literal, it is the text itself. Empty if the text
    is too long to be looked at.
    """
    if len(text) > LONGEST:
        return ""
    if _UNSURE.search(text):
        return text
    return _ROWS.sub("(?)", _LIST.sub("(?)", _LITERAL.sub(_blank, text)))


@lru_cache(maxsize=100)
def shown(shape: str, system: str) -> str:
    """A shape as people may see it: no literal is in it, and it is not long.

    Args:
        shape: From `shape`.
        system: The dialect's name.
    """
    unsure = _UNSURE.search(shape)
    if unsure is not None:
        # A quote may come before what makes it unsure; what is before both has numbers only.
        head = re.split(r"['\"`]", shape[: unsure.start()], maxsplit=1)[0]
        return _short(f"{_LITERAL.sub('?', head)}…")
    if system in DOUBLE_QUOTED:
        shape = re.sub(r'"[^"]*"?', "?", shape)
    return _short(_EXPANDING.sub("?", shape))


def _blank(found: re.Match[str]) -> str:
    return found["name"] or "?"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
