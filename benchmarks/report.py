"""The results as a page: what was run, on what, and how it stands beside the budgets."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median

from .calls import Calls
from .scrape import Scrape
from .timing import Overhead
from .variants import VARIANTS

__all__ = ["Results", "budgets", "page"]

PACKAGES = (
    "fastobs",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "prometheus-client",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-fastapi",
    "prometheus-fastapi-instrumentator",
    "starlette-exporter",
    "asgi-correlation-id",
    "structlog",
)
ALL, UNSAMPLED, SAMPLED = "fastobs-1", "fastobs-0", "fastobs-100"
ASSEMBLY = "assembly-1"


@dataclass(slots=True)
class Results:
    """Everything that was measured; what was not is empty, and ``missing`` says why."""

    bare: float = 0.0
    """Microseconds of CPU per bare request."""
    overheads: dict[str, Overhead] = field(default_factory=dict)
    calls: dict[str, Calls] = field(default_factory=dict)
    instructions: dict[str, float] = field(default_factory=dict)
    scrapes: list[Scrape] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    growth: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Budget:
    """What something may cost, and what it does."""

    what: str
    limit: float
    unit: str
    measured: float
    at_least: bool = False

    @property
    def share(self) -> float:
        """How much of the budget is used; above 1 it is exceeded."""
        return self.limit / self.measured if self.at_least else self.measured / self.limit


def page(results: Results) -> str:
    """All of it, in Markdown."""
    return "\n\n".join(_sections(results)) + "\n"


def _sections(results: Results) -> Iterator[str]:
    yield "# What fastobs costs"
    yield (
        "Written by `make bench`. Compare numbers within one table: another machine has others. "
        "`-` is not measured."
    )
    yield _facts(results)
    if kept := list(budgets(results)):
        yield "## Budgets"
        yield _table(
            ("what", "measured", "budget", "share used"),
            (
                (
                    budget.what,
                    f"{budget.measured:.2f}{budget.unit}",
                    f"{'>=' if budget.at_least else '<='} {budget.limit:g}{budget.unit}",
                    f"{budget.share:.0%}",
                )
                for budget in kept
            ),
        )
    if results.overheads:
        yield "## A request"
        yield (
            "`GET /items/{item_id}` of an application with fifty routes, in process, ten request "
            "headers, one request after the other. Every variant is measured in turn with bare in "
            "batches, in several fresh processes where nothing else is; microseconds are medians of the paired "
            f"differences. A bare request takes {results.bare:.0f} us of CPU. CPU time is that of the "
            "whole process with its threads; wall time also has what neighbours on the machine took, "
            "with the middle half of the differences. Spans go through a BatchSpanProcessor to an "
            "exporter that counts and discards them. Each variant was seen to record what it claims. "
            "The usual assembly is prometheus-fastapi-instrumentator, "
            "opentelemetry-instrumentation-fastapi, asgi-correlation-id and a structlog middleware "
            "that, like fastobs, writes a line for slow requests only."
        )
        yield _table(
            (
                "variant",
                "us CPU over bare",
                "x bare",
                "least to greatest process",
                "us wall over bare",
                "middle half",
                "Python calls over bare",
                "C calls over bare",
                "instructions x bare",
            ),
            (_request_row(results, name) for name in VARIANTS if name in results.overheads),
        )
    if results.scrapes:
        yield "## A scrape"
        yield "The duration histogram with 600 label sets; milliseconds of CPU, medians."
        yield _table(
            ("format", "fastobs", "prometheus_client", "times faster", "bytes"),
            (
                (
                    scrape.title,
                    f"{scrape.ours:.1f}",
                    f"{scrape.theirs:.1f}",
                    f"{scrape.theirs / scrape.ours:.0f}",
                    f"{scrape.ours_bytes:,} / {scrape.theirs_bytes:,}",
                )
                for scrape in results.scrapes
            ),
        )
    if results.rates:
        yield "## A server under load"
        yield (
            "uvicorn, one worker, wrk with 32 connections on the same machine; the share is the "
            "median over the rounds, and means little where the rounds differ widely."
        )
        yield _table(
            ("variant", "requests/s", "share of bare", "least to greatest round"),
            (_load_row(results, name) for name in results.rates),
        )
    if results.growth:
        yield "## Memory under attack"
        yield (
            "Growth of the process over requests to 20,000 paths that do not exist, some with one of "
            "100 odd methods, after warming up with a tenth of them."
        )
        yield _table(
            ("variant", "MiB"),
            ((VARIANTS[name].title, f"{grown:.2f}") for name, grown in results.growth.items()),
        )
    if results.missing:
        yield "## Not measured"
        yield "\n".join(f"- {line}" for line in results.missing)


def _facts(results: Results) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), "
        f"{platform.python_implementation()} {platform.python_version()}; {versions}.\n\n"
        + "\n".join(f"    {command}" for command in results.commands)
    )


def _request_row(results: Results, name: str) -> tuple[str, ...]:
    cost = results.overheads[name]
    title = VARIANTS[name].title
    python, c = (_over(results, name, kind) for kind in ("python", "c"))
    instructions = _instructions(results, name)
    of_bare = "-" if instructions is None else f"{instructions:.3f}"
    if name == "bare":
        return title, "0", "1.00", "-", "0", "-", python, c, of_bare
    low, high = cost.processes
    return (
        title,
        f"{cost.cpu:+.1f}",
        f"{cost.ratio:.2f}",
        f"{low:+.0f} to {high:+.0f}",
        f"{cost.wall:+.1f}",
        f"{cost.spread[0]:+.0f} to {cost.spread[1]:+.0f}",
        python,
        c,
        of_bare,
    )


def _instructions(results: Results, name: str) -> float | None:
    """Of bare's. Chance would rule a count of requests of which some are sampled: it is put together."""
    counted = results.instructions
    if name == ALL and UNSAMPLED in counted and SAMPLED in counted:
        return (0.99 * counted[UNSAMPLED] + 0.01 * counted[SAMPLED]) / counted["bare"]
    return counted[name] / counted["bare"] if name in counted else None


