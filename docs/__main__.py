"""`python -m docs [--check]`: write the generated pages, or fail when they are out of date."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fastobs import Settings, probes
from fastobs.catalogue import FAMILIES, Family, Metric
from fastobs.config import SECTIONS
from fastobs.probes import ADAPTERS, Adapter

HERE = Path(__file__).parent
PACKAGES = {"fastapi_cache": "fastapi-cache2", "guard_core": "fastapi-guard"}
"""What pip calls a library, if it is not its module's name."""
UNKNOWN = (
    "* **What no variable holds**, such as what is kept in a dictionary or made within a decorator, is called after its",
    "  library, with `#2` and so on in the order of its first use. With several workers that need not be the same",
    "  order everywhere, so give it a name: `fastobs.watch(obj, name=...)`. A cache of cachetools counts only then.",
    "* **Keys of Redis** that are asked for in vain, stored with an expiry and found again are a cache; what",
    "  is stored with NX, counted, or kept alive is none. Answers that are kept for who asks the same again",
    "  are used like a cache that hardly ever hits: they are left out if they are called `idem:…` or",
    "  `idempotency:…`, and shown otherwise.",
    "* **Connections that were taken before `instrument()`**, or by the parent of a forked process, are `used` until",
    "  they are back, but who has them is not known. What a parent had out takes its place in the pool of a forked",
    "  process until that is replaced (`engine.dispose(close=False)`, as SQLAlchemy asks for). psycopg_pool does not",
    "  tell how many are out: what was taken before is not shown.",
    "* **Caches of cachetools**: `dict(cache)` and `for key in cache: cache[key]` are look-ups, since nobody can",
    "  see what they are for. `items()`, `values()` and `==` are none.",
    "* **`lru_cache`** forgets what it counted when it is cleared: what came since the last scrape is lost. If both",
    "  of its numbers are above those of that scrape again by the next one, nobody sees that it was cleared.",
    "* **The decorator `hit` of cashews** asks in a task of its own, so that outside of requests nothing leads from",
    "  a miss to its load: hits and misses are told, load times are not.",
    "* **cashews over a Redis that fails** answers that nothing is there, unless it was set up with",
    "  `suppress=False`: those are misses. The errors are those of the commands in the pools' family.",
)
MADE = "<!-- Made by `python -m docs`; do not edit. -->"


def metrics_page() -> str:
    """Every series, by family."""
    lines = [
        MADE,
        "# Metrics",
        "",
        "Names follow the OpenTelemetry semantic conventions in their Prometheus translation where one",
        "exists. Durations are seconds, sizes are bytes. Series with the label `worker` exist once per",
        "worker; the others are of the whole service. A metric that has reached its limit of label sets",
        "counts further ones under `_other` and says so in `fastobs_label_overflow_total`.",
    ]
    for family in FAMILIES:
        lines.extend(_family(family))
    return "\n".join(lines) + "\n"


def _family(family: Family) -> Iterator[str]:
    yield from ("", f"## {family.name}: {family.question}", "")
    yield "| series | kind | labels | what it says |"
    yield "|---|---|---|---|"
    for metric in family:
        yield f"| `{metric.name}` | {metric.kind} | {_labels(metric)} | {metric.help} |"


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.shown_labels)


def settings_page() -> str:
    """Every setting, by section."""
    lines = [
        MADE,
        "# Settings",
        "",
        "Each section is a keyword of `instrument()`, as a dict, as its class from `fastobs.config`, or",
        "`None` to switch the concern off. Each field is also read from the environment. What is given in",
        "code wins over the environment, where an empty variable is one that is not set. A value that",
        "cannot work stops the start-up with a `ConfigError`.",
        "",
        "```python",
        'instrument(app, slow={"after": 0.5}, profiles=None)',
        "```",
    ]
    for name, section in SECTIONS.items():
        lines.extend(["", f"## {name}", "", _first_sentence(section), ""])
        if not Settings.model_fields[name].is_required() and name != "service":
            lines.extend([f"Off: `{name}=None` or `FASTOBS_{name.upper()}=none`.", ""])
        if section.model_fields:
            lines.extend(_fields(name, section))
    return "\n".join(lines).rstrip() + "\n"


