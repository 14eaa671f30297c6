"""Who shares, and who never does."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastobs import _siblings
from fastobs._service import Identity
from fastobs._siblings import Unusable, forget_the_dead, server, shared_folder
from tests.parts import PATIENCE

WHO = Identity("shop", "1", "")
ASK = "from fastobs._siblings import server; print(server())"
FORK = """
import os, sys
from fastobs._siblings import server
if os.fork() == 0:
    print(server(), flush=True)
    os._exit(0)
os.wait()
"""


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def me() -> str:
    identity = _siblings._identity(os.getpid())
    assert identity is not None
    return identity


def test_a_process_that_a_shell_or_a_test_runner_started_is_alone() -> None:
    """However many services it starts."""
    assert run(sys.executable, "-c", ASK) == "None"
    assert run("sh", "-c", f"{sys.executable} -c '{ASK}'; true") == "None"


def test_a_forked_worker_of_the_same_program_has_its_parent_as_server() -> None:
    """As gunicorn makes them."""
    answer = run(sys.executable, "-c", FORK)

    pid, _, start = answer.partition("-")
    assert pid.isdigit()
    assert start.isdigit()


def _answer(queue: Any) -> None:
    queue.put(server())


def test_a_worker_that_multiprocessing_started_has_its_parent_as_server() -> None:
    """As uvicorn, granian and hypercorn make them."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=_answer, args=(queue,))
    process.start()

    assert queue.get(timeout=PATIENCE) == me()
    process.join()


def test_a_process_under_reload_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single process needs no files."""
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    monkeypatch.setattr(_siblings, "_words", lambda pid: ["python", "uvicorn", "--reload"])

    assert server() is None


def test_gunicorns_titles_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """With setproctitle, its processes write them over their words."""
    titles = {os.getpid(): ["gunicorn: worker [shop]"], 1: ["gunicorn: master [shop]"]}
    monkeypatch.setattr(_siblings, "_words", titles.__getitem__)
    monkeypatch.setattr(Path, "samefile", lambda self, other: True)

    assert _siblings._same_program(1)


def test_without_proc_a_process_is_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known of its parent there."""
    monkeypatch.setattr(_siblings, "PROC", tmp_path)

    assert server() is None
    assert _siblings._words(1) == []
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert server() is None
    assert shared_folder(tmp_path / "d", WHO, "1") is None


def test_a_directory_in_the_settings_says_that_there_are_siblings(tmp_path: Path) -> None:
    """Even if the server is of a kind that we do not know. Services and versions stay apart."""
    first = shared_folder(tmp_path, WHO, "1")

    assert first is not None
    assert first.parent == tmp_path
    assert first.stat().st_mode & 0o777 == 0o700
    assert shared_folder(tmp_path, WHO, "1") == first
    assert shared_folder(tmp_path, Identity("other", "1", ""), "1") != first
    assert shared_folder(tmp_path, WHO, "2") != first


def test_alone_there_is_no_folder() -> None:
    """And nothing is made."""
    assert shared_folder(None, WHO, "1") is None


def test_the_default_is_in_memory_where_there_is_such_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else under the temporary directory."""
    assert _siblings.default_directory() == Path(f"/dev/shm/fastobs-{os.getuid()}")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert _siblings.default_directory().name == f"fastobs-{os.getuid()}"


@pytest.mark.parametrize("how", ["file", "open", "link"])
def test_a_folder_that_is_not_private_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have put it there."""
    base = tmp_path / "base"
    if how == "file":
        base.touch()
    elif how == "open":
        base.mkdir()
        base.chmod(0o777)
    else:
        (tmp_path / "else").mkdir()
        base.symlink_to(tmp_path / "else")
    monkeypatch.setattr(_siblings, "default_directory", lambda: base)
    monkeypatch.setattr(_siblings, "server", me)

    with pytest.raises(Unusable):
        shared_folder(None, WHO, "1")


def test_folders_of_servers_that_are_gone_are_removed(tmp_path: Path) -> None:
    """Those of living ones, and what is not ours, stay."""
    for name in ("999999-1-ab", f"{os.getpid()}-1-ab", f"{me()}-ab", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()

    forget_the_dead(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {f"{me()}-ab", "notes"}
