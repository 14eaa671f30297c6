"""``fastobs dashboards|alerts|monitor export``: what is in the wheel, as files for others to load."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Literal

import typer

from fastobs._extras import need

from .failure import Failed

__all__ = [
    "alerts",
    "compatible",
    "config_map",
    "dashboards",
    "monitor",
    "prometheus_rule",
    "shipped",
]

PLACES = (Path(__file__).parents[1] / "_shipped", Path(__file__).parents[2])
"""Where the boards and rules are with the code that makes them: in a wheel, in a checkout."""
KEEPS_FIRING = re.compile(r"^ +keep_firing_for: \S+\n", re.MULTILINE)
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
URL = re.compile(r"https?://[^\s\"'\\]+")
LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?")

dashboards = typer.Typer(help="The Grafana boards.", no_args_is_help=True)
alerts = typer.Typer(help="The recording and alerting rules of Prometheus.", no_args_is_help=True)
monitor = typer.Typer(help="What the Prometheus operator scrapes.", no_args_is_help=True)


class BoardFormat(StrEnum):
    """How boards are written."""

    JSON = "json"
    CONFIG_MAP = "configmap"


class RuleFormat(StrEnum):
    """How rules are written."""

    PROMETHEUS = "prometheus"
    PROMETHEUS_RULE = "prometheusrule"
    COMPAT = "compat"


class Scraped(StrEnum):
    """What a monitor selects."""

    SERVICE = "service"
    POD = "pod"


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")]
Slo = Annotated[
    list[str] | None,
    typer.Option(
        "--slo",
        metavar="NAME=PERCENT",
        help="What you promise: availability (requests without a 5xx) or latency (requests faster "
        "than latency_p99.target), like availability=99.5; repeatable.",
    ),
]
Numbers = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another threshold, like pool_use=0.9; repeatable. `fastobs alerts thresholds` lists "
        "them. Give boards and rules the same words.",
    ),
]
Runbooks = Annotated[
    str | None, typer.Option(metavar="URL", help="The folder of your own copy of docs/runbooks.")
]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file differs.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="On each Kubernetes object; repeatable."),
]


@dashboards.command("export", epilog="Example: fastobs dashboards export grafana/dashboards")
def export_dashboards(
    folder: Folder,
    *,
    kind: Annotated[
        BoardFormat, typer.Option("--format", help="Plain, or for Grafana's sidecar.")
    ] = BoardFormat.JSON,
    slo: Slo = None,
    numbers: Numbers = None,
    runbooks: Runbooks = None,
    label: Labels = None,
    force: Force = False,
    check: Check = False,
) -> None:
    """Write the Grafana boards into a folder."""
    boards = _drawn(slo or [], numbers or []) if slo or numbers else shipped("dashboards")
    boards = _linked(boards, runbooks=runbooks)
    if kind is BoardFormat.CONFIG_MAP:
        labels = _pairs(label, "--label")
        boards = {
            f"{Path(name).stem}.configmap.yml": config_map(name, board, labels)
            for name, board in boards.items()
        }
    else:
        _refuse(label, kind)
    _write(boards, folder, force=force, check=check)


@alerts.command("export", epilog="Example: fastobs alerts export k8s --format prometheusrule")
def export_alerts(
    folder: Folder,
    *,
    kind: Annotated[
        RuleFormat,
        typer.Option(
            "--format",
            help="Rule files, PrometheusRule objects, or rule files for a Prometheus before 2.42 or "
            "an old vmalert, which do not know keep_firing_for.",
        ),
    ] = RuleFormat.PROMETHEUS,
    slo: Slo = None,
    numbers: Numbers = None,
    grafana: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where your Grafana is, for the link to the board."),
    ] = None,
    runbooks: Runbooks = None,
    label: Labels = None,
    force: Force = False,
    check: Check = False,
) -> None:
    """Write the rules into a folder."""
    rules = _ruled(slo or [], numbers or []) if slo or numbers else shipped("alerts")
    rules = _linked(rules, grafana=grafana, runbooks=runbooks)
    if kind is RuleFormat.PROMETHEUS_RULE:
        labels = _pairs(label, "--label")
        rules = {
            f"{_stem(name)}.prometheusrule.yml": prometheus_rule(_stem(name), text, labels)
            for name, text in rules.items()
        }
    else:
        _refuse(label, kind)
    if kind is RuleFormat.COMPAT:
        rules = {name: compatible(text) for name, text in rules.items()}
    _write(rules, folder, force=force, check=check)


@alerts.command("thresholds", epilog="Example: fastobs alerts thresholds")
def list_thresholds() -> None:
    """List every number at which an alert fires, as `alerts export --set` takes it."""
    rows = [
        (line.name, f"{line.value:g} {line.unit}", line.reason)
        for line in _code("alerts.chosen").listed()
    ]
    name, value = (max(len(row[column]) for row in rows) for column in (0, 1))
    for row in rows:
        typer.echo(f"{row[0]:{name}}  {row[1]:{value}}  {row[2]}")


@monitor.command("export", epilog="Example: fastobs monitor export k8s --selector app=shop")
def export_monitor(
    folder: Folder,
    *,
    selector: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Labels of what is scraped; repeatable.")
    ],
    kind: Annotated[
        Scraped, typer.Option("--kind", help="ServiceMonitor or PodMonitor.")
    ] = Scraped.SERVICE,
    name: Annotated[str, typer.Option(help="Of the object.")] = "fastobs",
    port: Annotated[str, typer.Option(help="The port's name there.")] = "http",
    path: Annotated[str, typer.Option(help="The setting metrics.path.")] = "/metrics",
    interval: Annotated[str, typer.Option(help="Between two scrapes.")] = "15s",
    secret: Annotated[
        str | None,
        typer.Option(metavar="NAME/KEY", help="The Secret with metrics.token, if it is set."),
    ] = None,
    label: Labels = None,
    force: Force = False,
    check: Check = False,
) -> None:
    """Write a ServiceMonitor or a PodMonitor into a folder."""
    what, endpoints = {
        Scraped.SERVICE: ("ServiceMonitor", "endpoints"),
        Scraped.POD: ("PodMonitor", "podMetricsEndpoints"),
    }[kind]
    if NAME.fullmatch(name) is None:
        msg = f"--name {name!r} names no Kubernetes object; write it like shop or shop-metrics."
        raise Failed(msg)
    lines = [
        *_head("monitoring.coreos.com/v1", what, name, _pairs(label, "--label")),
        "spec:",
        "  selector:",
        "    matchLabels:",
        *_mapping(_pairs(selector, "--selector"), depth=6),
        f"  {endpoints}:",
        f"    - port: {json.dumps(port)}",
        f"      path: {json.dumps(path)}",
        f"      interval: {json.dumps(interval)}",
        *_authorization(secret),
    ]
    file = f"{name}.{what.lower()}.yml"
    _write({file: "\n".join(lines) + "\n"}, folder, force=force, check=check)


def shipped(what: Literal["dashboards", "alerts"]) -> dict[str, str]:
    """The generated files by name, of the installed package or of the checkout it runs from.

    Raises:
        Failed: They are in neither.
    """
    for place in PLACES:
        if (folder := place / what / "generated").is_dir():
            return {
                file.name: file.read_text(encoding="utf-8")
                for file in sorted(folder.iterdir())
                if file.name.endswith((".json", ".yml"))
            }
    raise Failed(_missing(what))


def _drawn(slos: list[str], numbers: list[str]) -> dict[str, str]:
    """The boards by file name, with their colours where alerts of these thresholds fire."""
    limits = _chosen(slos, numbers)
    with need("--slo and --set of boards", extra="dashboards"):
        made: dict[str, str] = _code("dashboards.__main__").rendered(limits)
    return made


def _ruled(slos: list[str], numbers: list[str]) -> dict[str, str]:
    """The rule files by name, made with these thresholds instead of the shipped ones."""
    limits = _chosen(slos, numbers)
    with need("--slo and --set", extra="cli"):
        families = _code("alerts.families")
    words = [f"--slo {word}" for word in slos] + [f"--set {word}" for word in numbers]
    # On one line, whatever space stood around a number.
    said = " ".join(" ".join(words).split())
    header = f"# Written by `fastobs alerts export` with {said}; export again to change it.\n"
    made: dict[str, str] = families.rendered(limits, header=header)
    return made


def _chosen(slos: list[str], numbers: list[str]) -> Any:
    try:
        return _code("alerts.chosen").chosen(slos, numbers)
    except ValueError as wrong:
        raise Failed(str(wrong)) from wrong


def _code(module: str) -> Any:
    """A module of what makes boards or rules, which know each other by their names in a checkout.

    Raises:
        Failed: This installation does not have it.
    """
    file = Path(*module.split(".")).with_suffix(".py")
    for place in PLACES:
        if (place / file).is_file():
            # First: where the command is run there may be an `alerts` of somebody else.
            sys.path.insert(0, str(place))
            try:
                return import_module(module)
            finally:
                sys.path.remove(str(place))
    raise Failed(_missing(file.parts[0]))


def _linked(
    texts: Mapping[str, str], *, grafana: str | None = None, runbooks: str | None = None
) -> dict[str, str]:
    """The same files with links to places of one's own."""
    links = _code("alerts.links") if grafana or runbooks else None
    for option, ours, theirs in (
        ("grafana", "GRAFANA", grafana),
        ("runbooks", "RUNBOOKS", runbooks),
    ):
        if theirs is None:
            continue
        if not URL.fullmatch(theirs):
            msg = (
                f"--{option} {theirs!r} is no address; write it like https://{option}.example.org."
            )
            raise Failed(msg)
        shipped_one = getattr(links, ours)
        texts = {
            name: text.replace(shipped_one, theirs.rstrip("/")) for name, text in texts.items()
        }
    return dict(texts)


