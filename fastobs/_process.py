"""What a process has one of: its meters, its log writer, its probes."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import REGISTRY
from starlette.applications import Starlette

from . import catalogue
from ._contain import report_to
from ._outbox import Outbox, waiting
from ._service import Identity, identify
from ._version import __version__
from ._workers import Workers
from .cells import Meters, Reading
from .cells.bridge import CellsCollector
from .cells.carry import Carry
from .config import Settings
from .probes import Probes
from .signals.conditional import NAME as HTTP
from .signals.traces import Head

__all__ = ["Process", "process"]


class Process:
    """Shared by all instrumented apps of the process: their series cannot be told apart anyway."""

    def __init__(self, meters: Meters | None = None) -> None:
        self.meters = meters or Meters()
        self.probes = Probes(self.meters, self._tell)
        self.probes.reserve("caches", HTTP)
        report_to(lambda component: self.meters.counter(catalogue.SELF_ERRORS, component).add())
        # What alerts read exists from the first scrape; a counter born with its first event has no
        # rate for it.
        for component in ("request", "metrics", "traces", "slow", "profiles"):
            self.meters.counter(catalogue.SELF_ERRORS, component)
        for source in ("limiter", "app", "middleware", "upstream"):
            self.meters.counter(catalogue.LIMIT_REJECTED, "", source)
        self.meters.gauge(catalogue.HTTP_WEBSOCKETS).set(0.0)
        self._facts = _Facts()
        self.meters.ask(self._facts)
        self.meters.ask(_Waiting())
        self.head = Head()
        self.carry = Carry(REGISTRY)
        self.workers = Workers(self.meters, self.carry)
        self.apps = 0
        """How many apps are instrumented."""
        self._collector: CellsCollector | None = None

    def enter(self, settings: Settings, app: Starlette) -> None:
        """One more app is instrumented: attach to its libraries, and to prometheus_client."""
        self.apps += 1
        if self._collector is None:
            self._collector = CellsCollector(self.meters)
            REGISTRY.register(self._collector)
        self._facts.services.add(identify(settings.service, app))
        self.probes.attach(settings, app)

    def leave(self) -> None:
        """One app fewer; with the last one everything is detached."""
        self.apps -= 1
        if self.apps == 0:
            self.probes.detach()
            self.workers.close()
            if self._collector is not None:
                REGISTRY.unregister(self._collector)
                self._collector = None

    def _tell(self, line: tuple[str, dict[str, object]]) -> None:
        self.lines.put(line)

    @cached_property
    def lines(self) -> Outbox[tuple[str, dict[str, object]]]:
        """Takes log lines; made with the first app, since it imports structlog."""
        from .signals.slow import lines

        return lines(self.meters)


class _Waiting:
    """What has been left for our threads, and not been delivered yet."""

    def read(self) -> Iterator[Reading]:
        for signal, items in waiting().items():
            yield Reading(catalogue.SELF_QUEUE, (signal,), items)


class _Facts:
    """What does not change. Said when asked, so that the workers that a process forks say it, too."""

    def __init__(self) -> None:
        self.services: set[Identity] = set()
        self._versions = (
            __version__,
            platform.python_version(),
            _version("fastapi"),
            _version("starlette"),
        )

    def read(self) -> Iterator[Reading]:
        yield Reading(catalogue.BUILD_INFO, self._versions, 1.0)
        for who in self.services:
            yield Reading(catalogue.TARGET_INFO, tuple(who), 1.0)


@cache
def process() -> Process:
    """The process's own."""
    return Process()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
