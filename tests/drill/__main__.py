"""`make drill`: break the shop in nine ways, and see that the right alert comes and goes.

Every drill has a shop with two workers, a Prometheus with our rules and an Alertmanager with our example
of inhibition to itself, so that one fault's echo is not taken for the next one's. The rules are those of
`alerts/`, only that their time passes faster. Ends with 0 if every alert came, and went, and no other one of
its severity or worse came that is not a symptom of the fault.

With ``--calm 30`` there is no fault: for half an hour the rules, exactly as shipped, watch a shop with ordinary
requests, and no alert may fire but the one that always does; docs/drills.md then says how it went.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from alerts.__main__ import FAMILIES, file_name
from alerts.kit import render
from alerts.pace import Pace
from alerts.thresholds import THRESHOLDS
from fastobs.catalogue import HTTP_DURATION
from tests import parts

from .faults import DRILLS, WORKERS, Drill, Stage
from .report import PAGE, page, rested
from .watch import Alarm, Outcome, rehearse, rest

console = Console(highlight=False)
ROOT = Path(__file__).parents[2]
AS_SHIPPED = Pace(faster=1)
ALWAYS = Alarm("FastobsWatchdog", "none")
INHIBITION = ROOT / "examples" / "stack" / "alertmanager" / "alertmanager.yml"


def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="The drills to do; all if not given.")
    ] = None,
    faster: Annotated[float, typer.Option(help="What the rules' times are divided by.")] = 30.0,
    at_once: Annotated[int, typer.Option(help="How many drills are under way.")] = 3,
    calm: Annotated[
        float | None, typer.Option(help="Minutes without a fault, with the rules as shipped.")
    ] = None,
) -> None:
    """Do the drills and say how they went; all of them together, or a calm time, are in docs/drills.md then."""
    if calm is not None:
        sys.exit(_rested(calm))
    names = {drill.name for drill in DRILLS}
    if unknown := set(only or ()) - names:
        sys.exit(f"There is no drill {min(unknown)!r}. There are: {', '.join(sorted(names))}.")
    chosen = [drill for drill in DRILLS if not only or drill.name in only]
    pace = Pace(faster=faster)
    with ThreadPoolExecutor(at_once) as threads:
        outcomes = list(threads.map(lambda drill: _told(drill, pace), chosen))
    if not only:
        PAGE.write_text(page(outcomes, pace, PAGE.read_text()))
        console.print(f"Written: {PAGE.relative_to(ROOT)}")
    sys.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


def _told(drill: Drill, pace: Pace) -> Outcome:
    with _stage(pace) as stage:
        outcome = rehearse(drill, stage)
    console.print(outcome.line())
    return outcome


def _rested(minutes: float) -> int:
    with _stage(AS_SHIPPED) as stage:
        told = rest(stage, 60 * minutes)
        ((_, requests),) = stage.prometheus.query(f"sum({HTTP_DURATION.name}_count)")
    wrong = sorted(f"{alarm.name} ({alarm.severity})" for alarm in told - {ALWAYS})
    if ALWAYS not in told:
        wrong.append(f"{ALWAYS.name} did not come, so no other alert could have")
    PAGE.write_text(rested(PAGE.read_text(), minutes=minutes, requests=requests, wrong=wrong))
    console.print(
        f"{'FAIL' if wrong else 'ok  '} {minutes:g} calm minutes: {', '.join(wrong) or 'no alert'}"
    )
    return 1 if wrong else 0


@contextmanager
def _stage(pace: Pace) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="fastobs-drill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        workers = folder / "workers"
        workers.mkdir()
        environment = {
            "SHOP_DATABASE_URL": f"sqlite:///{folder}/shop.db",
            "FASTOBS_WORKERS_DIRECTORY": str(workers),
        }
        if pace != AS_SHIPPED:
            # With the shipped tick a short window has a hundred heartbeats, and one late one is the P99.
            environment["FASTOBS_RUNTIME_TICK"] = "0.01"
        with (
            parts.serve(
                "tests.drill.faulty:app", workers=WORKERS, env=environment, ready="/healthz"
            ) as shop,
            parts.alertmanager(config=yaml.safe_load(INHIBITION.read_text())) as alertmanager,
            parts.prometheus(
                targets={"shop": [shop.address]},
                rules=_rules(folder, pace),
                alertmanager=alertmanager,
                interval=5.0 if pace == AS_SHIPPED else 1.0,
            ) as prometheus,
        ):
            yield Stage(
                shop=shop, prometheus=prometheus, alertmanager=alertmanager, workers=workers
            )


def _rules(folder: Path, pace: Pace) -> list[Path]:
    # The one threshold that is a time to wait, not a duration that users feel.
    limits = replace(THRESHOLDS, pool_checkout_age=THRESHOLDS.pool_checkout_age / pace.faster)
    paths = []
    for family, groups in FAMILIES.items():
        paths.append(folder / file_name(family))
        paths[-1].write_text(render(family, pace.groups(groups(limits))))
    return paths


if __name__ == "__main__":
    typer.run(main)
