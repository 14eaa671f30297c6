"""What every rule must say, and that the committed files say it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alerts.__main__ import FAMILIES, GENERATED, file_name, main, rendered
from alerts.kit import Alert, Record
from alerts.links import GRAFANA, board_url, runbook_url
from alerts.thresholds import THRESHOLDS, Pair
from dashboards.boards import boards
from fastobs.catalogue import FAMILIES as CATALOGUED
from tests import parts
from tests.dashboards.reading import grouped, known, metric_of, selectors

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
TESTS = Path(__file__).parent
EVERYTHING = replace(THRESHOLDS, throughput=Pair(20.0, 5.0))
"""With what is off until somebody sets it."""
RULES = [
    (family, rule)
    for family, groups in FAMILIES.items()
    for group in groups(EVERYTHING)
    for rule in group.rules
]
BOARDS = {board.uid: board for board in boards()}
RECORDS = {rule.name: rule for _, rule in RULES if isinstance(rule, Record)}
ALERTS = [
    pytest.param(family, rule, id=f"{rule.name} {rule.severity} {rule.labels.get('window', '')}")
    for family, rule in RULES
    if isinstance(rule, Alert)
]

each_rule = pytest.mark.parametrize(
    ("family", "rule"),
    [pytest.param(family, rule, id=rule.name) for family, rule in RULES],
)
each_alert = pytest.mark.parametrize(("family", "alert"), ALERTS)


def labels_of(expression):
    """The labels that a result can have: its own grouping, or that of the records it reads."""
    labels = grouped(expression)
    for name, _ in selectors(expression):
        metric = metric_of(name)
        if name in RECORDS and RECORDS[name].expr != expression:
            labels |= labels_of(RECORDS[name].expr) | set(RECORDS[name].labels)
        elif metric and not labels:
            labels |= {"job", "instance", "worker"}
    return labels | ({"job", "instance"} if expression.startswith(("up", "scrape_")) else set())


def test_a_noun_has_rules_panels_and_a_runbook():
    """Every family of the catalogue, and Prometheus' own view of the targets, has all three."""
    nouns = {family.name for family in CATALOGUED} | {"target"}
    panels = {path.stem for path in (TESTS.parents[1] / "dashboards").glob("*.py")}

    assert set(FAMILIES) == nouns
    assert {path.stem for path in RUNBOOKS.glob("*.md")} >= nouns
    assert panels >= nouns
    assert {path.name for path in TESTS.glob("*.test.yml")} >= {
        f"{noun}.test.yml" for noun in nouns
    }


@each_rule
def test_rule_reads_what_somebody_writes(family, rule):
    """A rule cannot read a series that neither fastobs nor Prometheus nor another rule writes."""
    names = [name for name, _ in selectors(rule.expr)]

    assert [name for name in names if not known(name)] == []


@each_alert
def test_alert_leads_to_its_runbook(family, alert):
    """The runbook has a heading that is the alert's name, and says something below it."""
    text = (RUNBOOKS / f"{family}.md").read_text()
    _, _, section = text.partition(f"\n## {alert.name}\n")

    assert runbook_url(family, alert.name).endswith(f"/{family}.md#{alert.name.lower()}")
    for part in ("Users", "Confirm", "Causes", "Fix", "Better when"):
        assert f"**{part}" in section.partition("\n## ")[0], part


def queries_of(family):
    """The queries of a family's runbook, by the alert that they confirm."""
    text = (RUNBOOKS / f"{family}.md").read_text()
    for section in text.split("\n## ")[1:]:
        name, _, rest = section.partition("\n")
        confirm, _, _ = rest.partition("**Causes")
        blocks = re.findall(r"```promql\n(.*?)```", confirm, re.DOTALL)
        yield name, [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("family", FAMILIES)
def test_runbooks_confirm_an_alert_by_a_query(family):
    """Of series that somebody writes: it can be pasted into Prometheus when no board is at hand."""
    for name, queries in queries_of(family):
        assert queries, name
        assert not [one for query in queries for one, _ in selectors(query) if not known(one)], name


@pytest.mark.usefixtures("promtool")
def test_prometheus_can_read_the_queries_of_the_runbooks(tmp_path):
    """A typo at night is one too many."""
    asked = [query for family in FAMILIES for _, found in queries_of(family) for query in found]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    assert f"{len(asked)} rules found" in parts.promtool("check", "rules", file)


@pytest.mark.parametrize("family", FAMILIES)
def test_runbooks_name_panels_and_boards_that_exist(family):
    """At night nobody looks for a panel that was renamed."""
    text = " ".join((RUNBOOKS / f"{family}.md").read_text().split())
    shown = BOARDS.values()
    titles = {chart.title for board in shown for chart in board.panels}

    assert set(re.findall(r"[Pp]anels? \*([^*]+)\*", text)) <= titles
    assert {f"fastobs / {name}" for name in re.findall(r"[Bb]oard \*([^*]+)\*", text)} <= {
        board.title for board in shown
    }


@each_alert
def test_alert_leads_to_a_shipped_board(family, alert):
    """The board that an alert names exists."""
    assert alert.dashboard in BOARDS


@each_alert
def test_alert_is_a_sentence_for_the_pager(family, alert):
    """The summary is one line that ends with a full stop; the description adds to it."""
    assert alert.name.startswith("Fastobs")
    assert alert.summary.endswith(".")
    assert "\n" not in alert.summary
    assert len(alert.summary) < 140
    assert len(alert.description) > 40


@each_alert
def test_alert_speaks_of_labels_that_it_has(family, alert):
    """A label in a text is one that the expression keeps; else the text would have a hole."""
    used = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))

    assert used <= labels_of(alert.expr) | set(alert.labels)


