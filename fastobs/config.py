"""Settings: one frozen section per concern, from code or from ``FASTOBS_<SECTION>_<FIELD>``.

Durations are seconds, sizes are bytes. A section that is ``None`` switches its concern off. What is
given in code wins over the environment, which wins over the defaults.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .errors import ConfigError

__all__ = [
    "Breakdown",
    "Caches",
    "Limits",
    "Metrics",
    "Pools",
    "Profiles",
    "Runtime",
    "Service",
    "Settings",
    "Slow",
    "Traces",
    "Workers",
    "load",
]

logger = logging.getLogger("fastobs")

PROBE_PATHS = ("/health", "/healthz", "/health/live", "/health/ready", "/livez", "/readyz", "/ping")
DOCS_PATHS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/favicon.ico")


def _absolute(path: Any) -> Any:
    if isinstance(path, str) and not (path.startswith("/") and path.strip("/")):
        msg = f"a path begins with '/' and is not the root, like '/metrics'; {path!r} is not"
        raise ValueError(msg)
    return path.rstrip("/") if isinstance(path, str) else path


def _split(paths: Any) -> Any:
    return [path.strip() for path in paths.split(",")] if isinstance(paths, str) else paths


def _rooted(path: str) -> str:
    if not path.startswith("/"):
        msg = f"a request's path begins with '/', so {path!r} would exclude nothing"
        raise ValueError(msg)
    return path


UrlPath = Annotated[str, BeforeValidator(_absolute)]
Paths = Annotated[
    tuple[Annotated[str, AfterValidator(_rooted)], ...], NoDecode, BeforeValidator(_split)
]
"""In the environment: separated by commas."""
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""The same."""


