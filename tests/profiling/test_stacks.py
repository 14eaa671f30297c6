"""Stacks survive being stored, and say nothing about where things are installed."""

from __future__ import annotations

import gzip
import json
import sys

import pytest

from fastobs.profiling.stacks import Sample, Stacks, Total, Tree

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


def some(times: int = 1, **more: object) -> Stacks:
    tree = Tree()
    first = tree.add(["MainThread\x00<thread>\x00139812", "main\x00/nowhere/app.py\x001\x01l4"])
    second = tree.add(["read\x00<built-in>\x000"], below=first)
    known = {
        "beginning": ["MainThread\x00<thread>\x00139812"],
        "description": "GET /",
        "started": 1.5,
        "duration": 0.25,
        "cpu": 0.125,
        "interval": 0.001,
        "count": 3,
        "truncated": False,
    }
    samples = [Sample(first, 0.1), Sample(second, 0.2, times), Sample(first, 0.3)]
    return Stacks.of(tree, samples, **(known | more))  # type: ignore[arg-type]


def test_what_is_stored_is_what_was_recorded():
    """Every field comes back."""
    stacks = some()

    assert Stacks.decode(stacks.encode()) == stacks


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"nothing",
        gzip.compress(b"{}", mtime=0),
        gzip.compress(json.dumps({"version": 2}).encode(), mtime=0),
    ],
)
def test_what_somebody_else_stored_is_refused(stored: bytes):
    """Another version's, or no profile at all, is an error and not a wrong picture."""
    with pytest.raises((ValueError, OSError, EOFError)):
        Stacks.decode(stored)


def test_a_sample_stored_without_how_often_it_was_seen_was_seen():
    """Profiles are kept longer than a version of ours."""
    stored = json.loads(gzip.decompress(some().encode()))
    stored["samples"] = [sample[:2] for sample in stored["samples"]]

    assert Stacks.decode(gzip.compress(json.dumps(stored).encode(), mtime=0)) == some()


def test_a_stack_has_all_its_samples():
    """However often it came, and how often in a row."""
    stacks = some(times=3)

    assert stacks.totals() == {1: Total(2, 0.4), 2: Total(3, 0.2)}
    assert stacks.path(2) == [0, 1, 2]


def test_a_session_has_the_samples_in_their_order():
    """It is what pyinstrument would have recorded itself, as it gets what it would have recorded itself."""
    session = some().session()

    assert [(stack[-1].split("\x00")[0], time) for stack, time in session.frame_records] == [
        ("main", 0.1),
        ("read", 0.2),
        ("main", 0.3),
    ]
    assert (session.target_description, session.sample_count) == ("GET /", 3)


def test_without_a_sample_there_is_still_a_session():
    """A request can be over before the first one."""
    stacks = some(beginning=[])

    assert stacks.session().start_call_stack


def test_a_threads_number_is_not_kept():
    """It is an address in memory."""
    assert "139812" not in repr(some())


def test_common_beginnings_are_stored_once():
    """Two stacks that part at the end share everything before it."""
    tree = Tree()
    one, other = tree.add(["a", "b", "c"]), tree.add(["a", "b", "d"])

    assert len(tree) == 4
    assert (tree.path(one), tree.path(other)) == (["a", "b", "c"], ["a", "b", "d"])
    assert tree.add(["a", "b", "c"]) == one
    assert tree.add([]) == -1
