"""Stacks: what was running when, compact enough to keep, and free of where the app is installed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from pyinstrument.session import Session

from fastobs._files import SITE, STDLIB, relative

__all__ = ["Frame", "Sample", "Stacks", "Total", "Tree"]

VERSION = 1
LONGEST_NUMBER = 9
"""Digits of a line's number."""


class Sample(NamedTuple):
    """One stack, and for how long it was the one that ran."""

    node: int
    """Of the tree."""
    seconds: float
    times: int = 1
    """How often in a row it was seen; samples of a profile are not equally far apart."""


class Total(NamedTuple):
    """All samples of one stack."""

    times: int
    seconds: float


NONE = Total(0, 0.0)


class Frame(NamedTuple):
    r"""What pyinstrument writes as ``function\0file\0line``, and attributes, each after a ``\1``."""

    function: str
    """With its class, if it is a method."""
    file: str
    """Empty for what is no function: ``[await]``."""
    begins: int
    """The line of its definition; 0 if it has none."""
    line: int
    """The line that was running."""

    @classmethod
    def of(cls, text: str) -> Frame:
        """Whatever the text is, since a function and its file may be called anything."""
        identifier, *attributes = text.split("\x01")
        function, file, begins, *_ = *identifier.split("\x00"), "", ""
        known = {each[:1]: each[1:] for each in attributes}
        if owner := known.get("c"):
            function = f"{owner}.{function}"
        first = _number(begins)
        return cls(function, file, first, _number(known.get("l", "")) or first)


class Tree:
    """Call stacks with common beginnings stored once.

    A stack as pyinstrument hands it over is a list of some sixty new strings, 4 kB. Kept as a path
    in a tree it is one number, and a second that samples the same place costs nothing more.
    """

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.frames: list[str] = []
        self._known: dict[tuple[int, str], int] = {}
        self._strings: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.parents)

    def add(self, stack: Iterable[str], below: int = -1) -> int:
        """The node of a stack, given from its root; -1 for an empty one."""
        known = self._known
        for frame in stack:
            found = known.get((below, frame))
            if found is None:
                frame = self._strings.setdefault(frame, frame)  # noqa: PLW2901 - the same text
                found = len(self.parents)
                # The look-up comes last: whoever reads in another thread sees whole nodes only.
                self.frames.append(frame)
                self.parents.append(below)
                known[below, frame] = found
            below = found
        return below

    def path(self, node: int) -> list[str]:
        """The stack that leads to a node, from its root."""
        stack = []
        while node >= 0:
            stack.append(self.frames[node])
            node = self.parents[node]
        return stack[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """A finished recording: samples in the order of time, pointing into a tree of frames.

    Frames are strings as pyinstrument writes them: function, file and line, and what it found out.
    """

    description: str
    started: float
    """Seconds since the epoch."""
    duration: float
    cpu: float
    """Seconds of processor time of the whole process meanwhile."""
    interval: float
    count: int
    """Samples taken; those that repeat the one before are one in `samples`."""
    truncated: bool
    """Whether the request went on when the recording had reached a limit."""
    beginning: list[str]
    """The stack on which the recording was started."""
    parents: list[int]
    frames: list[str]
    samples: list[Sample]

    @classmethod
    def of(
        cls,
        tree: Tree,
        samples: Iterable[Sample],
        *,
        beginning: Sequence[str],
        description: str,
        started: float,
        duration: float,
        cpu: float,
        interval: float,
        count: int,
        truncated: bool,
    ) -> Stacks:
        """Paths in it are relative to the project or to site-packages from here on."""
        return cls(
            description=description,
            started=started,
            duration=duration,
            cpu=cpu,
            interval=interval,
            count=count,
            truncated=truncated,
            beginning=[_clean(frame) for frame in beginning],
            parents=list(tree.parents),
            frames=[_clean(frame) for frame in tree.frames],
            samples=list(samples),
        )

    def encode(self) -> bytes:
        """As it is stored: JSON with each distinct frame once, gzipped."""
        distinct = list(dict.fromkeys(self.frames))
        number = {frame: index for index, frame in enumerate(distinct)}
        content = {field.name: getattr(self, field.name) for field in fields(self)} | {
            "version": VERSION,
            "distinct": distinct,
            "frames": [number[frame] for frame in self.frames],
            "samples": [(node, round(seconds, 6), times) for node, seconds, times in self.samples],
        }
        return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), compresslevel=6)

    @classmethod
    def decode(cls, stored: bytes) -> Stacks:
        """What `encode` made.

        Raises:
            ValueError: Somebody else made it, or another version of us.
        """
        content = json.loads(gzip.decompress(stored))
        if content.pop("version", None) != VERSION:
            msg = "This profile was stored by another version of fastobs."
            raise ValueError(msg)
        distinct = content.pop("distinct")
        content["frames"] = [distinct[index] for index in content["frames"]]
        content["samples"] = [Sample(*sample) for sample in content["samples"]]
        return cls(**content)

    def totals(self) -> dict[int, Total]:
        """What each stack has of the samples, by its node."""
        totals: dict[int, Total] = {}
        for node, seconds, times in self.samples:
            before = totals.get(node, NONE)
            totals[node] = Total(before.times + times, before.seconds + seconds)
        return totals

    def path(self, node: int) -> list[int]:
        """The nodes that lead to one, from the root."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def session(self) -> Session:
        """For pyinstrument's renderers."""
        paths: list[list[str]] = []
        for parent, frame in zip(self.parents, self.frames, strict=True):
            # A parent is always older than its child.
            paths.append([*paths[parent], frame] if parent >= 0 else [frame])
        return Session(
            frame_records=[(paths[sample.node], sample.seconds) for sample in self.samples],
            start_time=self.started,
            duration=self.duration,
            min_interval=self.interval,
            max_interval=self.interval,
            sample_count=self.count,
            start_call_stack=self.beginning or [""],
            target_description=self.description,
            cpu_time=self.cpu,
            # What our own relative paths begin with: tells pyinstrument what is not the app's code.
            sys_path=[SITE, STDLIB],
            sys_prefixes=[f"{SITE}/", f"{STDLIB}/"],
        )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER else 0


def _clean(frame: str) -> str:
    """A frame without the absolute path of its file."""
    identifier, separator, attributes = frame.partition("\x01")
    function, *place = identifier.split("\x00")
    if len(place) != 2:
        return frame
    file, line = place
    if file == "<thread>":
        # In the place of the line there is the thread's number, which is an address in memory.
        return f"{function}\x00{file}\x000"
    return f"{function}\x00{relative(file)}\x00{line}{separator}{attributes}"
