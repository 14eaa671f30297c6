"""Exported files are what is shipped, and what Kubernetes and Prometheus read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.chosen import listed
from alerts.links import GRAFANA, RUNBOOKS
from alerts.thresholds import THRESHOLDS
from dashboards.__main__ import rendered
from fastobs.cli.export import shipped
from tests.cli.running import ROOT, Done, complaint, fastobs


def written(folder: Path) -> dict[str, Any]:
    return {file.name: yaml.safe_load(file.read_text()) for file in sorted(folder.iterdir())}


def export(*words: object) -> None:
    done = fastobs(*words)
    assert done.returncode == 0, done.stderr


def test_boards_are_exported_as_they_are(tmp_path):
    """The files are those of the wheel, byte by byte, in a folder that is made."""
    export("dashboards", "export", tmp_path / "new" / "boards")

    files = {file.name: file.read_text() for file in (tmp_path / "new/boards").iterdir()}
    assert files == shipped("dashboards")
    assert "fastobs-overview.json" in files


def test_a_config_map_carries_the_board_for_the_sidecar(tmp_path):
    """Grafana's sidecar finds it by its label, and gets the same board."""
    export("dashboards", "export", tmp_path, "--format", "configmap", "--label", "team=shop")

    boards = shipped("dashboards")
    found = written(tmp_path)
    assert len(found) == len(boards)
    for name, board in boards.items():
        made = found[name.replace(".json", ".configmap.yml")]
        assert (made["apiVersion"], made["kind"]) == ("v1", "ConfigMap")
        assert made["metadata"]["labels"] == {"grafana_dashboard": "1", "team": "shop"}
        assert json.loads(made["data"][name]) == json.loads(board)


def test_rules_are_valid_for_prometheus(tmp_path, promtool):
    """Both profiles pass promtool."""
    for kind in ("prometheus", "compat"):
        export("alerts", "export", tmp_path / kind, "--format", kind)
        files = sorted(map(str, (tmp_path / kind).iterdir()))
        checked = subprocess.run(
            [promtool, "check", "rules", *files], capture_output=True, text=True, check=False
        )

        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_compatible_profile_lacks_only_what_old_readers_refuse(tmp_path):
    """Nothing but keep_firing_for goes."""
    export("alerts", "export", tmp_path, "--format", "compat")

    found = written(tmp_path)
    assert "keep_firing_for" not in str(found)
    dropped = 0
    for name, text in shipped("alerts").items():
        whole = yaml.safe_load(text)
        for group in whole["groups"]:
            dropped += sum(rule.pop("keep_firing_for", None) is not None for rule in group["rules"])
        assert found[name] == whole
    assert dropped


def test_a_prometheus_rule_has_the_groups_of_its_file(tmp_path):
    """The operator gets the same rules, under labels that its selector can ask for."""
    words = ("--format", "prometheusrule", "--label", "release=kube", "--label", "on=true")
    export("alerts", "export", tmp_path, *words)

    found = written(tmp_path)
    for name, text in shipped("alerts").items():
        made = found[name.replace(".rules.yml", ".prometheusrule.yml")]
        assert (made["apiVersion"], made["kind"]) == (
            "monitoring.coreos.com/v1",
            "PrometheusRule",
        )
        assert made["metadata"]["name"] == name.removesuffix(".rules.yml")
        assert made["metadata"]["labels"] == {"release": "kube", "on": "true"}
        assert made["spec"] == yaml.safe_load(text)


@pytest.mark.parametrize("kind", ["prometheus", "compat", "prometheusrule"])
def test_thresholds_are_chosen_at_export(tmp_path, kind):
    """In every format; each file says how it was made, and what was not chosen is as it is shipped."""
    words = (
        "--slo",
        "availability=99.5",
        "--set",
        "pool_use=0.95",
        "--set",
        "throughput.target=20",
    )
    export("alerts", "export", tmp_path, "--format", kind, *words)

    texts = {file.name.partition(".")[0]: file.read_text() for file in tmp_path.iterdir()}
    assert "expr: vector(0.005)" in texts["fastobs-http"]
    assert "alert: FastobsThroughputBelowTarget" in texts["fastobs-http"]
    assert "fastobs:db_pool:utilisation > 0.95" in texts["fastobs-pools"]
    assert all(
        f"`fastobs alerts export` with {' '.join(words)};" in text for text in texts.values()
    )
    if kind == "prometheus":
        made = yaml.safe_load(texts["fastobs-runtime"])
        assert made == yaml.safe_load(shipped("alerts")["fastobs-runtime.rules.yml"])


def test_boards_follow_the_thresholds_that_are_chosen(tmp_path):
    """The colour of a panel changes where the alert that was exported with the same words fires."""
    words = ("--slo", "availability=99.5", "--set", "pool_use=0.95")
    export("dashboards", "export", tmp_path, *words)

    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == rendered(replace(THRESHOLDS, slo_availability=0.005, pool_use=0.95))
    assert made["fastobs-pools.json"] != shipped("dashboards")["fastobs-pools.json"]
    assert fastobs("dashboards", "export", tmp_path, *words, "--check").returncode == 0


