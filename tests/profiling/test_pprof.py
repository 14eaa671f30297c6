"""What pprof is given is what was recorded, by the library that defines the encoding."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from fastobs.profiling import pprof
from fastobs.profiling.stacks import Sample, Stacks, Tree
from tests.profiling.test_stacks import some

INT, UINT, TEXT, MESSAGE = 3, 4, 9, 11
"""Types of fields: int64, uint64, string, another message."""
PROFILE: dict[str, dict[str, tuple[int, Any]]] = {
    "ValueType": {"type": (1, INT), "unit": (2, INT)},
    "Label": {"key": (1, INT), "str": (2, INT), "num": (3, INT), "num_unit": (4, INT)},
    "Sample": {"location_id": (1, [UINT]), "value": (2, [INT]), "label": (3, ["Label"])},
    "Line": {"function_id": (1, UINT), "line": (2, INT)},
    "Location": {
        "id": (1, UINT),
        "mapping_id": (2, UINT),
        "address": (3, UINT),
        "line": (4, ["Line"]),
    },
    "Function": {
        "id": (1, UINT),
        "name": (2, INT),
        "system_name": (3, INT),
        "filename": (4, INT),
        "start_line": (5, INT),
    },
    "Profile": {
        "sample_type": (1, ["ValueType"]),
        "sample": (2, ["Sample"]),
        "location": (4, ["Location"]),
        "function": (5, ["Function"]),
        "string_table": (6, [TEXT]),
        "time_nanos": (9, INT),
        "duration_nanos": (10, INT),
        "period_type": (11, "ValueType"),
        "period": (12, INT),
        "comment": (13, [INT]),
        "default_sample_type": (14, INT),
    },
}
"""Of https://github.com/google/pprof/blob/main/proto/profile.proto what is used; a list is repeated."""


def message() -> Any:
    """The class of protobuf that reads a profile."""
    file = descriptor_pb2.FileDescriptorProto(
        name="profile.proto", syntax="proto3", package="pprof"
    )
    for name, fields in PROFILE.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = kind[0] if isinstance(kind, list) else kind
            added = described.field.add(
                name=field,
                number=number,
                label=3 if isinstance(kind, list) else 1,
                type=MESSAGE if isinstance(one, str) else one,
            )
            if isinstance(one, str):
                added.type_name = f".pprof.{one}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pprof.Profile"))


def read(encoded: bytes) -> Any:
    profile = message().FromString(gzip.decompress(encoded))
    profile.DiscardUnknownFields()
    assert profile.SerializeToString()
    return profile


def stacks_of(profile: Any) -> list[tuple[list[str], int, int]]:
    """Each sample with its frames, the outermost first, its count and its nanoseconds."""
    text = profile.string_table
    functions = {function.id: function for function in profile.function}
    locations = {location.id: location for location in profile.location}

    def frame(number: int) -> str:
        (line,) = locations[number].line
        function = functions[line.function_id]
        where = f"{text[function.filename]}:{line.line}" if function.filename else ""
        return f"{text[function.name]} {where}".strip()

    return [
        ([frame(number) for number in reversed(sample.location_id)], *sample.value)
        for sample in profile.sample
    ]


def test_each_stack_has_its_samples_and_its_seconds():
    """Once, however often it came; with the line that ran and not that of the definition."""
    profile = read(pprof.encode(some()))

    assert stacks_of(profile) == [
        (["MainThread <thread>:0", "main app.py:4"], 2, 400_000_000),
        (["MainThread <thread>:0", "main app.py:4", "read <built-in>:0"], 1, 200_000_000),
    ]


def test_what_it_says_about_itself():
    """What the numbers mean, which is shown first, when it was, and of which request."""
    profile = read(
        pprof.encode(some(), title="GET /", labels={"route": "/", "trace_id": "", "span_id": "7"})
    )
    text = profile.string_table
    types = [(text[each.type], text[each.unit]) for each in profile.sample_type]
    labels = [[(text[one.key], text[one.str]) for one in each.label] for each in profile.sample]

    assert text[0] == ""
    assert types == [("samples", "count"), ("wall", "nanoseconds")]
    assert text[profile.default_sample_type] == "wall"
    assert (text[profile.period_type.type], profile.period) == ("wall", 1_000_000)
    assert (profile.time_nanos, profile.duration_nanos) == (1_500_000_000, 250_000_000)
    assert [text[each] for each in profile.comment] == ["GET /"]
    assert labels == [[("route", "/"), ("span_id", "7")]] * 2


def test_a_function_is_one_however_many_lines_of_it_ran():
    """And a method has its class in its name."""
    tree = Tree()
    nodes = [tree.add([f"run\x00/nowhere/app.py\x007\x01cWorker\x01l{line}"]) for line in (8, 9, 9)]
    profile = read(pprof.encode(made(tree, [Sample(node, 0.5) for node in nodes])))
    (function,) = profile.function

    assert (profile.string_table[function.name], function.start_line) == ("Worker.run", 7)
    assert stacks_of(profile) == [
        (["Worker.run app.py:8"], 1, 500_000_000),
        (["Worker.run app.py:9"], 2, 1_000_000_000),
    ]


def test_nothing_recorded_is_a_profile_too():
    """A request can be over before the first sample."""
    profile = read(pprof.encode(made(Tree(), [])))

    assert len(profile.sample_type) == 2
    assert stacks_of(profile) == []


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        ("[await]", "[await]"),
        ("", ""),
        ("\x00\x00", ""),
        ("odd\x00name\x00of\x00many\x00parts", "odd name:0"),
        ("f\x00a.py\x00" + "9" * 5000, "f a.py:0"),
        ("f\x00a.py\x00-3\x01lx\x01\x01", "f a.py:0"),
        ("\udcff\x00\udcff\x002", "? ?:2"),
        ("日本\x00ü.py\x002", "日本 ü.py:2"),
    ],
)
def test_whatever_a_frame_is_called_it_can_be_read(frame: str, shown: str):
    """Names are a program's own affair; numbers that are none are 0."""
    tree = Tree()
    profile = read(pprof.encode(made(tree, [Sample(tree.add([frame]), 1.0)])))

    assert stacks_of(profile) == [([shown], 1, 1_000_000_000)]


def test_numbers_of_any_size_are_written():
    """Of one to ten bytes; a clock that was set back gives a negative one."""
    tree = Tree()
    seconds = [1e-9, 127e-9, 128e-9, 3600.0, 1e9, -1.0]
    samples = [Sample(tree.add([f"f{index}"]), each) for index, each in enumerate(seconds)]
    profile = read(pprof.encode(made(tree, samples)))

    assert [sample.value[1] for sample in profile.sample] == [round(each * 1e9) for each in seconds]


def made(tree: Tree, samples: list[Sample]) -> Stacks:
    return Stacks.of(
        tree,
        samples,
        beginning=[],
        description="",
        started=0.0,
        duration=0.0,
        cpu=0.0,
        interval=0.001,
        count=len(samples),
        truncated=False,
    )
