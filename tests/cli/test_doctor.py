"""``fastobs doctor`` finds what is wrong with an app, an environment, a service."""

from __future__ import annotations

import pytest

from fastobs import Settings, catalogue
from fastobs.catalogue import SELF_DROPPED, SELF_ERRORS, SELF_OVERFLOW
from fastobs.cli import checks
from fastobs.cli.exposition import parse
from fastobs.config import Metrics, Profiles, Slow
from tests.cli.running import complaint, fastobs, process
from tests.parts import serve


def counter(metric: catalogue.Metric, value: float, *labels: str) -> str:
    pairs = zip(metric.labels, labels, strict=True)
    inside = ",".join(f'{name}="{label}"' for name, label in pairs)
    return f"{metric.name}{{{inside}}} {value}\n"


def test_an_app_is_told_with_its_settings_and_what_is_watched():
    """Versions, what differs from the defaults, what is found: enough for a report of a bug."""
    done = process("doctor", "tests.cli.shop:app", FASTOBS_SLOW_AFTER="0.5")

    assert done.returncode == 0, done.stderr
    for expected in (
        "fastapi ",
        "slow.after = 0.5",
        "metrics.exclude = ('/internal',)",
        "process: CPU, memory",
        "ok       tests.cli.shop:app is instrumented",
        "note     profiles.token is not set",
    ):
        assert expected in done.stdout


def test_a_secret_is_never_shown():
    """What doctor prints is pasted into chats."""
    done = process("doctor", "tests.cli.shop:app", FASTOBS_METRICS_TOKEN="hidden-here")

    assert "hidden-here" not in done.stdout + done.stderr
    assert "metrics.token = ****" in done.stdout


def test_an_app_that_is_not_instrumented_is_a_problem(tmp_path):
    """It is found in the folder from which the command is started, as servers do it."""
    (tmp_path / "main.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")

    done = process("doctor", "main:app", folder=tmp_path)

    assert complaint(done) == "1 problem; see above."
    assert "problem  main:app is a FastAPI that nobody has instrumented" in done.stdout


def test_an_app_that_a_factory_makes_is_told_as_well(tmp_path):
    """Written as gunicorn has it; without the brackets the line says so."""
    (tmp_path / "main.py").write_text(
        "from fastapi import FastAPI\n"
        "from fastobs import instrument\n"
        "def make():\n    app = FastAPI()\n    instrument(app)\n    return app\n"
        "def fail():\n    return 1 // 0\n"
    )

    assert "ok       main:make() is instrumented" in (
        process("doctor", "main:make()", folder=tmp_path).stdout
    )
    assert "write 'main:make()'" in process("doctor", "main:make", folder=tmp_path).stdout
    assert complaint(process("doctor", "main:fail()", folder=tmp_path)).startswith(
        "main:fail() failed: ZeroDivisionError"
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("main", "'main' is neither an import path nor an address"),
        ("nowhere:app", "nowhere cannot be imported: ModuleNotFoundError"),
        ("broken:app", "broken cannot be imported: ZeroDivisionError"),
        ("leaves:app", "leaves cannot be imported: SystemExit"),
        ("json:app", "json has no 'app'"),
    ],
)
def test_an_app_that_cannot_be_found_is_one_line(tmp_path, target, expected):
    """What the app's own code raises is told, without a traceback through ours."""
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")

    assert expected in complaint(process("doctor", target, folder=tmp_path))


def test_a_setting_that_cannot_work_is_one_line():
    """The same words with which the service would not start."""
    assert "slow.after='-1' cannot be used" in complaint(fastobs("doctor", FASTOBS_SLOW_AFTER="-1"))


def test_a_variable_that_no_setting_has_is_a_problem():
    """A misspelt one has no effect, and nobody notices; those of Kubernetes are expected."""
    done = fastobs("doctor", FASTOBS_SLOW_AFTR="2", FASTOBS_SERVICE_HOST="10.0.0.1")

    assert complaint(done) == "1 problem; see above."
    assert (
        "problem  FASTOBS_SLOW_AFTR is no setting and has no effect. Is FASTOBS_SLOW_AFTER meant?"
    ) in done.stdout
    assert "note     FASTOBS_SERVICE_HOST is no setting" in done.stdout


