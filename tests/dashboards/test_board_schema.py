"""The referee is Grafana's own foundation SDK: what it does not know, it forgets."""

from __future__ import annotations

import json
import warnings

import pytest

from dashboards.__main__ import rendered

with warnings.catch_warnings():
    # The SDK recommends its second, beta dashboard format while it is being imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import dashboard

    register_default_plugins()

BOARDS = {name: json.loads(text) for name, text in rendered().items()}


def lost(ours, theirs, path="board"):
    """Where the second lacks what the first has."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{path}.{key}"
            else:
                yield from lost(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield path


def there_and_back(board):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        read = dashboard.Dashboard.from_json(board)
        return json.loads(json.dumps(read, cls=JSONEncoder))


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_grafana_knows_every_field(board):
    """Read into Grafana's types and written again, nothing is missing or different."""
    assert list(lost(board, there_and_back(board))) == []


@pytest.mark.parametrize(
    "where",
    [
        lambda board: board,
        lambda board: board["panels"][1],
        lambda board: board["panels"][1]["options"],
        lambda board: board["panels"][1]["targets"][0],
        lambda board: board["panels"][1]["fieldConfig"]["defaults"],
    ],
    ids=["board", "panel", "options", "target", "field"],
)
def test_referee_notices_a_field_that_grafana_does_not_know(where):
    """A misspelt field is found at every level: the test above is able to fail."""
    board = json.loads(json.dumps(BOARDS["fastobs-overview.json"]))
    where(board)["misspelt"] = True

    assert [path.rpartition(".")[2] for path in lost(board, there_and_back(board))] == ["misspelt"]


def test_referee_notices_another_value():
    """Also a value that comes back different is a loss."""
    assert list(lost({"panels": [{"id": 1}]}, {"panels": [{"id": 2}]})) == ["board.panels[0].id"]
