"""The frames of another thread, read in one go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate, chain, islice, repeat, tee
from operator import attrgetter, call, itemgetter
from types import CodeType, FrameType
from typing import NamedTuple

__all__ = ["Seen", "stack"]

_where = attrgetter("f_code", "f_lineno")


class Seen(NamedTuple):
    """A frame, and what it ran when it was looked at."""

    frame: FrameType
    code: CodeType
    line: int | None


def stack(thread: int) -> list[Seen]:
    """What a thread runs, the innermost first; nothing if there is no such thread.

    All that is read is read by one call of C. Between two lines of Python the other thread may go on, and
    a frame that has ended meanwhile is not safe to ask: `f_back` of CPython 3.11 has answered with a string.
    """
    innermost = map(itemgetter(thread), map(call, (sys._current_frames,)))
    walked: Iterator[FrameType]
    walked, again = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    found: list[tuple[CodeType, int | None]] = []
    # What lies below the first frame is None, and has no code.
    with suppress(AttributeError, KeyError):
        found.extend(map(_where, walked))
    frames = islice(again, len(found))
    return [Seen(frame, *where) for frame, where in zip(frames, found, strict=True)]
