"""Settings, from code and from the environment."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fastobs.config import SECTIONS, Metrics, Profiles, Settings, Slow, load
from fastobs.errors import ConfigError


def test_defaults_need_nothing() -> None:
    """The four promises include: no set-up."""
    settings = load(None, {})

    assert settings.slow is not None
    assert settings.slow.after == 1.0
    assert settings.metrics is not None
    assert settings.metrics.path == "/metrics"


def test_every_section_is_known_by_its_name() -> None:
    """The table and the model say the same."""
    assert set(Settings.model_fields) == set(SECTIONS)


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("FASTOBS_SLOW_AFTER", "0.5", lambda s: s.slow.after == 0.5),
        ("FASTOBS_SLOW_PER_MINUTE", "7", lambda s: s.slow.per_minute == 7),
        ("FASTOBS_PROFILES_MAX_COUNT", "9", lambda s: s.profiles.max_count == 9),
        ("FASTOBS_METRICS_EXCLUDE", "/a, /b/*", lambda s: s.metrics.exclude == ("/a", "/b/*")),
        ("FASTOBS_TRACES_SAMPLE", "0.01", lambda s: s.traces.sample == 0.01),
        ("FASTOBS_SLOW_ROUTES", '{"/report": 5}', lambda s: s.slow.routes == {"/report": 5.0}),
        ("FASTOBS_POOLS", "none", lambda s: s.pools is None),
        ("FASTOBS_SERVICE_NAME", "shop", lambda s: s.service.name == "shop"),
        (
            "FASTOBS_METRICS_TOKEN",
            "s3cret",
            lambda s: s.metrics.token.get_secret_value() == "s3cret",
        ),
    ],
)
def test_the_environment_names_section_and_field(
    variable: str, value: str, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FASTOBS_<SECTION>_<FIELD>."""
    monkeypatch.setenv(variable, value)

    assert read(load(None, {}))


def test_code_wins_over_the_environment_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment may set what the code leaves open."""
    monkeypatch.setenv("FASTOBS_SLOW_AFTER", "0.5")
    monkeypatch.setenv("FASTOBS_SLOW_PER_MINUTE", "5")

    settings = load(None, {"slow": {"after": 2}})

    assert settings.slow == Slow(after=2, per_minute=5)


def test_sections_may_be_given_as_class_dict_or_none() -> None:
    """Over settings that are given as a whole."""
    base = Settings(slow=Slow(after=3))

    settings = load(base, {"metrics": Metrics(path="/m"), "traces": {"sample": 0.5}, "pools": None})

    assert settings.slow == Slow(after=3)
    assert settings.metrics is not None
    assert settings.metrics.path == "/m"
    assert settings.traces is not None
    assert settings.traces.sample == 0.5
    assert settings.pools is None


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"slow": {"after": -1}},
            (
                "slow.after=-1 cannot be used: Input should be greater than 0. Set it in "
                "instrument(app, slow={...}) or FASTOBS_SLOW_AFTER; the default is 1.0."
            ),
        ),
        ({"slow": {"after": float("inf")}}, "slow.after=inf cannot be used"),
        (
            {"slw": {}},
            "slw is no fastobs setting. Known: breakdown, caches, limits, metrics",
        ),
        ({"slow": {"aftr": 1}}, "slow.aftr is no fastobs setting. Known: after, per_minute"),
        ({"metrics": {"path": "metrics"}}, "a path begins with '/' and is not the root"),
        ({"metrics": {"path": "/"}}, "a path begins with '/' and is not the root"),
        ({"slow": 3}, "slow=3 cannot be used: Input should be a valid dictionary"),
        (
            {"slow": False},
            (
                "Write instrument(app, slow={...}) with its fields (after, per_minute, profile_from, "
                "routes, trust_request_start), or FASTOBS_SLOW_<FIELD>. "
                "To switch it off, write slow=None or FASTOBS_SLOW=none."
            ),
        ),
        ({"metrics": {"exclude": ["health"]}}, "'health' would exclude nothing"),
        ({"slow": {"routes": {"/a": 0}}}, "slow.routes./a=0 cannot be used"),
        ({"metrics": {"token": 7}}, "metrics.token=*** cannot be used"),
        ({"traces": {"server_spans": "both"}}, "'fastobs', 'contrib' or 'native'"),
    ],
)
def test_a_bad_value_says_what_is_wrong_why_and_what_to_write(
    sections: dict[str, Any], sentence: str
) -> None:
    """At start-up, before any request."""
    with pytest.raises(ConfigError) as caught:
        load(None, sections)

    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ("steps", "steps"),
        ("wall", "wall"),
        ({"mode": "steps"}, "steps"),
        ("off", None),
        (False, None),
    ],
)
def test_a_breakdown_is_named_by_its_mode(given: Any, mode: str | None) -> None:
    """It has no other setting; the section itself does as well."""
    chosen = load(None, {"breakdown": given}).breakdown

    assert (None if chosen is None else chosen.mode) == mode


@pytest.mark.parametrize(
    ("variable", "value", "mode"),
    [
        ("FASTOBS_BREAKDOWN", "steps", "steps"),
        ("FASTOBS_BREAKDOWN_MODE", "steps", "steps"),
        ("FASTOBS_BREAKDOWN", "off", None),
        ("FASTOBS_BREAKDOWN", "none", None),
    ],
)
def test_the_environment_may_name_the_mode_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, mode: str | None
) -> None:
    """As in code."""
    monkeypatch.setenv(variable, value)
    chosen = load(None, {}).breakdown

    assert (None if chosen is None else chosen.mode) == mode


def test_a_bad_value_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever reads the message may not have the code at hand."""
    monkeypatch.setenv("FASTOBS_SLOW_AFTER", "fast")

    with pytest.raises(ConfigError, match=r"slow\.after='fast' .* FASTOBS_SLOW_AFTER"):
        load(None, {})


def test_a_value_that_is_no_json_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections and tables are read as JSON, of which the message has an example."""
    monkeypatch.setenv("FASTOBS_SLOW_ROUTES", "/report=5")

    with pytest.raises(ConfigError, match=r"environment cannot be read.*FASTOBS_SLOW_ROUTES='{"):
        load(None, {})


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and charts hand on what nobody has filled in."""
    for name in ("FASTOBS_SLOW", "FASTOBS_SLOW_AFTER", "FASTOBS_PROFILES_TOKEN"):
        monkeypatch.setenv(name, "")

    assert load(None, {}) == Settings()
    assert load(None, {}).profiles == Profiles(token=None)


def test_a_stranger_in_the_environment_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes puts one into every pod beside a Service called fastobs."""
    monkeypatch.setenv("FASTOBS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FASTOBS_STRICT", "1")

    with caplog.at_level(logging.WARNING):
        load(None, {})

    assert [record.getMessage() for record in caplog.records] == [
        (
            "fastobs: FASTOBS_SERVICE_HOST is no setting and was ignored; "
            "service has: environment, name, version."
        )
    ]


def test_settings_do_not_change_once_they_are_made() -> None:
    """Nor do tokens show when they are printed."""
    settings = load(None, {"metrics": {"token": "s3cret"}})

    with pytest.raises(ValueError, match="frozen"):
        settings.slow = None
    assert "s3cret" not in repr(settings)
