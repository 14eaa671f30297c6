"""Can the other numbers be trusted?"""

from __future__ import annotations

from typing import Any

from alerts.thresholds import Thresholds
from fastobs.catalogue import (
    BUILD_INFO,
    SELF_DROPPED,
    SELF_ERRORS,
    SELF_EXPORTS,
    SELF_OVERFLOW,
    SELF_PROFILES,
    SELF_QUEUE,
    SELF_SCRAPE,
    TARGET_INFO,
)
from fastobs.promql import (
    SCRAPE_DURATION,
    SCRAPE_SAMPLES,
    gauge,
    largest,
    or_zero,
    present,
    quantile,
    rate,
    ratio,
    total,
)

from .charts import table, timeseries
from .kit import SCOPE, Chart, query, unit_of, worse_above

__all__ = ["collection", "delivery", "versions"]

NO_EXPORTER = "the app exports nothing"
ALL_FITS = "no metric has too many label sets"


def delivery(limits: Thresholds) -> list[Chart]:
    """Spans, lines and profiles on their way out."""
    by = ("signal",)
    failed = total(rate(SELF_EXPORTS, *SCOPE, 'outcome="failure"'), by=by)
    batches = total(rate(SELF_EXPORTS, *SCOPE), by=by)
    return [
        timeseries(
            "Dropped",
            "Is data missing, and why?",
            query(
                total(rate(SELF_DROPPED, *SCOPE), by=["signal", "reason"]),
                "{{signal}}, {{reason}}",
            ),
            unit=unit_of(SELF_DROPPED),
            alert="telemetry/FastobsTelemetryDropped",
        ),
        timeseries(
            "Export failures",
            "Does a backend refuse data?",
            query(
                ratio(or_zero(failed, like=batches), batches),
                "{{signal}}",
                maybe_empty=NO_EXPORTER,
            ),
            unit="percentunit",
            steps=worse_above(limits.export_failures),
            alert="telemetry/FastobsExportFailing",
        ),
        timeseries(
            "Waiting to be exported",
            "Does a queue grow until it drops?",
            query(largest(gauge(SELF_QUEUE, *SCOPE), by=by), "{{signal}}", maybe_empty=NO_EXPORTER),
            unit="short",
        ),
    ]


def collection(limits: Thresholds) -> list[Chart]:
    """Our own faults, and what a scrape costs."""
    return [
        timeseries(
            "Instrumentation errors",
            "Did fastobs itself fail? No request did, but numbers are missing.",
            query(
                total(rate(SELF_ERRORS, *SCOPE), by=["component"]),
                "{{component}}",
                maybe_empty="fastobs has not failed",
            ),
            unit=unit_of(SELF_ERRORS),
            alert="telemetry/FastobsInstrumentationErrors",
        ),
        timeseries(
            "Label overflow",
            "Which metric has too many label sets, so that some are folded into one?",
            query(
                total(rate(SELF_OVERFLOW, *SCOPE), by=["metric"]),
                "{{metric}}",
                maybe_empty=ALL_FITS,
            ),
            unit=unit_of(SELF_OVERFLOW),
            alert="telemetry/FastobsLabelOverflow",
        ),
        timeseries(
            "Profiles",
            "Who profiles, and was somebody refused?",
            query(
                total(rate(SELF_PROFILES, *SCOPE), by=["trigger", "outcome"]),
                "{{trigger}}, {{outcome}}",
                maybe_empty="nobody has asked for a profile",
            ),
            unit=unit_of(SELF_PROFILES),
        ),
        timeseries(
            "Samples per scrape",
            "Does the number of series grow?",
            query(largest(gauge(SCRAPE_SAMPLES, *SCOPE), by=["instance"]), "{{instance}}"),
            unit="short",
        ),
        timeseries(
            "Scrape",
            "How long does Prometheus wait for /metrics?",
            query(largest(gauge(SCRAPE_DURATION, *SCOPE), by=["instance"]), "{{instance}}"),
            unit=unit_of(SCRAPE_DURATION),
            steps=worse_above(limits.scrape_seconds),
            alert="telemetry/FastobsScrapeSlow",
        ),
        timeseries(
            "Rendering",
            "How much of the scrape is our own work?",
            *(query(quantile(q, SELF_SCRAPE, *SCOPE), f"P{q * 100:g}") for q in (0.5, 0.99)),
            unit=unit_of(SELF_SCRAPE),
        ),
    ]


def versions() -> list[Chart]:
    """What runs where."""
    build = ("instance", *BUILD_INFO.labels)
    service = ("instance", *TARGET_INFO.labels)
    return [
        table(
            "Versions",
            "Which versions run where? A difference between instances is a deploy, or a surprise.",
            query(present(gauge(BUILD_INFO, *SCOPE), by=build)),
            query(present(gauge(TARGET_INFO, *SCOPE), by=service)),
            unit="none",
            transformations=_join(),
            overrides=[],
            sort="Instance",
            tall=5,
        )
    ]


def _join() -> list[dict[str, Any]]:
    hidden = ("Time", "Time 1", "Time 2", "Value #A", "Value #B")
    names = {
        "instance": "Instance",
        "service_name": "Service",
        "service_version": "Its version",
        "deployment_environment_name": "Environment",
        "version": "fastobs",
        "python": "Python",
        "fastapi": "FastAPI",
        "starlette": "Starlette",
    }
    return [
        {"id": "joinByField", "options": {"byField": "instance", "mode": "outer"}},
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(hidden, True),
                "indexByName": {name: index for index, name in enumerate(names)},
                "renameByName": names,
            },
        },
    ]
