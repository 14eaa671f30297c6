"""Scrapes are parsed, compared and added up as Prometheus would."""

from __future__ import annotations

import math
from itertools import cycle

import pytest

from fastobs import catalogue
from fastobs.catalogue import HTTP_DURATION, HTTP_SLOW, ROUTE, STATUS, WORKERS
from fastobs.cli.exposition import (
    ALL,
    Histogram,
    gather,
    histograms,
    increase,
    live_workers,
    parse,
    select,
    total,
)

SLOW = HTTP_SLOW.name


def slow(**routes: float) -> str:
    lines = [f'{SLOW}{{{ROUTE}="/{name}"}} {value}' for name, value in routes.items()]
    return "\n".join([f"# TYPE {SLOW} counter", *lines, ""])


def live(workers: int) -> str:
    return f'{WORKERS.name}{{state="live"}} {workers}\n{WORKERS.name}{{state="free"}} 3\n'


def test_samples_are_found_by_name_and_labels():
    """The order of labels in the text does not matter."""
    samples = parse('requests{b="2",a="1"} 3\nrequests{a="1",b="3"} 4\nother 5\n')

    assert select(samples, "requests", a="1", b="2") == {frozenset({("a", "1"), ("b", "2")}): 3}
    assert select(samples, "requests", a="2") == {}
    assert select(samples, "absent") == {}


def test_total_adds_up_what_it_is_not_asked_to_keep():
    """Labels that are not named are summed away; one that is absent is the empty string."""
    samples = parse('requests{a="1",b="2"} 3\nrequests{a="1",b="3"} 4\nrequests{a="2"} 5\n')

    assert total(samples, "requests", "a") == {("1",): 7, ("2",): 5}
    assert total(samples, "requests", "b", a="2") == {("",): 5}
    assert total(samples, "requests") == {(): 12}


def test_increase_is_the_difference_of_each_worker_added_up():
    """Two workers that gained 2 and 3 gained 5, whatever they started from."""
    before = {"1": parse(slow(a=10)), "2": parse(slow(a=100))}
    after = {"1": parse(slow(a=12)), "2": parse(slow(a=103, b=1))}

    gained = total(increase(before, after), SLOW, ROUTE)

    assert gained == {("/a",): 5, ("/b",): 1}


def test_a_worker_that_was_not_there_before_started_from_zero():
    """A restarted worker is a new one; all it has counted is counted."""
    gained = increase({"1": parse(slow(a=10))}, {"7": parse(slow(a=4))})

    assert total(gained, SLOW) == {(): 4}


def test_a_counter_that_fell_started_again_from_zero():
    """As in Prometheus, a reset does not make an increase negative."""
    gained = increase({"1": parse(slow(a=10))}, {"1": parse(slow(a=4))})

    assert total(gained, SLOW) == {(): 4}


def test_gather_asks_until_every_worker_has_answered():
    """The worker that accepts is chance; each is kept once, with its latest answer."""
    answers = iter([("1", slow(a=1)), ("1", slow(a=2)), ("1", slow(a=3)), ("2", slow(a=9))])

    def ask():
        worker, text = next(answers)
        return worker, parse(text)

    gathered = gather(ask, workers=2)

    assert {worker: total(samples, SLOW) for worker, samples in gathered.items()} == {
        "1": {(): 3},
        "2": {(): 9},
    }


def test_gather_believes_a_scrape_that_speaks_for_all_workers():
    """With the number of live workers in it, one scrape is the sum already."""
    answers = cycle([("1", parse(slow(a=5) + live(2)))])

    gathered = gather(lambda: next(answers), workers=2)

    assert gathered.keys() == {ALL}
    assert live_workers(gathered[ALL]) == 2


def test_gather_does_not_take_one_worker_for_all():
    """A scrape that knows of one live worker only is the scrape of one worker."""
    answers = iter([(worker, parse(slow(a=1) + live(1))) for worker in "12"])

    assert gather(lambda: next(answers), workers=2).keys() == {"1", "2"}


def test_gather_gives_up_rather_than_report_a_part():
    """A sum over some of the workers would be a wrong number."""
    with pytest.raises(LookupError, match="Only 1 of 2 workers"):
        gather(lambda: ("1", {}), workers=2, tries=5)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.5, 0.1),  # rank 5: all of the first bucket
        (0.25, 0.05),  # half of the first bucket, which begins at 0
        (0.7, 0.15),  # half of the second one
        (0.9, 0.2),  # rank 9 is the end of the second one
        (0.95, 0.2),  # beyond the last finite bound nothing is known
        (1.0, 0.2),
    ],
)
def test_a_quantile_is_interpolated_inside_its_bucket(q, expected):
    """The same numbers as histogram_quantile() gives for these buckets."""
    histogram = Histogram({0.1: 5, 0.2: 9, math.inf: 10})

    assert histogram.quantile(q) == pytest.approx(expected)


def test_an_empty_bucket_does_not_matter():
    """The quantile lies in the bucket where the observations are."""
    histogram = Histogram({0.1: 0, 0.2: 0, 0.3: 4, math.inf: 4})

    assert histogram.quantile(0.5) == pytest.approx(0.25)


@pytest.mark.parametrize("buckets", [{}, {0.1: 0, math.inf: 0}])
def test_the_quantile_of_nothing_is_not_a_number(buckets):
    """No observation, no time: not zero."""
    assert math.isnan(Histogram(buckets).quantile(0.5))


def test_histograms_are_added_over_the_labels_that_are_not_named():
    """Requests that failed belong to the route's latency too."""
    text = "".join(
        f'{HTTP_DURATION.name}_bucket{{{ROUTE}="/a",{STATUS}="{status}",le="{le}"}} {count}\n'
        for status in (200, 500)
        for le, count in (("0.1", 1), ("+Inf", 3))
    )

    (key, histogram), *others = histograms(parse(text), catalogue.HTTP_DURATION, ROUTE).items()

    assert (key, list(histogram), others) == (("/a",), [(0.1, 2), (math.inf, 6)], [])