def _over(results: Results, name: str, kind: str) -> str:
    if name not in results.calls:
        return "-"
    counted, bare = results.calls[name], results.calls["bare"]
    more = counted["python"] - bare["python"] if kind == "python" else counted["c"] - bare["c"]
    return (
        f"{more:+d}" if name != "bare" else f"({bare['python'] if kind == 'python' else bare['c']})"
    )


def _load_row(results: Results, name: str) -> tuple[str, ...]:
    rates = results.rates[name]
    shares = [rate / bare for rate, bare in zip(rates, results.rates["bare"], strict=True)]
    return (
        VARIANTS[name].title,
        f"{median(rates):,.0f}",
        f"{median(shares):.2f}",
        f"{min(shares):.2f} to {max(shares):.2f}",
    )


def budgets(results: Results) -> Iterator[Budget]:
    """What was promised, as far as it was measured."""
    cost = results.overheads
    if ALL in cost:
        yield Budget("everything on, traces at 1 %: over bare", 15, " us", cost[ALL].cpu)
        yield Budget("everything on, traces at 1 %: of bare", 1.10, " x", cost[ALL].ratio)
    if (of_bare := _instructions(results, ALL)) is not None:
        yield Budget("everything on, traces at 1 %: instructions of bare", 1.05, " x", of_bare)
    if SAMPLED in cost:
        yield Budget(
            "everything on, every request sampled: of bare", 1.5, " x", cost[SAMPLED].ratio
        )
    if ALL in cost and ASSEMBLY in cost:
        times = cost[ASSEMBLY].cpu / cost[ALL].cpu
        yield Budget("the usual assembly's overhead, in ours", 40, " x", times, at_least=True)
    if results.growth:
        more = results.growth[ALL] - results.growth["bare"]
        yield Budget("memory under attack, more than bare", 2, " MiB", more)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