def _first_sentence(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split())


def _fields(name: str, section: type[BaseModel]) -> Iterator[str]:
    yield "| field | environment | default | meaning |"
    yield "|---|---|---|---|"
    for field, info in section.model_fields.items():
        default = info.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else f"`{_plain(default)}`"
        variable = f"`FASTOBS_{name}_{field}`".upper()
        meaning = " ".join((info.description or "").split())
        yield f"| `{field}` | {variable} | {shown} | {meaning} |"


def _plain(default: object) -> object:
    return ", ".join(default) if isinstance(default, tuple) else default


def supported_page() -> str:
    """Every library that an adapter is for."""
    lines = [
        MADE,
        "# Supported libraries",
        "",
        "Each is watched by itself as soon as the app has imported it; nothing is imported that the app",
        "did not import. `fastobs.watch(obj, name=...)` gives an object a name of your choice, and reaches",
        "those that cannot be found by themselves. `print(handle.status())` says what is watched in your",
        "app, under which name, and what is not.",
        "",
        "The last column says what needs a line: `fastobs.watch(...)`, for a name or for what no variable holds.",
        "",
        "| library | family | tested with | automatic | a line for |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {package(row.library)} | {row.family} | {releases(row.library)} "
        f"| {_automatic(row)} | {row.supports or 'nothing'} |"
        for row in ADAPTERS
    ]
    lines += [
        "",
        f"Of functions that count themselves, async-lru {releases('async_lru')} and cachebox",
        f"{releases('cachebox')} are tested with. A cache of cachebox that the app asks by hand tells nothing;",
        "`fastobs.cache(name)` around it does.",
        "",
        f"fastobs itself is tested with FastAPI {releases('fastapi')}, Starlette {releases('starlette')} and",
        f"the OpenTelemetry SDK {releases('opentelemetry-sdk')}. `make oldest` repeats the tests of the adapters",
        "and of tracing with the oldest releases. Of a release in which an adapter misses what it needs, it is",
        "left out:",
        "the app goes on, `fastobs_instrumentation_errors_total` counts it, and the log says which.",
    ]
    lines += [
        "",
        "For everything else there are `fastobs.cache(name)`, `fastobs.limiter(name)` and",
        "`fastobs.section(name)`; a new library is [one file](adding-a-probe.md).",
        "",
        "## What they cannot know",
        "",
        *UNKNOWN,
    ]
    return "\n".join(lines) + "\n"


def _automatic(row: Adapter) -> str:
    """What its adapter says that it is for: the first paragraph."""
    module = import_module(row.module, probes.__name__)
    summary, _, _ = (module.__doc__ or "").partition("\n\n")
    return " ".join(summary.split())


def package(library: str) -> str:
    """What pip calls it."""
    return PACKAGES.get(library, library.replace("_", "-"))


def releases(library: str) -> str:
    """The oldest and the newest release that the tests ran with; empty if none is claimed."""
    if library in sys.stdlib_module_names:
        return "Python's own"
    name = package(library)
    oldest, newest = (pins(file).get(name, "") for file in ("oldest.txt", "newest.txt"))
    return oldest if oldest == newest else f"{oldest} to {newest}"


@cache
def pins(name: str) -> dict[str, str]:
    """Versions by package, of a file in ``tests/``: what is installed here is of no matter."""
    lines = (HERE.parent / "tests" / name).read_text().splitlines()
    found = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {package.partition("[")[0]: version for package, version in found}


PAGES = {
    "metrics.md": metrics_page,
    "settings.md": settings_page,
    "supported.md": supported_page,
}


def main(arguments: Sequence[str], folder: Path = HERE) -> int:
    """Write the pages; with ``--check``, name those that differ and answer 1."""
    stale = [
        name
        for name, page in PAGES.items()
        if not (path := folder / name).exists() or path.read_text() != page()
    ]
    for name in stale:
        if "--check" in arguments:
            sys.stderr.write(f"docs/{name} is out of date; run `python -m docs`.\n")
        else:
            (folder / name).write_text(PAGES[name]())
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