def _missing(what: str) -> str:
    return f"This installation of fastobs has no {what}. Install it from its wheel: pip install fastobs."


def compatible(rules: str) -> str:
    """A rule file without what a Prometheus before 2.42 and an old vmalert refuse."""
    return KEEPS_FIRING.sub("", rules)


def config_map(file: str, board: str, labels: Mapping[str, str]) -> str:
    """A ConfigMap that Grafana's sidecar loads."""
    found = {"grafana_dashboard": "1", **labels}
    # A literal block keeps the board as it is, so that a change of it is a change of the same lines.
    head = [*_head("v1", "ConfigMap", Path(file).stem, found), "data:", f"  {file}: |"]
    return "\n".join(head) + "\n" + indent(board.rstrip("\n"), " " * 4) + "\n"


def prometheus_rule(name: str, rules: str, labels: Mapping[str, str]) -> str:
    """A rule file as an object of the Prometheus operator."""
    head = [*_head("monitoring.coreos.com/v1", "PrometheusRule", name, labels), "spec:"]
    return "\n".join(head) + "\n" + indent(rules, "  ")


def _head(version: str, kind: str, name: str, labels: Mapping[str, str]) -> list[str]:
    lines = [f"apiVersion: {version}", f"kind: {kind}", "metadata:", f"  name: {json.dumps(name)}"]
    return [*lines, "  labels:", *_mapping(labels, depth=4)] if labels else lines