@each_alert
def test_alert_names_what_it_is_about(family, alert):
    """Which pool, which route, which worker is in the one line that a pager shows."""
    if alert.expr.startswith(("absent(", "vector(")):
        return  # They have no labels.
    result, *_ = alert.expr.split("\nand ")
    kept = labels_of(result) - {"le"} - set(re.findall(r'(\w+)="', result))
    named = kept - {"instance", "worker"} or kept
    # What has a name of its own is found by it; else the worker or the instance is the thing.
    wanted = named if named - {"job"} else kept

    assert wanted <= set(re.findall(r"\$labels\.(\w+)", alert.summary)), alert.summary


@each_alert
def test_alert_says_how_bad_it_is(family, alert):
    """The value is in the text, where there is one: "down" has no degrees."""
    yes_or_no = re.search(r"== 0$|absent\(|unless|vector\(1\)|== 0\n", alert.expr)

    assert ("$value" in alert.description) != bool(yes_or_no), alert.expr


@each_alert
def test_alert_leads_to_its_board_with_what_it_speaks_of(family, alert):
    """A link that Prometheus fills in; without a space, so that it stays on one line of YAML."""
    url = board_url(alert.dashboard, alert.summary + alert.description)

    assert url.startswith(f"{GRAFANA}/d/{alert.dashboard}")
    assert " " not in url
    chosen = dict(re.findall(r"var-(\w+)=\{\{\$labels\.(\w+)\|urlquery\}\}", url))
    assert set(chosen.values()) <= labels_of(alert.expr)
    assert url in rendered(EVERYTHING)[file_name(family)]


@each_alert
def test_alert_waits_or_stays(family, alert):
    """A single odd evaluation wakes nobody: an alert must hold, or stays once it was right."""
    assert alert.lasts != "0s" or alert.keep or alert.severity == "none"


def test_nobody_is_told_about_throughput_unasked():
    """Nobody else knows how busy a service must be, so no number is shipped; one degree may stay off."""
    name = "FastobsThroughputBelowTarget"
    one = replace(THRESHOLDS, throughput=Pair(20.0, 0.0))

    assert name not in rendered()[file_name("http")]
    assert rendered(one)[file_name("http")].count(f"alert: {name}\n") == 1


def test_runbooks_explain_nothing_that_cannot_fire():
    """A heading without an alert is a leftover."""
    for family in FAMILIES:
        headings = re.findall(r"^## (\w+)$", (RUNBOOKS / f"{family}.md").read_text(), re.MULTILINE)
        names = [rule.name for noun, rule in RULES if noun == family and isinstance(rule, Alert)]

        assert headings == list(dict.fromkeys(names))


def test_every_record_is_read():
    """A record that neither an alert nor a board nor another record reads is a waste."""
    texts = [rule.expr for _, rule in RULES if rule.expr]
    shown = [
        target.expr
        for board in BOARDS.values()
        for chart in board.panels
        for target in chart.targets
    ]
    read = {name for text in [*texts, *shown] for name, _ in selectors(text)}

    assert set(RECORDS) - read == set()


def test_names_of_records_are_spelled_once():
    """Two records of one name differ in their labels."""
    written = [
        (rule.name, tuple(rule.labels.items())) for _, rule in RULES if isinstance(rule, Record)
    ]

    assert len(written) == len(set(written))


def test_committed_rules_are_up_to_date():
    """`python -m alerts --check` has nothing to say."""
    root = GENERATED.parents[1]
    checked = subprocess.run(
        [sys.executable, "-m", "alerts", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stderr) == (0, "")


def test_check_names_what_differs(tmp_path, capsys):
    """An edited, a missing and a foreign file are each named."""
    main([], tmp_path)
    (tmp_path / file_name("pools")).write_text("groups: []\n")
    (tmp_path / file_name("http")).unlink()
    (tmp_path / file_name("old")).write_text("groups: []\n")

    assert main(["--check"], tmp_path) == 1
    named = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert named == [file_name(family) for family in ("http", "old", "pools")]


def test_writing_repairs_and_tidies(tmp_path):
    """Writing leaves exactly the families that exist."""
    (tmp_path / file_name("old")).write_text("groups: []\n")

    assert main([], tmp_path) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == rendered()


@pytest.mark.parametrize("family", FAMILIES)
def test_yaml_keeps_what_was_meant(family):
    """Folding long lines for the reader changes no expression and no text."""
    document = yaml.safe_load(rendered(EVERYTHING)[file_name(family)])
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    meant = [rule for noun, rule in RULES if noun == family]

    assert [rule["expr"] for rule in rules] == [rule.expr for rule in meant]
    assert [rule["annotations"]["description"] for rule in rules if "alert" in rule] == [
        rule.description for rule in meant if isinstance(rule, Alert)
    ]


@pytest.mark.usefixtures("promtool")
def test_prometheus_accepts_the_rules():
    """promtool loads every file."""
    files = sorted(str(path) for path in GENERATED.glob("*.rules.yml"))
    checked = subprocess.run(
        ["promtool", "check", "rules", *files], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("SUCCESS") == len(FAMILIES)
