"""What every board must do for its reader; after grafana/dashboard-linter, without its holes."""

from __future__ import annotations

import json
import re
from dataclasses import astuple
from functools import wraps
from itertools import chain, combinations
from pathlib import Path

import pytest
from grafanalib import formatunits

from alerts.__main__ import FAMILIES
from alerts.chosen import chosen, listed
from alerts.kit import Alert
from alerts.thresholds import THRESHOLDS
from dashboards.__main__ import rendered
from dashboards.boards import boards
from dashboards.http import PARTS
from dashboards.kit import Chart
from fastobs.catalogue import CATALOGUE, HTTP_DURATION, PART
from tests.alerts.test_rules import EVERYTHING

from .reading import grouped, known, metric_of, ranges, selectors

BOARDS = {name: json.loads(text) for name, text in rendered().items()}
UNITS = {value for name, value in vars(formatunits).items() if name.isupper()}
ALERTS: dict[str, list[str]] = {}
for groups in FAMILIES.values():
    for rule in chain.from_iterable(group.rules for group in groups(EVERYTHING)):
        if isinstance(rule, Alert):
            ALERTS.setdefault(rule.name, []).append(rule.expr)
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"

board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def panels(board):
    """All but the headlines."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def chart(test):
    """Ask it of every panel of a board; the failure names the panel."""

    @board
    @wraps(test)
    def asked(board):
        for panel in panels(board):
            named(panel["title"], test, board, panel)

    # pytest looks for the arguments of what is wrapped.
    del asked.__wrapped__
    return asked


def each_query(test):
    """Ask it of every query of a board; the failure names panel and query."""

    @board
    @wraps(test)
    def asked(board):
        for panel in panels(board):
            for target in panel["targets"]:
                named(f"{panel['title']} {target['refId']}", test, panel, target)

    del asked.__wrapped__
    return asked


def named(name, test, *of):
    try:
        test(*of)
    except AssertionError as wrong:
        wrong.add_note(f"It is about {name}.")
        raise


def variables(board):
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def titles(board, row):
    """The titles below a headline."""
    names = [(panel["type"], panel["title"]) for panel in board["panels"]]
    below = names[names.index(("row", row)) + 1 :]
    end = next((index for index, (kind, _) in enumerate(below) if kind == "row"), len(below))
    return [title for _, title in below[:end]]


def test_all_promised_boards_are_there():
    """Seven boards, each a noun."""
    nouns = ("overview", "route", "slo", "pools", "caches-and-limits", "runtime", "telemetry")

    assert set(BOARDS) == {f"fastobs-{noun}.json" for noun in nouns}


@board
def test_board_cannot_be_edited_in_grafana(board):
    """Files are generated; an edit in Grafana would be lost, so it is not offered."""
    assert board["editable"] is False
    assert "id" not in board


@board
def test_board_speaks_todays_schema(board):
    """Grafana 12 and 13 read it without migrating."""
    assert board["schemaVersion"] == 42
    assert board["graphTooltip"] == 1
    assert board["uid"].startswith("fastobs-")
    assert board["tags"] == ["fastobs"]
    assert board["description"].endswith("?")


@board
def test_data_source_is_the_readers_choice(board):
    """A board works with any Prometheus, whatever it is called."""
    datasource = variables(board)["datasource"]

    assert datasource["type"] == "datasource"
    assert datasource["query"] == "prometheus"
    assert datasource["label"] == "Data source"


@board
@pytest.mark.parametrize("name", ["job", "instance"])
def test_job_and_instance_can_be_chosen(board, name):
    """Several or all of them, refreshed with the time range."""
    variable = variables(board)[name]

    assert variable["refresh"] == 2
    assert variable["allValue"] == ".+"
    assert variable["multi"]
    assert variable["includeAll"]
    assert variable["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@board
def test_variables_ask_for_our_series(board):
    """A variable's values come from a series of the catalogue or of our rules."""
    queries = [each["definition"] for each in variables(board).values() if "definition" in each]
    names = [
        found[1] for text in queries if (found := re.match(r"label_values\((.*), \w+\)$", text))
    ]
    assert len(names) == len(queries)

    assert names
    assert all(known(name) for text in names for name, _ in selectors(text))


def test_unmatched_requests_are_part_of_all_routes():
    """Where no route matched, http_route is empty; "All" contains it."""
    assert variables(BOARDS["fastobs-route.json"])["route"]["allValue"] == ".*"


