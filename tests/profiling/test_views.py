"""What other programs are given adds up to what was recorded, and is written as they expect it."""

from __future__ import annotations

import json
import re

import pytest
from starlette.responses import PlainTextResponse

from fastobs.profiling.stacks import Sample, Stacks, Tree
from fastobs.profiling.store import Meta
from fastobs.profiling.views import FORMATS, Around
from tests.profiling.rig import Rig, burn, run
from tests.profiling.test_pprof import made, read, stacks_of
from tests.profiling.test_stacks import some
from tests.profiling.test_store import meta


async def app(scope, receive, send) -> None:
    burn()
    await PlainTextResponse("done")(scope, receive, send)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Meta, Stacks]:
    """A profile that was recorded, stored and read."""
    rig = Rig(app, tmp_path_factory.mktemp("profiles"))
    return rig.kept(run(rig.get("/")))


def seconds(stacks: Stacks) -> float:
    return sum(sample.seconds for sample in stacks.samples)


def shown(name: str, stacks: Stacks, described: Meta | None = None) -> bytes:
    body = FORMATS[name].render(described or meta(1), stacks, Around(nonce="nonce"))
    return body if isinstance(body, bytes) else body.encode(errors="replace")


def lines_of(folded: bytes) -> dict[str, int]:
    """As flamegraph.pl reads it: the number is what stands behind the last space."""
    lines = [line.rpartition(" ") for line in folded.decode().splitlines()]
    assert len({stack for stack, _, _ in lines}) == len(lines)
    return {stack: int(count) for stack, _, count in lines}


def test_no_time_and_no_sample_is_lost(kept: tuple[Meta, Stacks]):
    """Whatever reads it shows the seconds that were recorded."""
    described, stacks = kept
    folded = lines_of(shown("folded", stacks, described))
    profile = read(shown("pprof", stacks, described))
    (drawn,) = json.loads(shown("speedscope", stacks, described))["profiles"]
    whole = seconds(stacks)

    assert whole > 0
    assert sum(folded.values()) / 1e6 == pytest.approx(whole, abs=1e-6 * len(folded))
    assert sum(sample.value[1] for sample in profile.sample) / 1e9 == pytest.approx(whole)
    assert drawn["events"][-1]["at"] == pytest.approx(whole)
    assert 0 < sum(sample.value[0] for sample in profile.sample) <= stacks.count
    assert any(";burn (" in stack for stack in folded)


def test_speedscope_gets_what_its_schema_requires(kept: tuple[Meta, Stacks]):
    """Events in the order of time, each frame closed that was opened; and a name that tells the request."""
    described, stacks = kept
    document = json.loads(shown("speedscope", stacks, described))
    frames, (drawn,) = document["shared"]["frames"], document["profiles"]
    times = [event["at"] for event in drawn["events"]]
    opened = []
    for event in drawn["events"]:
        if event["type"] == "O":
            opened.append(event["frame"])
        else:
            assert (event["type"], event["frame"]) == ("C", opened.pop())

    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert (drawn["type"], drawn["unit"], drawn["startValue"]) == ("evented", "seconds", 0)
    assert drawn["endValue"] == stacks.duration
    assert times == sorted(times)
    assert opened == []
    assert {event["frame"] for event in drawn["events"]} == set(range(len(frames)))
    assert re.fullmatch(r"GET \(no route\), [\d.]+ m?s, [\d-]{10} [\d:]{8} UTC", document["name"])
    assert drawn["name"] == document["name"]


def test_folded_is_microseconds_of_each_stack():
    """One line for each, the outermost first; a function has the line of its definition."""
    assert lines_of(shown("folded", some())) == {
        "MainThread (<thread>);main (app.py:1)": 400_000,
        "MainThread (<thread>);main (app.py:1);read (<built-in>)": 200_000,
    }


def test_lines_of_one_function_are_one_box():
    """Nor has a stack that took no time a line."""
    tree = Tree()
    nodes = [tree.add([f"run\x00/nowhere/app.py\x007\x01l{line}"]) for line in (8, 9)]
    idle = tree.add(["[await]"])
    samples = [Sample(node, 0.5) for node in nodes]

    assert lines_of(shown("folded", made(tree, [*samples, Sample(idle, 0.0)]))) == {
        "run (app.py:7)": 1_000_000
    }


@pytest.mark.parametrize(
    "name",
    [
        "a;b;c 5",
        "</script><script>alert(1)</script>",
        "first\nsecond 7",
        "a\r\n\tb\x0b\x0c\x1c\x85\u2028\u2029c",
        " 12",
        "",
        "\udcff",
        "a\x02b\x7f",
    ],
)
def test_no_name_breaks_a_line(name: str):
    """Nor begins another stack, nor is its number taken for the count."""
    tree = Tree()
    node = tree.add(["outer\x00/nowhere/app.py\x001", f"{name}\x00{name}\x002"])
    folded = shown("folded", made(tree, [Sample(node, 0.25)]))
    ((stack, count),) = lines_of(folded).items()
    outer, inner = stack.split(";")

    assert (outer, count) == ("outer (app.py:1)", 250_000)
    # Two numbers at the end would be a comparison for flamegraph.pl.
    assert inner.endswith(":2)")
    assert folded.count(b"\n") == 1


def test_pprof_has_the_request_as_labels():
    """By trace and span, a profile is found from a trace."""
    profile = read(shown("pprof", some(), meta(1, route="/items/{item_id}", trace_id="a" * 32)))
    text = profile.string_table
    labels = {text[each.key]: text[each.str] for each in profile.sample[0].label}

    assert labels["route"] == "/items/{item_id}"
    assert labels["trace_id"] == "a" * 32
    assert [text[each] for each in profile.comment] == ["GET /"]
    assert len(stacks_of(profile)) == 2