class Section(BaseModel):
    """What every section has in common: it is frozen, and a misspelt field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Service(Section):
    """Who we are, in metrics, traces and log lines.

    Defaults come from ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``, then from the app's
    title and version.
    """

    name: str | None = None
    """``service.name``."""
    version: str | None = None
    """``service.version``."""
    environment: str | None = None
    """``deployment.environment.name``."""


class Metrics(Section):
    """The metrics of requests, and where they are read."""

    path: UrlPath | None = "/metrics"
    """Where Prometheus scrapes; None if the app has an endpoint of its own."""
    token: SecretStr | None = None
    """Bearer token that a scraper must send."""
    exclude: Paths = PROBE_PATHS + DOCS_PATHS
    """Request paths that are neither measured, traced nor logged; ``/internal/*`` for a prefix."""
    server_timing: bool | None = None
    """Whether responses say where their time went, in a header ``Server-Timing``. None: while the app
    is in debug mode, and to requests with a valid profile token."""


class Slow(Section):
    """When a request gets a line in the log that says why it was slow."""

    after: PositiveFloat = 1.0
    """Seconds; a request that took longer gets a line."""
    routes: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Seconds by route template, where the general threshold does not fit."""
    per_minute: PositiveInt = 120
    """Lines; what exceeds it is counted and told by the next line as ``suppressed``."""
    profile_from: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Share of its threshold that a request has taken when the watchdog begins to sample what it
    does, to keep that as a profile if it ends slow, fails with an exception or a 5xx, or if the app
    asks for it (``current().keep_profile()``). None for no such profiles. Needs `runtime.loop_block_after`, and the limits of profiles apply."""
    trust_request_start: bool = False
    """Whether a line says how long the request waited in front of us, by the proxy's header
    ``X-Request-Start``. Only if the proxy always sets it: else anybody can."""

    def threshold(self, route: str) -> float:
        """Seconds, for this template."""
        return self.routes.get(route, self.after)

    @property
    def least(self) -> float:
        """The lowest of all thresholds: whatever was faster was not slow."""
        return min([self.after, *self.routes.values()])


class Traces(Section):
    """The server span of each request."""

    sample: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of new traces to record; None leaves it to ``OTEL_TRACES_SAMPLER``. A provider that the
    app configures itself keeps its own sampler."""
    inside: bool = True
    """Whether the server span of a recorded request has a span inside for each of its parts (queries,
    calls, cache look-ups, waits for a connection, your sections; 100 at most). Where an app has
    OpenTelemetry's own instrumentation of a library, that makes them, and we make none."""
    keep_errors: bool = True
    """Whether a request that failed with an exception or a 5xx has its server span, though the
    sampler did not want its trace. It is decided at the end, so there is nothing inside of it; the
    span says why it is there (``fastobs.kept``). Of a provider that fastobs sets up only."""
    keep_slow: bool = True
    """The same for a request that took longer than its threshold (`slow`)."""
    server_spans: Literal["fastobs", "contrib", "native"] = "fastobs"
    """Who makes the span: we, opentelemetry-instrumentation-fastapi, or FastAPI itself."""
    shutdown_after: PositiveFloat = 3.0
    """Seconds that unsent spans may hold up the end of the process."""


class Profiles(Section):
    """Profiles on demand, for requests that carry the header ``X-Profile``."""

    token: SecretStr | None = None
    """What the header must carry, or what it carries must be made from (``fastobs token --ttl 15m``);
    without it no request is profiled (but see ``debug`` in docs)."""
    directory: Path | None = None
    """Where profiles are kept; None is a private folder of this user and service under the system's
    temporary one."""
    url: SecretStr | None = None
    """Where profiles are kept instead, if several machines serve one address: whatever fsspec has a
    file system for, like ``s3://bucket/profiles``. Needs ``fastobs[remote]`` and the library for that
    kind (s3fs, gcsfs, adlfs), which takes its credentials from its own variables. The place must
    exist; each service has a folder in it."""
    path: UrlPath = "/_fastobs"
    """Prefix of the viewer."""
    max_count: PositiveInt = 200
    """Profiles that are kept; the oldest go first."""
    max_bytes: PositiveInt = 100_000_000
    """Bytes that all kept profiles may take together."""
    max_age: PositiveFloat = 7 * 86_400.0
    """Seconds that a profile is kept."""
    interval: PositiveFloat = 0.001
    """Seconds between samples."""
    max_seconds: PositiveFloat = 30.0
    """Seconds of one request that are profiled at most; the request goes on without."""
    per_minute: PositiveInt = 6
    """Profiles per worker: profiling one request slows its neighbours."""

    @field_validator("url")
    @classmethod
    def _one_place(cls, url: SecretStr | None, others: ValidationInfo) -> SecretStr | None:
        if url is not None and "://" not in url.get_secret_value():
            msg = "it is like s3://bucket/profiles; for a folder of this machine set directory"
            raise ValueError(msg)
        if url is not None and others.data.get("directory") is not None:
            msg = "directory is set as well, and profiles are kept in one place"
            raise ValueError(msg)
        return url


class Pools(Section):
    """Connection pools."""

    optional: Names = ()
    """Names of pools without which the app can serve, such as that of a cache; ``redis:*`` for all
    that begin so. They are asked and told like the others, but ``/_fastobs/readyz`` does not answer
    503 for them: else the end of a cache would take every instance out of service."""
    held_after: PositiveFloat | None = 30.0
    """Seconds; a connection to a database that is not given back for longer gets a line in the log.
    None for no such lines, and then the app's line that takes a connection is not looked for either,
    which takes 0.5 to 2.6 µs. Those of redis-py get none: who blocks or subscribes has one for good."""
    server_limits: PositiveFloat | None = 300.0
    """Seconds between two questions to a database server how many connections it takes, each on a
    connection of its own; None if it shall not be asked."""

    def is_optional(self, name: str) -> bool:
        """Whether the app can serve without the pool of this name."""
        return any(
            name.startswith(one[:-1]) if one.endswith("*") else name == one for one in self.optional
        )


class Caches(Section):
    """Caches."""


class Limits(Section):
    """Rate limiters and 429s."""


class Runtime(Section):
    """Event loop, threads, garbage collector, process."""

    tick: PositiveFloat = 0.1
    """Seconds between two heartbeats of the event loop; `loop_block_after` at most."""
    loop_block_after: PositiveFloat | None = 0.1
    """Seconds; code that held the event loop longer is told of, with its place and its route. None
    switches it off."""
    loop_block_lines: PositiveInt = 6
    """Log lines per minute about one place; what exceeds it is counted and told by the next line as
    ``suppressed``."""


class Breakdown(Section):
    """Where the time of requests goes, by part. ``breakdown="steps"`` is short for its mode."""

    mode: Literal["wall", "steps"] = "wall"
    """``wall``: by the clock, which a request pays for only where a part begins or ends. ``steps``: every
    step of a request on the event loop is driven, and its processor time read, so that `cpu` and
    `blocking` are known of all that it does there and in worker threads. That costs some microseconds for
    each step (benchmarks/slow.md has the measurement), so it is not the default."""


class Workers(Section):
    """Several workers of one server, each of which shows the metrics of all."""

    directory: Path | None = None
    """Where they share them; None is a private folder in memory, and only for servers that we know."""


def _breakdown(given: Any) -> Any:
    """A mode alone is enough; ``off`` and False are None."""
    if given is False or given == "off":
        return None
    return {"mode": given} if isinstance(given, str) else given


class _KnownFieldsOnly(PydanticBaseSettingsSource):
    """The environment without what is not ours.

    Kubernetes puts FASTOBS_SERVICE_HOST into every pod beside a Service named fastobs, so an unknown
    name from there is a warning, while an unknown keyword in code is an error.
    """

    def __init__(self, settings: type[BaseSettings], env: PydanticBaseSettingsSource) -> None:
        super().__init__(settings)
        self._env = env

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._env.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        found = self._env()
        for name, values in found.items():
            if isinstance(values, dict):
                known = SECTIONS[name].model_fields
                for stranger in values.keys() - known.keys():
                    logger.warning(
                        "fastobs: FASTOBS_%s_%s is no setting and was ignored; %s has: %s.",
                        name.upper(),
                        stranger.upper(),
                        name,
                        ", ".join(sorted(known)) or "no fields",
                    )
                    del values[stranger]
        return found


class Settings(BaseSettings):
    """Everything that can be set, one section per concern."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FASTOBS_",
        # What a compose file makes of a variable that nobody has set.
        env_ignore_empty=True,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_parse_none_str="none",
        nested_model_default_partial_update=True,
    )

    service: Service = Service()
    metrics: Metrics | None = Metrics()
    slow: Slow | None = Slow()
    traces: Traces | None = Traces()
    profiles: Profiles | None = Profiles()
    pools: Pools | None = Pools()
    caches: Caches | None = Caches()
    limits: Limits | None = Limits()
    runtime: Runtime | None = Runtime()
    breakdown: Annotated[Breakdown | None, NoDecode, BeforeValidator(_breakdown)] = Breakdown()
    workers: Workers | None = Workers()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _KnownFieldsOnly(settings_cls, env_settings)


SECTIONS: dict[str, type[Section]] = {
    "service": Service,
    "metrics": Metrics,
    "slow": Slow,
    "traces": Traces,
    "profiles": Profiles,
    "pools": Pools,
    "caches": Caches,
    "limits": Limits,
    "runtime": Runtime,
    "breakdown": Breakdown,
    "workers": Workers,
}


def load(settings: Settings | None, sections: dict[str, Any]) -> Settings:
    """The settings that `instrument` was given, over the environment, over the defaults.

    Raises:
        ConfigError: With what is wrong, why, and what to write instead.
    """
    given = {} if settings is None else {name: getattr(settings, name) for name in SECTIONS}
    try:
        return Settings(**{**given, **sections})
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except SettingsError as error:
        msg = (
            f"The environment cannot be read as fastobs settings: {error}: {error.__cause__}. "
            """Tables are JSON: FASTOBS_SLOW_ROUTES='{"/report": 5}'."""
        )
        raise ConfigError(msg) from error


def _explain(error: ValidationError) -> str:
    return "\n".join(_sentence(problem) for problem in error.errors(include_url=False))


SECRET = ("token", "url")
"""Fields whose values are not repeated; an address may have a password in it."""


def _sentence(problem: Any) -> str:
    section, *rest = [str(part) for part in problem["loc"]] or ["settings"]
    field = rest[0] if rest else None
    if problem["type"] == "extra_forbidden":
        where, known = (
            (section, sorted(SECTIONS[section].model_fields)) if field else ("", sorted(SECTIONS))
        )
        wrong = f"{where}.{field}" if field else section
        return f"{wrong} is no fastobs setting. Known: {', '.join(known) or 'none'}."
    setting = ".".join([section, *rest])
    variable = "_".join(["FASTOBS", section, *rest[:1]]).upper()
    default = _default(section, field)
    given = "***" if field in SECRET else repr(problem["input"])
    reason = problem["msg"].removeprefix("Value error, ")
    if field is None and section in SECTIONS:
        off = (
            ""
            if section == "service"
            else f" To switch it off, write {section}=None or {variable}=none."
        )
        fields = ", ".join(sorted(SECTIONS[section].model_fields))
        return (
            f"{setting}={given} cannot be used: {reason}. Write instrument(app, {section}={{...}}) "
            f"with its fields ({fields or 'none'}), or {variable}_<FIELD>.{off}"
        )
    return (
        f"{setting}={given} cannot be used: {reason}. "
        f"Set it in instrument(app, {section}={{...}}) or {variable}; the default is {default!r}."
    )


def _default(section: str, field: str | None) -> Any:
    if section not in SECTIONS or field not in SECTIONS[section].model_fields:
        return Settings.model_fields[section].default if section in SECTIONS else None
    return SECTIONS[section].model_fields[field].get_default(call_default_factory=True)
