"""What docs/drills.md says."""

from __future__ import annotations

from alerts.pace import Pace

from .faults import DRILLS
from .report import page, rested
from .watch import Alarm, Outcome


def outcome(number: int = 0, **seen) -> Outcome:
    return Outcome(drill=DRILLS[number], **seen)


def test_a_drill_is_a_row_with_what_came_and_went():
    """Whatever else fired is named, and an alert that did not come is bold."""
    well = outcome(detected=12.3, resolved=4.5, fired={Alarm("Odd", "warning")})
    badly = outcome(1)

    text = page([well, badly], Pace(faster=30))

    rows = [line for line in text.splitlines() if line.startswith(f"| {DRILLS[0].name} ")]
    assert [row.split(" | ")[3:5] for row in rows] == [["12 s", "4 s"]]
    assert rows[0].endswith("| (Odd warning) |")
    assert "| **never** | **never** |" in text
    assert "0 of 2 drills passed" in text


def test_each_kind_of_run_keeps_what_the_other_has_shown():
    """The nine drills and the calm are hardly ever run on the same day."""
    first = page([outcome()], Pace(faster=30))
    assert "The last run: none yet." in first

    calm = rested(first, minutes=30, requests=12345, wrong=[])
    again = page([outcome(detected=1, resolved=1)], Pace(faster=30), calm)

    assert calm.startswith(first.partition("The last run")[0])
    assert "30 minutes, 12,345 requests" in again
    assert again.rstrip().endswith("no alert but the watchdog.")
    wrong = rested(again, minutes=1, requests=60, wrong=["FastobsCPUHigh (warning)"])
    assert wrong.rstrip().endswith("FastobsCPUHigh (warning).")
    assert "12,345" not in wrong
