"""`python -m docs.pictures`: the boards as images, from a shop under load.

The panels are drawn by Grafana's own front-end components (`@grafana/ui` from npm, about 400 MB below
`build/`, installed once), not by a Grafana server. What only the server has (heatmaps, state timelines, gauges) is
drawn alike by `pictures/svg.jsx`; the bar of variables is left out. Needs npm and the programs of `make parts`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dashboards.boards import boards
from dashboards.expressions import VARIABLE
from examples.running import under_load
from fastobs.catalogue import SELF_OVERFLOW
from fastobs.promql import WINDOW
from tests import parts, watched

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).with_suffix("")
BUILD = ROOT / "build" / "pictures"
BOARDS = ROOT / "dashboards" / "generated"
LINE = 38
"""Pixels of one row of Grafana's grid, with the space between two."""
GALLERY = """\
<!-- Made by `python -m docs.pictures`; do not edit. -->
# The boards

Drawn from the live data of the shop in `examples/`, two workers with PostgreSQL and Redis under load, with its mistakes
switched on and a few faults on top (`tests/watched.py`). In the rules every span of time is 20 times shorter. The machine had
other work, too: what is slow is not all the shop's.

Time series, stats, bar gauges and tables are Grafana's own components (`@grafana/ui` from npm), with its own units, colours and
legends. Heatmaps, state timelines and gauges exist in Grafana's server only; they are drawn alike here, so these pictures are no
proof of them. Neither are the bar of variables, the marks of deploys, restarts and alerts, and the links of panels: what is known
of those is that Grafana's own schema has every field (`tests/dashboards/test_board_schema.py`) and that every query is answered
(`tests/dashboards/test_board_data.py`).
"""
STEP = 1
"""Seconds between two points."""


def main(
    *,
    board: Annotated[list[str] | None, typer.Option(help="All of them if not given.")] = None,
    seconds: Annotated[int, typer.Option(help="How long the load lasts.")] = 120,
) -> None:
    """Load a shop, ask Prometheus every query of the boards, and draw the answers."""
    script = _bundled()
    names = board or [uid for uid, _ in _boards()]
    with tempfile.TemporaryDirectory(prefix="fastobs-pictures-") as name:
        folder = Path(name)
        for wanted, data in _asked(names, folder, seconds).items():
            _drawn(data, script, folder, HERE / f"{wanted}.png")
    (HERE / "README.md").write_text(_gallery())


def _boards() -> list[tuple[str, dict[str, Any]]]:
    """Every board by its uid, in the order of the code."""
    return [
        (board.uid, json.loads((BOARDS / f"{board.uid}.json").read_text())) for board in boards()
    ]


def _gallery() -> str:
    """All pictures, each below its question."""
    shown = [
        f"## {board['title']}\n\n{board['description']}\n\n![{board['title']}]({uid}.png)\n"
        for uid, board in _boards()
        if (HERE / f"{uid}.png").exists()
    ]
    return "\n".join((GALLERY, *shown))


def _bundled() -> Path:
    """The page's script, with all of Grafana's components that it uses."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for source in ("package.json", "page.jsx", "svg.jsx"):
        shutil.copy(HERE / source, BUILD / source)
    if not (BUILD / "node_modules" / "esbuild").is_dir():
        quiet = ("--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund")
        words = (parts.find("npm"), "install", *quiet)
        subprocess.run(words, cwd=BUILD, check=True, timeout=600)  # noqa: S603 - our own words
    bundle = BUILD / "page.js"
    options = (
        *("page.jsx", "--bundle", "--minify", "--jsx=automatic", f"--outfile={bundle}"),
        *("--define:process.env.NODE_ENV='production'", "--define:global=window"),
        *("--loader:.svg=dataurl", "--loader:.ttf=empty", "--log-level=error"),
    )
    esbuild = next((BUILD / "node_modules" / "@esbuild").glob("*/bin/esbuild"))
    subprocess.run([esbuild, *options], cwd=BUILD, check=True, timeout=120)  # noqa: S603 - our own words
    return bundle


def _asked(boards: list[str], folder: Path, seconds: int) -> dict[str, dict[str, Any]]:
    """By board: its JSON, and what Prometheus answers to its queries after the load."""
    with (
        watched.shop(folder) as shop,
        parts.prometheus(
            targets={"shop": [shop.address]}, rules=watched.rules(folder)
        ) as prometheus,
    ):
        prometheus.eventually('up{job="shop"} == 1')
        watched.awaken(shop)
        under_load(shop.url, users=12, seconds=seconds)
        watched.provoke(shop)
        prometheus.eventually(f"count_over_time({SELF_OVERFLOW.name}[1m]) > 5")
        end = time.time() - 2
        return {
            name: _answers(
                json.loads((BOARDS / f"{name}.json").read_text()), prometheus, end, seconds
            )
            for name in boards
        }


def _answers(
    board: dict[str, Any], prometheus: parts.Prometheus, end: float, seconds: int
) -> dict[str, Any]:
    everything = {one["name"]: one.get("allValue") or ".*" for one in board["templating"]["list"]}
    span = {"start": end - seconds + 20, "end": end}
    results = {
        panel["id"]: [
            {
                "ref": target["refId"],
                "legend": target["legendFormat"],
                "series": prometheus.api(
                    "query_range",
                    query=VARIABLE.sub(
                        lambda found: everything[found[1]], target["expr"].replace(WINDOW, "15s")
                    ),
                    step=STEP,
                    **span,
                )["result"],
            }
            for target in panel["targets"]
        ]
        for panel in board["panels"]
        if panel["type"] != "row"
    }
    return {"board": board, "results": results, "step": STEP, **span}


def _drawn(data: dict[str, Any], script: Path, folder: Path, picture: Path) -> None:
    page = folder / f"{picture.stem}.html"
    page.write_text(
        '<!doctype html><meta charset="utf-8"><body style="margin:0"><div id="root"></div>'
        f"<script>window.BOARD = {json.dumps(data)}</script>"
        f'<link rel="stylesheet" href="{script.with_suffix(".css").as_uri()}">'
        f'<script src="{script.as_uri()}"></script>'
    )
    places = [panel["gridPos"] for panel in data["board"]["panels"]]
    height = max(place["y"] + place["h"] for place in places) * LINE + 8
    parts.screenshot(page.as_uri(), picture, width=1600, height=height, settle=10.0)
    sys.stdout.write(f"{picture.relative_to(ROOT)}\n")


if __name__ == "__main__":
    typer.run(main)
