"""Each part starts, answers as itself, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis as redis_client

from tests import parts
from tests.parts import install, programs, stores
from tests.parts.fixtures import give_up
from tests.parts.process import running
from tests.parts.web import ServerName

pytestmark = pytest.mark.integration

APP = "tests.parts.hello:app"


def test_postgresql_is_a_real_server(postgresql: stores.PostgreSQL):
    """It knows its version, and it is ready for as many clients as its configuration says."""
    [(version,)] = postgresql.execute("SHOW server_version_num")
    [(clients,)] = postgresql.execute("SHOW max_connections")

    assert int(version) >= 130000
    assert int(clients) == 100


def test_a_database_belongs_to_one_test(postgresql: stores.PostgreSQL, database_url: str):
    """It is empty at first, and gone in the end although a client still holds a connection."""
    with postgresql.database() as url, psycopg.connect(url) as held:
        held.execute("CREATE TABLE item (id int)")
        name = held.info.dbname
    with psycopg.connect(database_url) as fresh:
        [tables] = fresh.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")

    assert tables == (0,)
    assert postgresql.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []


def test_a_server_with_settings_of_its_own():
    """A test that needs another PostgreSQL configuration starts another server."""
    with parts.postgresql(settings={"max_connections": "12"}) as server:
        [(clients,)] = server.execute("SHOW max_connections")

    assert clients == "12"


def test_redis_is_empty_for_every_test(redis_server: stores.Redis, redis_url: str):
    """What it holds was put there by the test itself."""
    with redis_client.Redis.from_url(redis_url, decode_responses=True) as client:
        before = client.dbsize()
        client.set("colour", "green")

    assert before == 0
    assert redis_server.command("GET", "colour") == "green"


def test_prometheus_scrapes_and_evaluates_and_alertmanager_hears_of_it(tmp_path: Path):
    """A rule that is true on scraped data reaches the Alertmanager as an alert."""
    rules = tmp_path / "test.rules.yml"
    rules.write_text(
        "groups: [{name: g, rules: [{alert: AlertmanagerIsUp, expr: 'up{job=\"am\"} == 1'}]}]"
    )
    with (
        parts.alertmanager() as manager,
        parts.prometheus(
            targets={"am": [manager.address]},
            rules=[rules],
            alertmanager=manager,
            interval=0.2,
        ) as prometheus,
    ):
        [up] = prometheus.eventually('up{job="am"} == 1')
        [alert] = parts.eventually(manager.alerts, what="alerts")
        three = prometheus.query("scalar(vector(3))")
        with pytest.raises(ValueError, match="parse error"):
            prometheus.query("sum(")

    assert up.labels["instance"] == manager.address
    assert alert["labels"]["alertname"] == "AlertmanagerIsUp"
    assert three == [parts.Sample({}, 3.0)]


@pytest.mark.parametrize("checker", [parts.promtool, parts.amtool])
def test_a_checker_says_what_it_found(checker: Callable[..., str], tmp_path: Path):
    """A refused file is an error with the checker's own words."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("colour: green")
    command = ("check-config",) if checker is parts.amtool else ("check", "config")

    with pytest.raises(parts.PartFailed, match="field colour not found"):
        checker(*command, wrong)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn", "granian"])
def test_an_application_is_served_by_as_many_processes_as_wished(server: ServerName, workers: int):
    """Every worker answers sooner or later, and none lives on."""
    seen: set[str] = set()
    with parts.serve(APP, server=server, workers=workers) as app:

        def all_have_answered() -> bool:
            seen.add(app.get().body)
            return len(seen) == workers

        parts.eventually(all_have_answered)
        leader = app.server.pid

    assert len(seen) == workers
    assert not any(psutil.pid_exists(int(pid)) for pid in {*seen, str(leader)})


def test_a_page_is_read_after_its_scripts_have_run():
    """The document is what a person would see, and other sites are not asked."""
    page = "data:text/html,<p id=x></p><script>setTimeout(()=>x.append(6*7),500)</script>"

    assert '<p id="x">42</p>' in parts.dom(page)


def test_a_picture_of_a_page_has_the_size_that_was_asked_for(tmp_path: Path):
    """The screenshot is a PNG of the window."""
    picture = parts.screenshot(
        "data:text/html,<h1>hello</h1>", tmp_path / "page.png", width=640, height=480
    )
    header = picture.read_bytes()[16:24]

    assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (640, 480)


