"""``fastobs diff`` tells what a change did, as far as the requests allow to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastobs import catalogue
from fastobs.cli.diff import changes
from fastobs.cli.exposition import parse
from tests.cli.running import complaint, fastobs
from tests.cli.test_rows import counter, requests

BUILD = counter(catalogue.BUILD_INFO, 1, version="1")


def save(file: Path, *samples: str, started: float) -> Path:
    """A scrape of a process that started then."""
    start = counter(catalogue.PROCESS_START, started, worker=0)
    file.write_text("".join([BUILD, start, *samples]))
    return file


def line(text: str, route: str) -> str:
    (found,) = [row for row in text.splitlines() if row.startswith(route)]
    return " ".join(found.split())


def test_a_route_is_compared_with_itself(tmp_path):
    """Quantiles with the change in per cent, errors in points, rates when the time is given."""
    fast, slow = {"0.1": 1000, "0.2": 1000, "+Inf": 1000}, {"0.1": 0, "0.2": 1000, "+Inf": 1000}
    one = save(tmp_path / "a", requests("/a", slow), started=1)
    two = save(
        tmp_path / "b",
        requests("/a", fast),
        requests("/a", {"0.1": 1000, "0.2": 1000, "+Inf": 1000}, status=500),
        started=2,
    )

    done = fastobs("diff", one, two, "--seconds", "10")

    assert done.returncode == 0, done.stderr
    assert line(done.stdout, "/a") == (
        "/a 1,000 → 2,000 100.0 → 200.0 +100% 150 ms → 50 ms -67% 195 ms → 95 ms -51% "
        "199 ms → 99 ms -50% 0.0% → 50.0% +50.0 pp"
    )


def test_a_pipe_gets_each_route_in_one_line(tmp_path):
    """Whoever reads it cannot make it wider; the usual eighty columns would fold every route."""
    route = "/a" * 60
    one = save(tmp_path / "a", requests(route, {"0.1": 10, "+Inf": 10}), started=1)
    two = save(tmp_path / "b", requests(route, {"0.1": 20, "+Inf": 20}), started=2)

    done = fastobs("diff", one, two, COLUMNS="")

    assert "10 → 20" in line(done.stdout, f"{route} ")


def test_too_few_requests_say_nothing(tmp_path):
    """Three requests have a P99, and it means nothing; two hundred have a P95, but no P99."""
    few, some = {"0.1": 3, "+Inf": 3}, {"0.1": 200, "+Inf": 200}
    one = save(tmp_path / "a", requests("/few", few), requests("/some", some), started=1)
    two = save(tmp_path / "b", requests("/few", few), requests("/some", some), started=2)

    done = fastobs("diff", one, two)

    assert line(done.stdout, "/few").endswith("3 → 3 - - - 0.0% → 0.0% too few requests to say")
    assert line(done.stdout, "/some").endswith("- 0.0% → 0.0% too few for P99")
    assert "req/s" not in done.stdout


def test_a_route_of_one_side_only_is_told():
    """What was added or removed is no change of speed."""
    before, after = (parse(requests(route, {"0.1": 9, "+Inf": 9})) for route in ("/old", "/new"))

    found = changes(before, after)

    assert [(row.route, row.requests) for row in found] == [("/new", (0, 9)), ("/old", (9, 0))]


def test_what_is_known_of_one_side_is_shown_without_a_change(tmp_path):
    """A new route has its times, and nothing to compare them with."""
    one = save(tmp_path / "a", requests("/a", {"0.1": 3, "+Inf": 3}), started=1)
    many = {"0.1": 100, "+Inf": 100}
    two = save(tmp_path / "b", requests("/a", many), requests("/new", many), started=2)

    done = fastobs("diff", one, two)

    assert line(done.stdout, "/new") == "/new 0 → 100 - → 50 ms - → 95 ms - - only after"
    assert line(done.stdout, "/a").startswith("/a 3 → 100 - → 50 ms - → 95 ms - 0.0% → 0.0%")


def test_a_later_scrape_of_the_same_process_counts_from_the_first(tmp_path):
    """Its counters hold what was there before; that is taken out, and said."""
    one = save(tmp_path / "a", requests("/a", {"0.1": 500, "0.2": 500, "+Inf": 500}), started=1)
    two = save(tmp_path / "b", requests("/a", {"0.1": 500, "0.2": 1500, "+Inf": 1500}), started=1)

    done = fastobs("diff", one, two)

    assert "since BEFORE" in done.stdout
    assert "500 → 1,000 50 ms → 150 ms +200%" in line(done.stdout, "/a")
    assert "Swap the two" in complaint(fastobs("diff", two, one))


def test_a_running_service_is_compared_with_what_was_saved(service, tmp_path):
    """A file on one side, an address on the other."""
    service.get("/items/1")
    (tmp_path / "before.txt").write_text(service.get("/metrics").body)
    for _ in range(10):
        service.get("/items/2")

    done = fastobs("diff", tmp_path / "before.txt", service.url)

    assert done.returncode == 0, done.stderr
    assert " → 10 " in line(done.stdout, "/items/{item_id}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        ("hello {", "is not in the Prometheus text format"),
        ("up 1\n", "fastobs did not write it"),
        (BUILD, "Neither side has a request"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, content, expected):
    """A missing file, another format, somebody else's metrics, or nothing in it."""
    file = tmp_path / "scrape"
    if content is not None:
        file.write_text(content)

    assert expected in complaint(fastobs("diff", file, file))