def test_links_lead_to_ones_own_grafana_and_runbooks(tmp_path):
    """Nobody opens a link to somebody else's machine at night."""
    ours = ("--runbooks", "https://wiki.example.org/runbooks/")
    export("alerts", "export", tmp_path / "a", *ours, "--grafana", "https://grafana.example.org")
    export("dashboards", "export", tmp_path / "d", *ours)

    for folder, files in (("a", shipped("alerts")), ("d", shipped("dashboards"))):
        for name, text in files.items():
            meant = text.replace(RUNBOOKS, "https://wiki.example.org/runbooks")
            found = (tmp_path / folder / name).read_text()
            assert found == meant.replace(GRAFANA, "https://grafana.example.org")
    assert "wiki.example.org/runbooks/pools.md#" in (tmp_path / "d/fastobs-pools.json").read_text()
    assert "grafana.example.org/d/" in (tmp_path / "a/fastobs-pools.rules.yml").read_text()


def test_chosen_thresholds_are_checked_with_the_same_words(tmp_path):
    """A pipeline that names them learns when the files are of other ones."""
    words = ("alerts", "export", tmp_path, "--set", "pool_use=0.95")
    export(*words)

    assert fastobs(*words, "--check").returncode == 0
    assert "--force" in complaint(fastobs("alerts", "export", tmp_path, "--check"))


def test_every_threshold_is_shown_as_it_is_set():
    """The name is what `--set` takes; the reason stands beside it."""
    done = fastobs("alerts", "thresholds")

    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("pool_use ")]
    assert line.split(maxsplit=3)[1:] == ["0.8", "share", reason_of("pool_use")]
    helped = fastobs("alerts", "thresholds", "--help").stdout
    assert "Example: fastobs alerts thresholds" in helped


def reason_of(name: str) -> str:
    return next(line.reason for line in listed() if line.name == name)


def without(library: str, *words: object) -> Done:
    """The command where a library is not installed."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; from fastobs.cli import main; "
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_without_yaml_other_thresholds_say_what_to_install(tmp_path):
    """The shipped rules need none, and are exported all the same, with links of one's own."""
    export = ("alerts", "export", tmp_path)

    assert "install 'fastobs[cli]'" in complaint(without("yaml", *export, "--set", "pool_use=0.9"))
    assert without("yaml", *export, "--grafana", "https://grafana.example.org").returncode == 0


def test_without_grafanalib_other_colours_say_what_to_install(tmp_path):
    """The shipped boards need none."""
    export = ("dashboards", "export", tmp_path)

    said = complaint(without("grafanalib", *export, "--set", "pool_use=0.9"))

    assert "pip install 'fastobs[dashboards]'" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "endpoints"),
    [("service", "ServiceMonitor", "endpoints"), ("pod", "PodMonitor", "podMetricsEndpoints")],
)
def test_a_monitor_selects_what_is_scraped(tmp_path, kind, name, endpoints):
    """The operator scrapes the port of that name, with the token if there is one."""
    words = ("--selector", "app=shop", "--kind", kind, "--secret", "shop/token", "--name", "shop")
    export("monitor", "export", tmp_path, *words)

    (made,) = written(tmp_path).values()
    assert made == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": name,
        "metadata": {"name": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "shop"}},
            endpoints: [
                {
                    "port": "http",
                    "path": "/metrics",
                    "interval": "15s",
                    "authorization": {"credentials": {"name": "shop", "key": "token"}},
                }
            ],
        },
    }


def test_a_file_that_differs_is_kept_unless_forced(tmp_path):
    """Whoever edited a rule does not lose it, and nothing is written by halves."""
    mine = tmp_path / "fastobs-http.rules.yml"
    mine.write_text("groups: []\n")

    said = complaint(fastobs("alerts", "export", tmp_path))

    assert "fastobs-http.rules.yml; nothing was written. Overwrite with --force" in said
    assert [file.name for file in tmp_path.iterdir()] == [mine.name]
    export("alerts", "export", tmp_path, "--force")
    assert mine.read_text() == shipped("alerts")[mine.name]


def test_check_tells_what_differs_and_writes_nothing(tmp_path):
    """A pipeline learns that the files are of another release."""
    export("alerts", "export", tmp_path)
    assert fastobs("alerts", "export", tmp_path, "--check").returncode == 0
    (tmp_path / "fastobs-http.rules.yml").write_text("")
    (tmp_path / "fastobs-pools.rules.yml").unlink()

    done = fastobs("alerts", "export", tmp_path, "--check")

    assert "--force" in complaint(done)
    assert "fastobs-http.rules.yml differs" in done.stdout
    assert "fastobs-pools.rules.yml is missing" in done.stdout
    assert not (tmp_path / "fastobs-pools.rules.yml").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("dashboards", "export", "{}", "--label", "a=b"), "--label is for Kubernetes objects"),
        (("monitor", "export", "{}", "--selector", "shop"), "write it like --selector app=shop"),
        (("monitor", "export", "{}", "--selector", "a=b: c"), "is no label of Kubernetes"),
        (("monitor", "export", "{}", "--selector", "a=b", "--name", "a: b"), "--name 'a: b'"),
        (("monitor", "export", "{}", "--selector", "a=b", "--secret", "x"), "like shop-metrics/"),
        (("alerts", "export", "{}/file/below"), "cannot be used"),
        (("alerts", "export", "{}", "--grafana", "grafana"), "write it like https://grafana.exam"),
        (("dashboards", "export", "{}", "--set", "pool_usage=1"), "Did you mean pool_use?"),
        (("alerts", "export", "{}", "--set", "pool_usage=1"), "Did you mean pool_use?"),
        (("alerts", "export", "{}", "--slo", "availability=1"), "like availability=99.5"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path, words, expected):
    """It says what is wrong and how to write it."""
    (tmp_path / "file").touch()

    done = fastobs(*(word.format(tmp_path) for word in words))

    assert expected in complaint(done)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
