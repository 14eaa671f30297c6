"""Prometheus, Alertmanager and their checkers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from .process import PartFailed, Running, own_folder, running
from .programs import find
from .waiting import PATIENCE, eventually, free_port, get

__all__ = [
    "Alertmanager",
    "Prometheus",
    "Sample",
    "alertmanager",
    "amtool",
    "prometheus",
    "promtool",
    "victoria_metrics",
    "vmalert",
]


class Sample(NamedTuple):
    """One element of an instant vector."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus server."""

    port: int
    server: Running

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def api(self, path: str, **parameters: object) -> Any:
        """The data of an answer of the HTTP API, for example ``api("rules")``.

        Raises:
            ValueError: Prometheus did not accept the question; its words are in the message.
        """
        answer = get(f"{self.url}/api/v1/{path}?{urlencode(parameters, doseq=True)}")
        said = json.loads(answer.body)
        if said["status"] != "success":
            msg = f"Prometheus said {said['error']!r} to {path} with {parameters!r}."
            raise ValueError(msg)
        return said["data"]

    def query(self, expression: str) -> list[Sample]:
        """The instant vector (or the scalar, as one sample) that an expression has now."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(item["metric"], float(item["value"][1])) for item in data["result"]]

    def eventually(self, expression: str, *, within: float = PATIENCE) -> list[Sample]:
        """The first result of an expression that is not empty."""
        return eventually(lambda: self.query(expression), within=within, what=expression)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager:
    """An Alertmanager on its own."""

    port: int
    server: Running

    @property
    def address(self) -> str:
        """Host and port, as a Prometheus configuration wants it."""
        return f"127.0.0.1:{self.port}"

    def alerts(self, **parameters: object) -> list[dict[str, Any]]:
        """The alerts that it holds, silenced and inhibited ones included unless told otherwise."""
        answer = get(f"http://{self.address}/api/v2/alerts?{urlencode(parameters, doseq=True)}")
        alerts: list[dict[str, Any]] = json.loads(answer.body)
        return alerts


@contextmanager
def prometheus(
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    rules: Iterable[Path] = (),
    alertmanager: Alertmanager | None = None,
    interval: float = 1.0,
    config: Mapping[str, Any] | None = None,
    flags: Sequence[str] = (),
    program: str = "prometheus",
    data: Path | None = None,
) -> Iterator[Prometheus]:
    """Run a Prometheus server with exemplar storage.

    Args:
        targets: Job names, and the ``host:port`` of what each one scrapes.
        rules: Rule files.
        alertmanager: Where alerts go.
        interval: Seconds between scrapes and between evaluations.
        config: Sections of the configuration file, instead of what the others make of it.
        flags: More words for the command line.
        program: "prometheus", or "prometheus-3" for the newer one.
        data: A database that exists; an empty one when not given.
    """
    every = f"{round(interval * 1000)}ms"
    made: dict[str, Any] = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in (targets or {}).items()
        ],
    }
    if alertmanager is not None:
        made["alerting"] = {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]
        }
    port = free_port()
    with own_folder("prometheus") as folder:
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps({**made, **(config or {})}, indent=1))
        command = [
            find(program),
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={data or 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            *flags,
        ]
        with running(
            command,
            name=program,
            folder=folder,
            ready=lambda: _is_ready(f"http://127.0.0.1:{port}/-/ready"),
        ) as server:
            yield Prometheus(port=port, server=server)


@contextmanager
def victoria_metrics(*, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Run a VictoriaMetrics that scrapes every second; it answers as a Prometheus does.

    Args:
        targets: Job names, and the ``host:port`` of what each one scrapes.
    """
    jobs = [
        {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
        for job, addresses in targets.items()
    ]
    port = free_port()
    with own_folder("victoria-metrics") as folder:
        scraped = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        (folder / "scrape.yml").write_text(json.dumps(scraped))
        command = [
            find("victoria-metrics"),
            "-promscrape.config=scrape.yml",
            "-storageDataPath=data",
            f"-httpListenAddr=127.0.0.1:{port}",
            # It waits for half a minute for late samples, and remembers what it has answered.
            "-search.latencyOffset=0s",
            "-search.disableCache",
        ]
        with running(
            command,
            name="victoria-metrics",
            folder=folder,
            ready=lambda: _is_ready(f"http://127.0.0.1:{port}/health"),
        ) as server:
            yield Prometheus(port=port, server=server)


@contextmanager
def vmalert(database: Prometheus, *, rules: Iterable[Path]) -> Iterator[Prometheus]:
    """Run the rules on what a VictoriaMetrics has, every second; `api("rules")` tells how they are."""
    port = free_port()
    with own_folder("vmalert") as folder:
        command = [
            find("vmalert"),
            *(f"-rule={path.resolve()}" for path in rules),
            f"-datasource.url={database.url}",
            f"-remoteWrite.url={database.url}",
            "-remoteWrite.flushInterval=200ms",
            "-notifier.blackhole",
            "-evaluationInterval=1s",
            "-rule.evalDelay=0s",
            f"-httpListenAddr=127.0.0.1:{port}",
        ]
        with running(
            command,
            name="vmalert",
            folder=folder,
            ready=lambda: _is_ready(f"http://127.0.0.1:{port}/health"),
        ) as server:
            yield Prometheus(port=port, server=server)


@contextmanager
def alertmanager(*, config: Mapping[str, Any] | None = None) -> Iterator[Alertmanager]:
    """Run an Alertmanager without peers.

    Args:
        config: Its configuration; one receiver that tells nobody when not given.
    """
    chosen = config or {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
    port = free_port()
    with own_folder("alertmanager") as folder:
        (folder / "alertmanager.yml").write_text(json.dumps(chosen, indent=1))
        command = [
            find("alertmanager"),
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        with running(
            command,
            name="alertmanager",
            folder=folder,
            ready=lambda: _is_ready(f"http://127.0.0.1:{port}/-/ready"),
        ) as server:
            yield Alertmanager(port=port, server=server)


def promtool(*words: str | Path, program: str = "promtool") -> str:
    """What promtool ("promtool-3": the newer one) prints.

    Raises:
        PartFailed: It found something wrong; its words are the message.
    """
    return _checked(program, *words)


def amtool(*words: str | Path) -> str:
    """What amtool prints.

    Raises:
        PartFailed: It found something wrong; its words are the message.
    """
    return _checked("amtool", *words)


def _checked(program: str, *words: str | Path) -> str:
    done = subprocess.run(
        [find(program), *map(str, words)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if done.returncode:
        msg = f"{program} {' '.join(map(str, words))} ended with {done.returncode}.\n{done.stdout}"
        raise PartFailed(msg)
    return done.stdout


def _is_ready(url: str) -> bool:
    with suppress(OSError):
        return get(url).status == 200
    return False