@board
def test_boards_lead_to_each_other(board):
    """A drop-down with all of them keeps variables and time."""
    (link,) = board["links"]

    assert (link["type"], link["tags"], link["asDropdown"]) == ("dashboards", ["fastobs"], True)
    assert link["includeVars"]
    assert link["keepTime"]


@board
def test_deploys_restarts_and_alerts_are_marked(board):
    """A change in a graph can be seen beside what was changed."""
    marks = {mark["name"]: mark["expr"] for mark in board["annotations"]["list"]}

    assert list(marks) == ["Deploys", "Restarts", "Alerts"]
    assert all(known(name) for expr in marks.values() for name, _ in selectors(expr))


@board
def test_panels_do_not_overlap(board):
    """Every panel is within 24 columns and on a place of its own."""
    places = [panel["gridPos"] for panel in board["panels"]]

    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@board
def test_lines_of_panels_are_full(board):
    """No line ends before the 24th column: a hole looks like a panel that failed to load."""
    lines: dict[int, int] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]

    assert {y: width for y, width in lines.items() if width != 24} == {}


@board
def test_panel_ids_are_unique(board):
    """A link to a panel leads to one panel."""
    ids = [panel["id"] for panel in board["panels"]]

    assert len(ids) == len(set(ids))


@chart
def test_panel_asks_one_question(board, panel):
    """Title and description say what the panel answers."""
    assert panel["title"]
    assert "?" in panel["description"]


@chart
def test_panel_has_a_unit(board, panel):
    """The unit is one that Grafana knows."""
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@chart
def test_panel_follows_the_data_source(board, panel):
    """Panel and queries ask the data source that was chosen."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert panel["datasource"] == chosen
    assert panel["targets"]
    assert all(target["datasource"] == chosen for target in panel["targets"])


@chart
def test_colours_begin_without_a_value(board, panel):
    """The first colour has no value (null, not "null"), the others rise."""
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": [{"value": None}]})[
        "steps"
    ]
    values = [step["value"] for step in steps]

    assert values[0] is None
    assert values[1:] == sorted(values[1:])


@chart
def test_colours_change_where_alerts_fire(board, panel):
    """Every threshold of a panel or of a table's column is a threshold of the alerts."""
    numbers = set(chain.from_iterable(flat(each) for each in astuple(THRESHOLDS))) | {0.0}
    config = panel["fieldConfig"]
    columns = [
        prop["value"]["steps"]
        for override in config["overrides"]
        for prop in override["properties"]
        if prop["id"] == "thresholds"
    ]
    steps = [config["defaults"].get("thresholds", {"steps": []})["steps"], *columns]

    assert {step["value"] for step in chain(*steps)} - {None} <= numbers


def flat(value):
    return value if isinstance(value, tuple) else (value,)


@chart
def test_links_lead_to_shipped_boards(board, panel):
    """A link to a board names one that exists."""
    shipped = {each["uid"] for each in BOARDS.values()}

    assert set(re.findall(r"/d/([\w-]+)", json.dumps(panel))) <= shipped


@chart
def test_panel_names_an_existing_runbook(board, panel):
    """The runbook behind a panel's alert has a heading for it."""
    for family, anchor in re.findall(r"/runbooks/(\w+)\.md#(\w+)", panel["description"]):
        headings = (RUNBOOKS / f"{family}.md").read_text().lower().splitlines()

        assert f"## {anchor}" in headings


@each_query
def test_query_uses_grafanas_window(panel, target):
    """A fixed window is wrong for somebody's scrape interval."""
    assert set(ranges(target["expr"])) <= {"$__rate_interval"}


@each_query
def test_query_respects_job_and_instance(panel, target):
    """Every selector is limited to what was chosen, unless the panel says that it is not."""
    for name, braces in selectors(target["expr"]):
        if name.startswith("fastobs:slo_error_budget"):
            continue  # It has no job: it is a promise, not a measurement.
        assert 'job=~"$job"' in braces or 'job=~"$job|"' in braces, name
        whole = name.startswith("fastobs:") or "All instances" in panel["description"]
        assert whole or 'instance=~"$instance"' in braces, name


@each_query
def test_query_names_what_somebody_writes(panel, target):
    """A query cannot ask for a series that neither fastobs nor Prometheus nor our rules write."""
    names = [name for name, _ in selectors(target["expr"])]

    assert names
    assert [name for name in names if not known(name)] == []


