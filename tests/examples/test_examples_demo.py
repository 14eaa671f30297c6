"""The demo ends by itself: with a report, or with one clear line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from examples import demo
from examples.report.asking import ready
from examples.running import DemoError, free_port, load, running, shop, wait_until
from tests import parts

ROOT = Path(__file__).parents[2]


def run_demo(*options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "140", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_port_that_is_taken_is_refused_by_name():
    """The user learns which port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DemoError, match=rf"Port {port} of 127\.0\.0\.1 .* --port"):
            free_port(port)


def test_any_free_port_will_do():
    """Without a wish the system chooses."""
    assert free_port() > 0


def test_a_process_ends_with_its_block(tmp_path):
    """Also when the block fails."""
    code = "import signal; print('up', flush=True); signal.pause()"
    with (
        pytest.raises(KeyError),
        running(python(code), os.environ, log=tmp_path / "log") as process,
    ):
        raise KeyError

    assert process.poll() == -signal.SIGTERM


def test_waiting_ends_when_the_server_does(tmp_path):
    """A server that cannot start is told at once, with its status and its log."""
    log = tmp_path / "log"
    with (
        running(python("raise SystemExit(3)"), os.environ, log=log) as process,
        pytest.raises(DemoError, match="status 3") as raised,
    ):
        wait_until(lambda: False, process, within=parts.PATIENCE, log=log)

    assert raised.value.log == log


def test_waiting_does_not_last_for_ever(tmp_path):
    """A server that lives but never answers is given up."""
    log = tmp_path / "log"
    with (
        running(python("import signal; signal.pause()"), os.environ, log=log) as process,
        pytest.raises(DemoError, match="not ready within 0 seconds"),
    ):
        wait_until(lambda: False, process, within=0, log=log)


def test_a_missing_module_is_named_with_the_command_that_installs_it(monkeypatch):
    """No traceback: one line."""
    monkeypatch.setattr(demo, "NEEDED", ("sys", "no_such_module_here"))

    with pytest.raises(DemoError, match=r"^no_such_module_here: .* pip install"):
        demo.check_modules()


def test_a_folder_that_cannot_be_written_is_one_line_and_a_failure(tmp_path):
    """The demo says which folder, and how to choose another."""
    (tmp_path / "file").touch()

    ended = run_demo("--output", tmp_path / "file")

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"demo: {tmp_path / 'file'} cannot be written")
    assert "--output" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_the_shell_says_does_not_send_the_demo_elsewhere(monkeypatch, tmp_path):
    """A database or a Redis of the user's is never loaded with the demo's traffic."""
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://production/shop")
    monkeypatch.setenv("SHOP_REDIS_URL", "redis://production")
    monkeypatch.setenv("FASTOBS_METRICS_TOKEN", "secret")

    environment = demo.environment_of_the_shop(tmp_path, token="t")

    assert "production" not in json.dumps(environment)
    assert "FASTOBS_METRICS_TOKEN" not in environment


def test_everything_listens_on_this_machine_only():
    """Neither command names another address than the loopback one."""
    command = shop(port=1, workers=2) + load("http://127.0.0.1:1", users=1, seconds=1)

    assert not any("0.0.0.0" in word for word in command)


@pytest.mark.integration
def test_the_demo_reports_what_happened(tmp_path):
    """A short run shows every mistake under its name, saves a profile, and ends with 0."""
    # Connections may take a port that the system has chosen, before the server has it.
    port = parts.free_port()
    ended = run_demo("--seconds", 8, "--users", 15, "--port", port, "--output", tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    for expected in (
        "/api/v1/products/{product_id}/reviews",
        "/api/v1/products/{product_id}/price",
        "/mistakes/lazy-loads",
        "queries for Product.reviews",
        "recommendations",
        "Connection pools",
        "Event loop blocked by",
        "What next",
    ):
        assert expected in ended.stdout
    assert "nan" not in ended.stdout
    assert [page.suffix for page in tmp_path.glob("profile-*")] == [".html"]


@pytest.mark.integration
def test_the_shop_does_not_outlive_a_demo_that_was_killed(tmp_path):
    """When nobody holds the other end of its stdin any more, the server ends."""
    log = tmp_path / "log"
    environment = {**os.environ, "SHOP_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db"}
    port = parts.free_port()
    with running(shop(port=port, workers=1), environment, log=log) as server:
        wait_until(
            lambda: ready(f"http://127.0.0.1:{port}"), server, within=parts.PATIENCE, log=log
        )
        assert server.stdin is not None
        server.stdin.close()

        assert server.wait(timeout=parts.PATIENCE) is not None
