"""The committed files are what the code says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from dashboards.__main__ import GENERATED, main, rendered
from dashboards.boards import boards
from dashboards.expressions import expressions


def test_committed_boards_are_up_to_date():
    """`python -m dashboards --check` has nothing to say."""
    root = GENERATED.parents[1]
    checked = subprocess.run(
        [sys.executable, "-m", "dashboards", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stderr) == (0, "")


def test_check_names_what_differs(tmp_path, capsys):
    """An edited, a missing and a foreign file are each named."""
    main([], tmp_path)
    (tmp_path / "fastobs-pools.json").write_text("{}\n")
    (tmp_path / "fastobs-route.json").unlink()
    (tmp_path / "fastobs-old.json").write_text("{}\n")

    assert main(["--check"], tmp_path) == 1
    named = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert named == ["fastobs-old.json", "fastobs-pools.json", "fastobs-route.json"]


def test_writing_repairs_and_tidies(tmp_path):
    """Writing leaves exactly the boards that exist."""
    (tmp_path / "fastobs-old.json").write_text("{}\n")

    assert main([], tmp_path) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == rendered()


def test_files_are_stable():
    """Sorted keys and a newline at the end: a diff shows what changed and nothing else."""
    for name, text in rendered().items():
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
        assert (GENERATED / name).read_text() == text


def test_expressions_are_free_of_grafana():
    """What a real Prometheus is asked contains no variable, and names where it comes from."""
    listed = list(expressions(window="2m"))

    assert len({(each.board, each.panel, each.ref) for each in listed}) == len(listed)
    assert {each.board for each in listed} == {board.uid for board in boards()}
    assert not [each for each in listed if "$" in each.expr]
    assert [each for each in listed if "[2m]" in each.expr]
    assert [each for each in listed if 'http_route=~".*"' in each.expr]


@pytest.mark.usefixtures("promtool")
def test_prometheus_can_read_every_query(tmp_path):
    """All queries and annotations together pass promtool as recording rules."""
    asked = [each.expr for each in expressions()]
    marks = [mark["expr"] for board in boards() for mark in board.annotations.list]
    values = {"$job": ".+", "$instance": ".+"}
    for name, value in values.items():
        marks = [mark.replace(name, value) for mark in marks]
    rules = [
        {"record": f"query:{number}", "expr": expr} for number, expr in enumerate([*asked, *marks])
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    checked = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
