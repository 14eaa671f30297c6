"""Thresholds of somebody's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alerts.chosen import chosen, listed
from alerts.families import rendered
from alerts.thresholds import THRESHOLDS, Pair


def test_nothing_chosen_is_what_is_shipped():
    """Reading the words and building the thresholds changes none of them."""
    assert chosen([], []) == THRESHOLDS


def test_a_number_replaces_its_threshold_only():
    """A single one, one of a pair, and the last word if there are two."""
    found = chosen([], ["pool_use=0.5", "latency_p99.critical=1", "pool_use=0.9"])

    assert found == replace(THRESHOLDS, pool_use=0.9, latency_p99=Pair(0.2, 1.0))


@pytest.mark.parametrize(
    ("percent", "budget"), [("99.5", 0.005), ("99.9", 0.001), ("99.999", 0.00001), ("95", 0.05)]
)
def test_an_slo_is_said_in_per_cent(percent, budget):
    """The budget is what remains, without the dust of floats."""
    found = chosen([f"latency={percent}"], [])

    assert found == replace(THRESHOLDS, slo_latency=budget)


def test_every_threshold_is_listed_with_a_reason():
    """What the list names can be set, to what it says."""
    lines = list(listed())
    words = [f"{line.name}={line.value!r}" for line in lines]

    assert chosen([], words) == THRESHOLDS
    assert [line.name for line in lines if not (line.unit and line.reason)] == []


@pytest.mark.parametrize(
    ("slos", "given", "expected"),
    [
        ([], ["pool_usage=0.9"], "no threshold 'pool_usage'. Did you mean pool_use?"),
        ([], ["xyzzy=1"], "There is no threshold 'xyzzy'. `fastobs alerts thresholds` lists them."),
        ([], ["cpu=0.5"], "cpu is two thresholds: set cpu.target, cpu.critical"),
        ([], ["pool_use"], "'pool_use' is no name and number; write it like pool_use=0.9."),
        ([], ["pool_use=90%"], "'pool_use=90%' is no name and number"),
        ([], ["pool_use=nan"], "'pool_use=nan' is no name and number"),
        ([], ["pool_use=90"], "a share from 0 to 1"),
        (
            [],
            ["pool_use=0"],
            "pool_use=0 is always or never reached; give a number above 0 (share)",
        ),
        ([], ["memory_growth=-1"], "memory_growth=-1 is always or never reached"),
        ([], ["cpu.target=0.95"], "cpu.critical=0.9 is reached before cpu.target=0.95"),
        ([], ["traffic_drop.target=0.01"], "traffic_drop.critical=0.05 is reached before"),
        ([], ["throughput.target=1", "throughput.critical=2"], "throughput.critical=2 is reached"),
        ([], ["latency_p99.target=0.25"], "Choose one of 0.005, 0.01,"),
        (["availability=0.995"], [], "at least 50 and below 100. Write it like availability=99.5."),
        (["availability=100"], [], "availability=100 is no promise"),
        (["availability"], [], "'availability' is no name and number"),
        (["errors=99"], [], "There is no SLO 'errors'; there are availability and latency."),
        (["latency=90"], [], "Give latency an SLO above 93.06, or set a lower burn_1h."),
    ],
)
def test_what_means_nothing_is_refused(slos, given, expected):
    """The message says what is wrong, why, and what to write."""
    with pytest.raises(ValueError) as refused:
        chosen(slos, given)

    assert expected in str(refused.value)


@pytest.mark.parametrize("critical", ["0", "5"])
def test_a_target_that_is_off_can_be_set_in_either_degree(critical):
    """A ticket without a page is fine."""
    found = chosen([], ["throughput.target=20", f"throughput.critical={critical}"])

    assert found.throughput == Pair(20.0, float(critical))


def test_texts_say_the_number_that_was_chosen():
    """An alert at half a per mille does not speak of 0.1 %."""
    rules = rendered(chosen([], ["error_ratio.target=0.0005", "cpu.target=0.725"]))

    assert "fails more than 0.05% of requests" in rules["fastobs-http.rules.yml"]
    assert "uses over 72.5% of its CPU limit" in rules["fastobs-runtime.rules.yml"]
