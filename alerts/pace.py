"""The same rules in a hurry: every span of time divided by one number, for drills and tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .kit import Alert, Group, Record

__all__ = ["Pace"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SPAN = re.compile(r"(?P<before>\[|\boffset )(?P<number>\d+)(?P<unit>[smhd])(?=\]|\b)")
"""A window or an offset in an expression; names of records that contain one are left alone."""
LENGTH = re.compile(r"(?<= \* )(?P<seconds>\d+)(?= >=|\))")
"""The seconds that a rate is multiplied with: how many events a window had, or what is to come."""
NOW = "0s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much faster time passes.

    Thresholds stay as they are, those that are seconds included: a slow request is as slow as ever.
    So do counts: three failures are three failures, within a shorter time.

    Attributes:
        faster: What windows, offsets, ``for`` and ``keep_firing_for`` are divided by.
        least: Seconds that remain at least; a window needs several scrapes.
    """

    faster: float
    least: int = 5

    def groups(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """The rules as they are at this pace."""
        return tuple(replace(group, rules=tuple(map(self._rule, group.rules))) for group in groups)

    def span(self, text: str) -> str:
        """``30m`` at this pace; nothing stays nothing, and at once stays at once."""
        if text in {"", NOW}:
            return text
        return f"{max(self.least, round(int(text[:-1]) * SECONDS[text[-1]] / self.faster))}s"

    def _rule(self, rule: Record | Alert) -> Record | Alert:
        expr = SPAN.sub(
            lambda found: found["before"] + self.span(found["number"] + found["unit"]), rule.expr
        )
        expr = LENGTH.sub(lambda found: self.span(f"{found['seconds']}s")[:-1], expr)
        if isinstance(rule, Record):
            return replace(rule, expr=expr)
        return replace(rule, expr=expr, lasts=self.span(rule.lasts), keep=self.span(rule.keep))