def test_a_part_that_does_not_start_says_why():
    """The error has the last words of the program."""
    with (
        pytest.raises(parts.PartFailed, match=r'Could not import module "tests\.nothing"'),
        parts.serve("tests.nothing:app"),
    ):
        pytest.fail("it started")  # pragma: no cover


def test_a_part_that_dies_under_a_test_fails_it(tmp_path: Path):
    """Nobody goes on with a server that is no longer there."""
    part = _python("print('last words', flush=True)", folder=tmp_path)
    started = part.__enter__()
    os.kill(started.pid, signal.SIGKILL)
    started.process.wait()

    with pytest.raises(parts.PartFailed, match=r"(?s)ended with -9 by itself.*last words"):
        part.__exit__(None, None, None)


def test_a_failing_test_shows_the_log_of_its_parts(tmp_path: Path):
    """What a server printed travels with the test's own error."""
    with (
        pytest.raises(ZeroDivisionError) as caught,
        _python("print('something odd', flush=True)", folder=tmp_path),
    ):
        _ = 1 / 0

    assert "something odd" in caught.value.__notes__[0]


def test_a_part_that_does_not_want_to_end_is_ended(tmp_path: Path):
    """A program that ignores the polite signal is killed, and its children with it."""
    stubborn = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True)"
    )
    with _python(stubborn, folder=tmp_path) as part:
        child = psutil.Process(int(part.output()))
        part.stop(within=0.1)

    assert part.process.returncode == -signal.SIGKILL
    parts.eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no signal for a parent's death")
def test_a_part_ends_with_the_process_that_started_it(tmp_path: Path):
    """A test run that is killed leaves no servers behind."""
    script = tmp_path / "starter.py"
    script.write_text(
        "import signal\n"
        "from tests import parts\n"
        "with parts.redis() as redis:\n"
        "    print(redis.server.pid, flush=True)\n"
        "    signal.pause()\n"
    )
    # A killed starter cannot remove its folders.
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    with running(
        [sys.executable, script],
        name="starter",
        folder=tmp_path,
        env=environment,
        ready=lambda: (tmp_path / "starter.log").read_text().strip(),
    ) as starter:
        redis = psutil.Process(int(starter.output()))
        alone = os.getpgid(redis.pid) != starter.pid
        starter.kill()
        parts.eventually(lambda: not redis.is_running() or redis.status() == psutil.STATUS_ZOMBIE)

    assert alone


def test_a_missing_program_names_the_package_that_brings_it():
    """The remedy is in the message."""
    with pytest.raises(parts.MissingPart, match="On Debian: your package manager"):
        parts.find("fastobs-no-such-program")


@pytest.mark.parametrize(
    ("strict", "outcome"), [(True, pytest.fail.Exception), (False, pytest.skip.Exception)]
)
def test_a_missing_part_is_a_failure_in_ci_and_a_skip_elsewhere(
    *, strict: bool, outcome: type[BaseException]
):
    """Nobody mistakes a run without PostgreSQL for a proof."""
    with pytest.raises(outcome, match="no PostgreSQL"):
        give_up(parts.MissingPart("no PostgreSQL"), strict=strict)


def test_installing_is_done_at_once_where_nothing_is_missing():
    """`make test` asks for it every time."""
    shell = programs.Part(name="a shell", programs=("sh",), packages=("dash",))

    assert install.main([shell]) == 0


@pytest.mark.parametrize(("strict", "code"), [(True, 1), (False, 0)])
def test_what_cannot_be_installed_is_explained_in_one_line(
    *, strict: bool, code: int, capsys: pytest.CaptureFixture[str]
):
    """What is missing, what follows, and what to do; only CI stops there."""
    [redis] = [part for part in programs.PARTS if part.name == "Redis"]

    assert install.explain([redis], strict=strict) == code
    [line] = capsys.readouterr().err.splitlines()
    assert "sudo apt-get install redis-server" in line


def _python(code: str, *, folder: Path) -> AbstractContextManager[parts.Running]:
    """A Python program that runs the code and then waits for its end."""
    log = folder / "script.log"
    return running(
        [sys.executable, "-c", f"{code}\nimport signal\nwhile True: signal.pause()"],
        name="script",
        folder=folder,
        ready=lambda: log.read_text().strip(),
    )
