"""What is wrong with the service, in a line each: the cause, the line of code, and what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from examples.report.log import events
from fastobs.cli.render import blank, seconds

__all__ = ["Cause", "causes", "causes_table"]

SHARE = 0.3
"""Of a route's requests; what fewer met is chance."""
OFTEN = 3
"""Times; a busy machine can make a block or a wait of anything once."""


class Cause(NamedTuple):
    """One thing that is wrong."""

    what: str
    at: str
    """File and line."""
    to_do: str
    route: str = ""


Lines = Sequence[Mapping[str, Any]]


def causes(log: Sequence[str], requests: Mapping[str, float]) -> list[Cause]:
    """What a log tells of; every rule looks at what fastobs wrote, but for exceptions.

    Args:
        log: The server's.
        requests: How many there were, by route: what few of them met is chance.
    """
    slow = list(events(log, "slow_request"))
    return [
        *_blocks(list(events(log, "event_loop_blocked"))),
        *_repeats(slow),
        *_connections(slow, requests),
        *_caches(events(log, "cache_never_hits")),
        *_upstream(slow, requests),
        *_exceptions(log),
    ]


def causes_table(found: Iterable[Cause]) -> Table:
    table = blank("What is wrong, and what to do", "cause", "where", "next step")
    table.columns[1].justify = table.columns[2].justify = "left"
    for cause in found:
        table.add_row(cause.what, Text.assemble(cause.at, (f"\n{cause.route}", "dim")), cause.to_do)
    return table


def _grouped(
    pairs: Iterable[tuple[str, Mapping[str, Any]]],
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _is_chance(lines: Lines, requests: Mapping[str, float]) -> bool:
    return len(lines) < max(OFTEN, SHARE * requests.get(str(lines[0]["route"]), 0.0))


def _findings(slow: Iterable[Mapping[str, Any]], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    """By place, each with the route of its line."""
    return [
        (found["at"], {"route": line["route"], **found})
        for line in slow
        for found in line.get("findings", ())
        if found["kind"] == kind and found.get("at")
    ]


def _blocks(blocks: Lines) -> Iterator[Cause]:
    for place, lines in _grouped((f"{line['file']}:{line['line']}", line) for line in blocks):
        if len(lines) >= OFTEN:
            longest = max(float(line["duration"]) for line in lines)
            yield Cause(
                f"{lines[0]['function']}() blocks the event loop: {len(lines)} times, up to "
                f"{seconds(longest)}; {sum(line['delayed'] for line in lines)} requests had to wait",
                place,
                "make the endpoint `def`, or await asyncio.to_thread(...)",
                lines[0]["route"],
            )


def _repeats(slow: Lines) -> Iterator[Cause]:
    for place, found in _grouped(_findings(slow, "repeated_query")):
        first = found[0]
        relation = first.get("relation")
        yield Cause(
            f"{max(each['count'] for each in found)} queries for "
            f"{relation or first.get('statement')}, one after the other",
            place,
            f"selectinload({relation})" if relation else "one query for all of them",
            first["route"],
        )


def _connections(slow: Lines, requests: Mapping[str, float]) -> Iterator[Cause]:
    waited: dict[str, int] = defaultdict(int)
    for place, _ in _findings(slow, "waited_for_connection"):
        waited[place] += 1
    for place, found in _grouped(_findings(slow, "held_connection")):
        if _is_chance(found, requests):
            continue
        idle = sorted(float(each["idle"]) for each in found)[len(found) // 2]
        others = f"; {waited[place]} requests waited for it" if waited[place] else ""
        yield Cause(
            f"a connection of {found[0]['pool']} is kept for {seconds(idle)} without a query{others}",
            place,
            "read, give it back, then do the rest",
            found[0]["route"],
        )


def _caches(lines: Iterable[Mapping[str, Any]]) -> Iterator[Cause]:
    for name, found in _grouped((str(line["cache"]), line) for line in lines):
        first = found[0]
        yield Cause(
            f"the cache {name} never hits: {first['misses']} misses, no hit",
            first["at"],
            "a key of only what the answer depends on",
            first["route"],
        )


def _upstream(slow: Lines, requests: Mapping[str, float]) -> Iterator[Cause]:
    waiting = [
        (found["at"], {**line, **found})
        for line in slow
        if line.get("parts", {}).get("http", 0.0) > line["duration"] / 2
        for found in line.get("findings", ())
        if found["kind"] == "mostly_at"
    ]
    for place, lines in _grouped(waiting):
        if _is_chance(lines, requests):
            continue
        worst = max(lines, key=lambda line: float(line["parts"]["http"]))
        yield Cause(
            f"another service takes {seconds(worst['parts']['http'])} of {seconds(worst['duration'])}",
            place,
            "ask side by side, with a timeout and an answer for when it strikes",
            lines[0]["route"],
        )


RAISED = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
ENDED = re.compile(r"(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\w*)(?::|$)")


def _exceptions(log: Iterable[str]) -> Iterator[Cause]:
    """From the tracebacks that the server writes: where in the app's own code, and how often."""
    for (place, kind), times in sorted(_raised(log).items(), key=lambda item: -item[1]):
        yield Cause(
            f"{kind} is not handled: {times} {'requests' if times > 1 else 'request'} failed",
            place,
            "decide what the customer gets, or catch it where it is known",
        )


def _raised(log: Iterable[str]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = defaultdict(int)
    place = ""
    for line in log:
        if line.startswith("Traceback "):
            place = ""
        elif (frame := RAISED.match(line)) is not None:
            if "-packages" not in (file := frame["file"]) and "/examples/" in file:
                place = f"examples/{file.partition('/examples/')[2]}:{frame['line']}"
        elif place and (ended := ENDED.match(line)) is not None:
            found[place, ended["kind"].rpartition(".")[2]] += 1
            place = ""
    return found
