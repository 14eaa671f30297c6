"""The compose file and its configuration are right, as far as one can tell without a daemon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastobs import catalogue
from tests import parts

ROOT = Path(__file__).parents[1]
STACK = ROOT / "examples/stack"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

NO_SHELL = ("grafana/tempo", "grafana/loki", "otel/opentelemetry-collector-contrib")
"""Images with one program and nothing that a health check could run."""

CONTAINER = Path("/etc")

every_service = pytest.mark.parametrize("name", SERVICES)


def test_the_file_follows_the_compose_specification():
    """Its schema travels with the checker, so that nothing is fetched."""
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            ROOT / "docker-compose.yml",
        ],
        check=False,
        capture_output=True,
        text=True,
    )

    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.integration
@pytest.mark.parametrize("profiles", [(), ("logs",), ("profiles",), ("logs", "profiles")], ids=str)
def test_compose_itself_reads_the_file(profiles: tuple[str, ...]):
    """The real program fills in variables and merges; a profile brings what it says, nothing more."""
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    said = subprocess.run(
        [parts.find("docker-compose"), *chosen, "config", "--format", "json"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout)["services"]) == {
        name
        for name, service in SERVICES.items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


@every_service
def test_an_image_is_pinned(name: str):
    """The stack of today is the stack of next year."""
    image = SERVICES[name]["image"]
    _, _, tag = image.partition(":")

    assert tag
    assert tag != "latest"
    assert "build" in SERVICES[name] or re.search(r"\d+\.\d+", tag)


def test_the_shop_is_built_on_a_pinned_image():
    """The Dockerfile holds to the same rule."""
    bases = re.findall(r"^FROM (\S+)", (STACK / "Dockerfile").read_text(), re.MULTILINE)

    assert bases
    assert all(re.search(r":\d+\.\d+", base) for base in bases)


def test_the_shop_gets_the_versions_that_it_is_tested_with():
    """Each requirement of its image is one of the development extra, word for word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = project["optional-dependencies"]["dev"]
    lines = (STACK / "requirements.txt").read_text().splitlines()
    wanted = {line for line in lines if not line.startswith("#")}

    assert wanted <= set(tested)


@every_service
def test_what_is_mounted_exists_and_can_be_read_by_a_stranger(name: str):
    """Containers run as users of their own, and none may write into the project."""
    for source, _, mode in bind_mounts(name):
        path = ROOT / source

        assert path.exists(), source
        assert mode == "ro"
        # Who checks out for their own eyes only knows that a container cannot read it.
        files = [] if ROOT.stat().st_mode & 0o005 != 0o005 else [path, *path.rglob("*")]
        for file in files:
            wanted = 0o555 if file.is_dir() else 0o444
            assert file.stat().st_mode & wanted == wanted, file


@every_service
def test_a_named_volume_is_declared(name: str):
    """And of the data folders no two services share one, except for reading."""
    for volume, _, _ in mounts(name):
        assert volume.startswith("./") or volume in COMPOSE["volumes"]

    writers = [
        (volume, service)
        for service in SERVICES
        for volume, _, mode in mounts(service)
        if mode != "ro"
    ]
    assert len({volume for volume, _ in writers}) == len(writers)