@each_query
def test_query_reads_counters_as_rates(panel, target):
    """What a counter is worth now depends on when the process was started."""
    for found in re.finditer(r"[a-z]\w*", target["expr"]):
        metric = CATALOGUE.get(metric_of(found[0]) or "")
        if metric is not None and metric.kind != "gauge":
            assert target["expr"][: found.start()].endswith(("rate(", "increase(")), found[0]


@each_query
def test_legend_names_labels_of_the_result(panel, target):
    """What is in {{braces}} is kept by the aggregation."""
    wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - {"le"}
    recorded = {"job", "slo"} if "fastobs:" in target["expr"] else set()

    assert wanted <= grouped(target["expr"]) | recorded
    assert target["legendFormat"] or panel["type"] == "table"


@each_query
def test_exemplars_are_asked_of_request_durations(panel, target):
    """Only they carry trace ids."""
    assert not target["exemplar"] or "http_server_request_duration_seconds_bucket" in target["expr"]


def test_every_series_is_shown():
    """No series of the catalogue is paid for and never looked at."""
    targets = [
        target for each in BOARDS.values() for panel in panels(each) for target in panel["targets"]
    ]
    shown = {metric_of(name) for target in targets for name, _ in selectors(target["expr"])}

    assert set(CATALOGUE) - shown == set()


def test_overview_begins_with_the_targets():
    """P50, P99, error ratio, throughput and CPU come first, in this order."""
    first = titles(BOARDS["fastobs-overview.json"], "Targets")

    assert first[:5] == ["P50 latency", "P99 latency", "Error ratio", "Throughput", "CPU of limit"]


def test_overview_goes_from_what_users_feel_to_its_causes():
    """Targets, then rate, errors and duration, then routes, then saturation."""
    board = BOARDS["fastobs-overview.json"]
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]

    assert rows == ["Targets", "Rate, errors, duration", "By route", "Saturation", "Health"]


def test_every_panel_of_the_overview_leads_on():
    """It is where one begins; the next board is one click away, for the same service and time."""
    for panel in panels(BOARDS["fastobs-overview.json"]):
        inside = [
            value["url"]
            for override in panel["fieldConfig"]["overrides"]
            for each in override["properties"]
            if each["id"] == "links"
            for value in each["value"]
        ]
        urls = [link["url"] for link in panel["links"]] + inside
        assert urls, panel["title"]
        assert all("${__url_time_range}" in url for url in urls), panel["title"]


@chart
def test_a_line_of_a_route_opens_the_routes_board(board, panel):
    """Whoever sees which route it is has found where to look next."""
    by_route = any("{{http_route}}" in target["legendFormat"] for target in panel["targets"])

    assert by_route == ("var-route=${__field.labels.http_route" in json.dumps(panel))


def test_each_part_of_a_request_has_a_colour():
    """The same one on every board, and no two the same."""
    assert set(PARTS) == {f"^{part}$" for part in PART}
    assert len(set(PARTS.values())) == len(PARTS)


