"""Keys as a bounded set of templates: ``user:*`` for ``user:42`` and ``user:bob@example.com``."""

from __future__ import annotations

import re

__all__ = ["Templates"]

SEPARATOR = re.compile(r"([:/|])")
WEAK_SEPARATOR = re.compile(r"([._\-])")
"""Used in a key that has no other, and is no word: ``user_42``."""

WORD = re.compile(r"[A-Za-z_](?:[A-Za-z_.\-]{0,31}|[A-Za-z_.\-]{0,30}[A-Za-z][0-9])|[vV][0-9]{1,2}")
"""What may stay as it is; whatever has more digits, an @ or anything else is somebody's."""

HEXADECIMAL = re.compile(r"[0-9a-fA-F]{8,}")

BEGINNINGS = 100
"""Different words that keys may begin with."""

VALUES = 20
"""Different words that may follow in one place; where there are more, they are data."""

PARTS = 8
"""What is beyond so many parts of a key is one variable."""


class Templates:
    """Gives each key its template.

    The first part of a key stays if it is a word, since it says whose key it is. The last one is what
    differs, so it only stays after something that differs already: ``user:*:profile``. A place that
    takes ever new words becomes ``*`` as well, and then ``settled`` counts up: what was remembered of
    keys is out of date.

    Args:
        limit: The most templates; further ones are None.
    """

    def __init__(self, limit: int) -> None:
        self.settled = 0
        self._limit = limit
        self._known: set[str] = set()
        self._words: dict[str, set[str] | None] = {}

    def of(self, key: str) -> str | None:
        """The template of this key; None if there are too many already."""
        parts = SEPARATOR.split(key, PARTS)
        if len(parts) == 1 and "@" not in key and not WORD.fullmatch(key):
            parts = WEAK_SEPARATOR.split(key, PARTS)
        last = len(parts) - 1
        template = ""
        for at in range(0, last + 1, 2):
            word = parts[at]
            # A key of one part is in a place of its own: it is no beginning.
            place = template if last else "\0"
            stays = at < last or at == 0 or "*" in template
            template += word if stays and self._is_word(word, place, first=not at) else "*"
            if at < last:
                template += parts[at + 1]
        if template not in self._known:
            if len(self._known) >= self._limit:
                return None
            self._known.add(template)
        return template

    def _is_word(self, word: str, place: str, *, first: bool) -> bool:
        if not WORD.fullmatch(word) or HEXADECIMAL.fullmatch(word):
            return False
        words = self._words.setdefault(place, set())
        if words is None:
            return False
        if word in words:
            return True
        if len(words) < (BEGINNINGS if first and place == "" else VALUES):
            words.add(word)
            return True
        if place:
            self._words[place] = None
            self.settled += 1
        # Of beginnings those that came first stay.
        return False