@every_service
def test_ports_are_for_this_machine_only(name: str):
    """Grafana without a login is not for the neighbours."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_no_two_services_want_the_same_port():
    """The second one would not start."""
    ports = [
        port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])
    ]

    assert len(set(ports)) == len(ports)


@every_service
def test_a_dependency_can_become_what_is_waited_for(name: str):
    """Healthy needs a health check, which an image without a shell cannot have."""
    for dependency, wait in SERVICES[name].get("depends_on", {}).items():
        needed = SERVICES[dependency]
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in needed
        # A service that is always there cannot wait for one that may not be.
        assert set(needed.get("profiles", [])) <= set(SERVICES[name].get("profiles", []))


@every_service
def test_a_health_check_is_something_that_its_image_can_run(name: str):
    """In an image with nothing but one program it would fail for ever."""
    service = SERVICES[name]
    if service["image"].startswith(NO_SHELL):
        assert "healthcheck" not in service
    elif "healthcheck" in service:
        assert service["healthcheck"]["test"][0] == "CMD"


def test_every_data_source_of_the_boards_is_provisioned():
    """A board that refers to an unknown uid shows nothing but errors."""
    boards = sorted((ROOT / "dashboards/generated").glob("fastobs-*.json"))
    used = {uid for board in boards for uid in uids(json.loads(board.read_text()))}

    assert boards
    assert used - {"-- Grafana --", "-- Mixed --", "-- Dashboard --", "grafana"} <= provisioned()


def test_the_data_sources_refer_to_each_other_by_uids_that_exist():
    """From an exemplar to its trace, from a span to its log lines."""
    text = (STACK / "grafana/provisioning/datasources/datasources.yml").read_text()

    assert set(re.findall(r"datasourceUid: (\S+)", text)) <= provisioned()


def test_the_data_sources_ask_for_series_that_exist():
    """A link from a span leads to series of the catalogue."""
    text = (STACK / "grafana/provisioning/datasources/datasources.yml").read_text()
    known = set(catalogue.CATALOGUE)
    asked = re.findall(r"rate\((\w+?)(?:_bucket|_count|_sum)?\{", text)

    assert asked
    assert set(asked) <= known


def test_the_home_page_is_one_of_the_boards():
    """Who opens Grafana sees the overview."""
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    [provider] = yaml.safe_load(
        (STACK / "grafana/provisioning/dashboards/dashboards.yml").read_text()
    )["providers"]
    places = {target: ROOT / source for source, target, _ in bind_mounts("grafana")}

    assert (places[provider["options"]["path"]] / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]


def test_services_are_addressed_by_names_and_ports_that_exist():
    """No configuration refers to a service that the compose file does not have."""
    configured = [ROOT / "docker-compose.yml", *STACK.rglob("*.yml")]
    text = "\n".join(path.read_text() for path in configured)
    hosts = set(re.findall(r"(?:https?|redis)://(?:\S+@)?([a-z][a-z-]*):\d+", text))
    hosts |= set(re.findall(r'targets: \["([a-z][a-z-]*):\d+"\]', text))

    assert {"shop", "prometheus", "tempo", "loki", "alertmanager"} <= hosts
    assert hosts <= set(SERVICES)


@pytest.mark.integration
def test_prometheus_accepts_its_configuration_and_all_rules(tmp_path: Path):
    """promtool reads the files in the places where the container has them."""
    config = laid_out("prometheus", tmp_path) / "prometheus/prometheus.yml"
    said = parts.promtool("check", "config", config)

    rules = sorted((ROOT / "alerts/generated").glob("*.rules.yml"))
    assert rules
    assert all(rule.name in said for rule in rules)


@pytest.mark.integration
def test_alertmanager_accepts_its_configuration(tmp_path: Path):
    """amtool reads it too."""
    said = parts.amtool(
        "check-config", laid_out("alertmanager", tmp_path) / "alertmanager/alertmanager.yml"
    )

    assert "8 inhibit rules" in said
    assert "3 receivers" in said


def test_inhibition_names_alerts_that_exist():
    """A renamed alert must be renamed here as well."""
    text = (STACK / "alertmanager/alertmanager.yml").read_text()
    rules = "".join(path.read_text() for path in (ROOT / "alerts/generated").glob("*.rules.yml"))
    named = set(re.findall(r'alertname !?= "(\w+)"', text))

    assert named
    assert named <= set(re.findall(r"alert: (\w+)", rules))


def mounts(name: str) -> Iterator[tuple[str, str, str]]:
    """Source, target and mode of everything that a service mounts."""
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        yield source, target, mode[0] if mode else "rw"


def bind_mounts(name: str) -> Iterator[tuple[str, str, str]]:
    """Those that come from the project."""
    return (mount for mount in mounts(name) if mount[0].startswith("."))


def laid_out(name: str, folder: Path) -> Path:
    """A folder that looks like the service's /etc."""
    for source, target, _ in bind_mounts(name):
        copy = folder / Path(target).relative_to(CONTAINER)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, copy)
        else:
            shutil.copy(ROOT / source, copy)
    return folder


def provisioned() -> set[str]:
    """The uids of the data sources."""
    text = (STACK / "grafana/provisioning/datasources/datasources.yml").read_text()
    return {source["uid"] for source in yaml.safe_load(text)["datasources"]}


def uids(node: object) -> Iterator[str]:
    """Every data source uid in a board, variables aside."""
    if isinstance(node, dict):
        source = node.get("datasource")
        uid = source.get("uid") if isinstance(source, dict) else None
        if isinstance(uid, str) and not uid.startswith("$"):
            yield uid
        for value in node.values():
            yield from uids(value)
    elif isinstance(node, list):
        for value in node:
            yield from uids(value)