def test_route_board_shows_where_the_time_goes():
    """The mean request, cut into parts that are stacked over the board's whole width."""
    panels = {panel["title"]: panel for panel in BOARDS["fastobs-route.json"]["panels"]}
    centre = panels["Where does the time go?"]

    assert centre["gridPos"]["w"] == 24
    assert centre["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    assert "{{part}}" in [target["legendFormat"] for target in centre["targets"]]


def test_a_click_on_a_route_opens_its_board():
    """The routes table hands over route, method, data source and time."""
    panels = {panel["title"]: panel for panel in BOARDS["fastobs-overview.json"]["panels"]}
    column = panels["Routes"]["fieldConfig"]["overrides"][0]
    (link,) = next(each["value"] for each in column["properties"] if each["id"] == "links")

    assert link["url"].startswith("/d/fastobs-route?${__url_time_range}&${datasource:queryparam}")
    assert "var-route=${__data.fields.Route:percentencode}" in link["url"]
    assert "var-method=${__data.fields.Method}" in link["url"]


@board
def test_a_board_is_filed_under_its_name(board):
    """Links name the uid; who has the uid finds the file."""
    names = [name for name, each in BOARDS.items() if each is board]

    assert names == [f"{board['uid']}.json"]


@board
def test_marks_are_shown_at_once(board):
    """Nobody has to know that they are there, and each kind has a colour of its own."""
    marks = board["annotations"]["list"]

    assert all(mark["enable"] and not mark["hide"] for mark in marks)
    assert all(mark["datasource"]["uid"] == "${datasource}" for mark in marks)
    assert len({mark["iconColor"] for mark in marks}) == len(marks)


@chart
def test_panel_asks_nothing_else(board, panel):
    """One question; what needs two is two panels."""
    asks, *_ = panel["description"].split("\n\n")

    assert asks.count("?") == 1


@chart
def test_lines_can_be_told_apart(board, panel):
    """Two queries of a panel have two legends, and the legend is shown."""
    legends = [target["legendFormat"] for target in panel["targets"]]

    assert panel["type"] == "table" or len(set(legends)) == len(legends)
    assert panel["type"] != "timeseries" or panel["options"]["legend"]["showLegend"]


@chart
def test_colours_change_where_the_panels_own_alert_fires(board, panel):
    """Yellow or red is exactly where the alert that the panel names would fire."""
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
    wanted = {step["value"] for step in steps} - {None}
    named = re.findall(r"^Alert: \[(\w+)\]", panel["description"], re.MULTILINE)

    assert wanted <= set(chain.from_iterable(numbers(ALERTS[name]) for name in named))
    assert named or not wanted


def numbers(expressions):
    return {
        float(number)
        for expr in expressions
        for number in re.findall(r"(?<![\w.\[])\d+(?:\.\d+)?(?![\w.])", expr)
    }


def other(line):
    """A number nobody ships; of this one, only a bucket can be counted."""
    return 0.15 if line.name == "latency_p99.target" else round(0.97 * line.value, 6)


OTHER = chosen([], [f"{line.name}={other(line)}" for line in listed(EVERYTHING)])


def test_boards_of_ones_own_thresholds_change_colours_where_ones_own_alerts_fire():
    """Not one panel still shows a number that is shipped."""
    exprs: dict[str, list[str]] = {}
    for groups in FAMILIES.values():
        for rule in chain.from_iterable(group.rules for group in groups(OTHER)):
            if isinstance(rule, Alert):
                exprs.setdefault(rule.name, []).append(rule.expr)
    coloured = 0
    for text in rendered(OTHER).values():
        for panel in json.loads(text)["panels"]:
            config = panel.get("fieldConfig", {"defaults": {}})["defaults"]
            steps = config.get("thresholds", {"steps": []})["steps"]
            wanted = {step["value"] for step in steps} - {None}
            named = re.findall(r"^Alert: \[(\w+)\]", panel.get("description", ""), re.MULTILINE)
            coloured += bool(wanted)
            assert wanted <= set(chain.from_iterable(numbers(exprs[name]) for name in named))

    assert coloured > 20


def test_ones_own_thresholds_are_in_columns_and_queries_too():
    """The routes table, and the lines that a query draws because they move."""
    found = {name: json.loads(text) for name, text in rendered(OTHER).items()}
    overview = found["fastobs-overview.json"]["panels"]
    columns = json.dumps([panel for panel in overview if panel["title"] == "Routes"])

    for pair in (OTHER.latency_p50, OTHER.latency_p99, OTHER.error_ratio):
        for value in astuple(pair):
            assert f'"value": {value}' in columns
    assert f'"{OTHER.traffic_drop.target:g} * sum(' in json.dumps(overview)
    assert f'"{OTHER.memory:g} * max(' in json.dumps(found["fastobs-runtime.json"])


@chart
def test_links_keep_what_was_chosen(board, panel):
    """The next board shows the same service at the same time."""
    for link in panel["links"]:
        assert "${__url_time_range}" in link["url"]
        assert "${__all_variables}" in link["url"]


@chart
def test_latency_leads_to_traces(board, panel):
    """A graph of request durations shows the traces behind it."""
    drawn = panel["type"] in {"timeseries", "heatmap"}
    durations = [
        target
        for target in panel["targets"]
        if f"{HTTP_DURATION.name}_bucket" in target["expr"] and " offset " not in target["expr"]
    ]

    assert not drawn or all(target["exemplar"] for target in durations)


def test_every_series_is_in_the_reference():
    """What is scraped is explained; a series that is renamed has to be renamed there."""
    reference = (RUNBOOKS.parent / "metrics.md").read_text()

    assert [name for name in CATALOGUE if f"`{name}`" not in reference] == []


def test_an_empty_panel_says_why():
    """Where a healthy service may have nothing to show, the panel does not just say "No data"."""
    for board in boards():
        for chart in (panel for panel in board.panels if isinstance(panel, Chart)):
            reasons = [target.maybe_empty for target in chart.targets]

            assert chart.defaults.get("noValue") or not all(reasons), chart.title