def test_every_setting_is_known_by_its_variable():
    """So are a section as a whole, and the switch that is no setting."""
    known = dict.fromkeys(["FASTOBS_STRICT", "fastobs_slow_after", "FASTOBS_POOLS", "HOME"], "")

    assert list(checks.strangers(known)) == []


def test_a_variable_that_the_code_overrules_is_noted():
    """It is set, it is right, and it still does nothing."""
    applied = Settings(slow=Slow(after=3), profiles=None)
    wanted = Settings(slow=Slow(after=2), profiles=Profiles(max_count=5), metrics=Metrics())
    variables = dict.fromkeys(
        ["FASTOBS_SLOW_AFTER", "FASTOBS_PROFILES_MAX_COUNT", "FASTOBS_METRICS_PATH"], "set"
    )

    texts = [finding.text for finding in checks.overruled(applied, wanted, variables)]

    assert [text.split()[0] for text in texts] == [
        "FASTOBS_SLOW_AFTER",
        "FASTOBS_PROFILES_MAX_COUNT",
    ]


def test_a_service_in_order_has_no_problem(service):
    """Both formats, the release, steady counters, the number of workers."""
    service.get("/items/1")

    done = fastobs("doctor", service.url)

    assert done.returncode == 0, done.stdout
    for expected in (
        "ok       answers in the text format: text/plain; version=0.0.4",
        "ok       answers in OpenMetrics: application/openmetrics-text",
        "ok       the service runs fastobs version ",
        "ok       no counter fell in 5 scrapes",
        "ok       workers that are live: 1; that show their process: 1",
    ):
        assert expected in done.stdout


def test_a_page_that_wants_a_token_gets_it():
    """From the environment or an option; without it the answer says so."""
    with serve("tests.cli.shop:app", env={"FASTOBS_METRICS_TOKEN": "key"}) as server:
        assert "wants the token" in complaint(fastobs("doctor", server.url))
        assert fastobs("doctor", server.url, "--token", "key").returncode == 0
        assert fastobs("doctor", server.url, FASTOBS_METRICS_TOKEN="key").returncode == 0


def test_a_page_that_is_not_ours_is_told(service):
    """A wrong path is the usual reason."""
    said = complaint(fastobs("doctor", f"{service.url}/items/1"))

    assert "/items/1 " in said


def test_workers_that_do_not_know_of_each_other_are_found():
    """A counter of the service fell, which it never does."""
    name = catalogue.HTTP_SLOW
    looks = [parse(counter(name, value, "/a")) for value in (3, 4, 1)]

    assert checks.steady(looks[:2]).kind == "ok"
    assert checks.steady(looks).kind == "problem"
    assert "FASTOBS_WORKERS_DIRECTORY" in checks.steady([looks[0], {}]).text


def test_a_page_of_another_type_is_a_problem():
    """Prometheus would read it differently, or not at all."""
    found = checks.content_type("text/html", wanted="text/plain", name="the text format")

    assert found.kind == "problem"


def test_what_the_service_says_of_itself_is_told():
    """Its own errors, folded label sets and dropped lines; zeros are silent."""
    text = (
        counter(SELF_ERRORS, 2, "traces")
        + counter(SELF_ERRORS, 0, "slow")
        + counter(SELF_OVERFLOW, 7, catalogue.HTTP_PART.name)
        + counter(SELF_DROPPED, 3, "spans", "queue_full")
    )

    found = list(checks.trust(parse(text)))

    assert [finding.kind for finding in found] == ["problem", "problem", "note"]
    assert "2 errors of fastobs itself in 'traces'" in found[0].text
    assert found[2].text == "3 spans were dropped: queue_full"


def test_another_release_is_noted():
    """The command may be older than the service."""
    text = counter(catalogue.BUILD_INFO, 1, "0.0.0", "3.11", "1", "1")

    assert [finding.kind for finding in checks.release(parse(text))] == ["ok", "note"]


def test_no_worker_is_a_problem():
    """A scrape that speaks for nobody cannot be trusted."""
    assert checks.workers({}).kind == "problem"