def _mapping(pairs: Mapping[str, str], *, depth: int) -> list[str]:
    # A JSON string is a YAML string, and never a number or a truth value, which `on` would be.
    return [f"{' ' * depth}{json.dumps(k)}: {json.dumps(v)}" for k, v in pairs.items()]


def _authorization(secret: str | None) -> list[str]:
    if secret is None:
        return []
    name, _, key = secret.partition("/")
    if not NAME.fullmatch(name) or not LABEL.fullmatch(key):
        msg = f"--secret {secret!r} names no Secret and its key; write it like shop-metrics/token."
        raise Failed(msg)
    return [
        "      authorization:",
        "        credentials:",
        f"          name: {json.dumps(name)}",
        f"          key: {json.dumps(key)}",
    ]


def _pairs(given: Iterable[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not LABEL.fullmatch(name) or not (value == "" or LABEL.fullmatch(value)):
            msg = f"{option} {pair!r} is no label of Kubernetes; write it like {option} app=shop."
            raise Failed(msg)
        pairs[name] = value
    return pairs


def _refuse(label: list[str] | None, kind: StrEnum) -> None:
    if label:
        msg = f"--label is for Kubernetes objects, and --format {kind} has none. Leave it out."
        raise Failed(msg)


def _stem(rule_file: str) -> str:
    return rule_file.removesuffix(".rules.yml")


def _write(wanted: Mapping[str, str], folder: Path, *, force: bool, check: bool) -> None:
    """All files or none.

    Raises:
        Failed: One differs and may not be overwritten, or the folder cannot be written.
    """
    try:
        present = {name: _text(folder / name) for name in wanted}
        differing = [name for name, text in wanted.items() if present[name] != text]
        if check:
            _report(differing, present, folder)
            return
        kept = [name for name in differing if present[name] is not None]
        if kept and not force:
            msg = f"{folder} has another {', '.join(kept)}; nothing was written. Overwrite with --force."
            raise Failed(msg)
        folder.mkdir(parents=True, exist_ok=True)
        for name in differing:
            (folder / name).write_text(wanted[name], encoding="utf-8")
    except OSError as error:
        msg = f"{folder} cannot be used: {error}. Choose another folder."
        raise Failed(msg) from error
    for name in wanted:
        typer.echo(f"{folder / name}{'' if name in differing else ' (unchanged)'}")


def _report(differing: list[str], present: Mapping[str, str | None], folder: Path) -> None:
    for name in differing:
        how = "is missing" if present[name] is None else "differs"
        typer.echo(f"{folder / name} {how}")
    if differing:
        msg = f"{folder} is not what this release of fastobs exports. Export again with --force."
        raise Failed(msg)


def _text(file: Path) -> str | None:
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
