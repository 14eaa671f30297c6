"""A profile as pprof reads it, and whatever else does: a gzipped protocol buffer.

The numbers are those of https://github.com/google/pprof/blob/main/proto/profile.proto. They are few
and cannot change, so that they are written here and no library is needed.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import TypeVar

from .stacks import Frame, Stacks

__all__ = ["encode"]

K = TypeVar("K")

VALUES = (("samples", "count"), ("wall", "nanoseconds"))
"""What each sample says: how often it was seen, and for how long it was what ran or waited."""
DEFAULT = "wall"
"""What is shown first: the samples of a profile are not equally far apart, so seconds are what counts."""
MASK = (1 << 64) - 1


def encode(stacks: Stacks, *, title: str = "", labels: Mapping[str, str] | None = None) -> bytes:
    """The whole profile.

    Args:
        stacks: What was recorded.
        title: Kept as its comment.
        labels: On each sample, as all are of one request; without those that are empty.
    """
    strings = _Numbers[str](first=0)
    # The first one must be the empty one.
    strings[""]
    functions = _Numbers[tuple[str, str, int]](first=1)
    locations = _Numbers[tuple[int, int]](first=1)
    frames = [Frame.of(text) for text in stacks.frames]
    places = [_varint(locations[functions[frame[:3]], frame.line]) for frame in frames]
    written = bytearray()

    def value_type(field: int, kind: str, unit: str) -> bytes:
        return _bytes(field, _int(1, strings[kind]) + _int(2, strings[unit]))

    for kind, unit in VALUES:
        written += value_type(1, kind, unit)
    marks = b"".join(
        _bytes(3, _int(1, strings[key]) + _int(2, strings[value]))
        for key, value in (labels or {}).items()
        if value
    )
    for node, total in stacks.totals().items():
        # The innermost comes first.
        stack = b"".join(places[each] for each in reversed(stacks.path(node)))
        values = _varint(total.times) + _varint(_nanoseconds(total.seconds))
        written += _bytes(2, _bytes(1, stack) + _bytes(2, values) + marks)
    for (function, line), number in locations.items():
        written += _bytes(4, _int(1, number) + _bytes(4, _int(1, function) + _int(2, line)))
    for (name, file, begins), number in functions.items():
        about = _int(2, strings[name]) + _int(3, strings[name]) + _int(4, strings[file])
        written += _bytes(5, _int(1, number) + about + _int(5, begins))
    written += _int(9, _nanoseconds(stacks.started)) + _int(10, _nanoseconds(stacks.duration))
    written += value_type(11, *VALUES[-1]) + _int(12, _nanoseconds(stacks.interval))
    written += _int(13, strings[title]) if title else b""
    written += _int(14, strings[DEFAULT])
    for text in strings:
        # A file's name may hold a broken byte.
        written += _bytes(6, text.encode(errors="replace"))
    return gzip.compress(written, compresslevel=6)


class _Numbers(dict[K, int]):
    """Gives each thing a number, in the order in which they are asked for."""

    def __init__(self, *, first: int) -> None:
        self._first = first

    def __missing__(self, key: K) -> int:
        self[key] = number = len(self) + self._first
        return number


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _varint(number: int) -> bytes:
    # Negative ones are written as their complement, which has 64 bits.
    number &= MASK
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
