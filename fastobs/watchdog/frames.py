"""The frames of another thread, read in one go."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import accumulate, chain, islice, repeat, tee
from operator import attrgetter, call, itemgetter
from types import CodeType, FrameType

__all__ = ["Line", "stack"]

_where = attrgetter("f_code", "f_lineno")

Line = tuple[CodeType, int | None]
"""What a frame runs; none of its lines if it is about to begin or to end."""


def stack(thread: int) -> list[tuple[FrameType, Line]]:
    """What a thread runs, the innermost first; nothing if there is no such thread.

    All that is read is read by one call of C. Between two lines of Python the other thread may go on, and
    a frame that has ended meanwhile is not safe to ask: `f_back` of CPython 3.11 has answered with a string.
    """
    innermost = map(itemgetter(thread), map(call, (sys._current_frames,)))
    walked, again = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    found: list[Line] = []
    # What lies below the first frame is None, and has no code.
    with suppress(AttributeError, KeyError):
        found.extend(map(_where, walked))
    return list(zip(islice(again, len(found)), found, strict=True))
