"""Profiles in a place that several machines reach, with two of fsspec's own file systems.

``file`` has folders, and rename and times as a disk has; ``memory`` has names only, like an object store.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fastapi import FastAPI
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from fastobs import ConfigError, Handle
from fastobs.config import Profiles, load
from fastobs.errors import MissingExtra
from fastobs.profiling.remote import Remote
from fastobs.profiling.store import TooLarge
from tests import parts
from tests.driving import call
from tests.profiling.test_store import Now, meta


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = f"{request.param}://{tmp_path}/a bucket/profiles"
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(root)
    yield url
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def now() -> Now:
    return Now()


def remote(url: str, now: Now | None = None, service: str = "shop", **settings: object) -> Remote:
    chosen = Profiles(url=SecretStr(url), **settings)  # type: ignore[arg-type]
    return Remote(chosen, service=service, now=now or Now())


def put(store: Remote, now: Now, number: int, content: bytes = b"stacks") -> None:
    """Keep a profile, and let a second pass."""
    store.put(meta(number), content)
    now.now += 1


def numbers(store: Remote) -> list[int]:
    return [int(one.id, 16) for one in store.list()]


def names(url: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(url)
    return sorted(Path(path).name for path in system.find(root))


def test_what_was_put_can_be_got_listed_and_deleted(url: str) -> None:
    """The four verbs; the service's folder is made with the first profile."""
    store = remote(url)
    empty = store.list(), store.get(meta().id)
    store.put(meta(), b"stacks")
    found, listed = store.get(meta().id), store.list()
    store.delete(meta().id)
    store.delete(meta().id)

    assert empty == ([], None)
    assert found == (meta(), b"stacks")
    assert listed == [meta()]
    assert store.list() == []
    assert names(url) == []


def test_another_machine_sees_it_at_once(url: str) -> None:
    """Nothing of what was there before is remembered."""
    one, other = remote(url), remote(url)
    before = other.list()

    one.put(meta(), b"stacks")

    assert before == []
    assert other.get(meta().id) == (meta(), b"stacks")


def test_services_do_not_see_each_others(url: str) -> None:
    """Nor make them go."""
    remote(url, service="../My Shop").put(meta(), b"stacks")

    assert remote(url, service="Other", max_count=1).list() == []
    assert remote(url, service="../My Shop").list() == [meta()]
    assert remote(url, service="").list() == []


def test_the_oldest_go_when_there_are_too_many(url: str, now: Now) -> None:
    """profiles.max_count, of all machines together."""
    for number in range(1, 6):
        put(remote(url, now, max_count=3), now, number)

    assert numbers(remote(url, now)) == [5, 4, 3]
    assert len(names(url)) == 6


def test_the_oldest_go_when_they_take_too_much(url: str, now: Now) -> None:
    """profiles.max_bytes; descriptions count as well."""
    store = remote(url, now, max_bytes=3000)
    for number in range(1, 4):
        put(store, now, number, b"x" * 1000)

    assert numbers(store) == [3, 2]


def test_one_that_alone_is_too_large_changes_nothing(url: str, now: Now) -> None:
    """Those that are there stay."""
    store = remote(url, now, max_bytes=1000)
    put(store, now, 1)

    with pytest.raises(TooLarge, match=r"profiles\.max_bytes=1000"):
        store.put(meta(2), b"x" * 1000)

    assert numbers(store) == [1]


def test_what_is_too_old_is_not_shown_and_goes_with_the_next(url: str, now: Now) -> None:
    """profiles.max_age."""
    store = remote(url, now, max_age=10.0)
    put(store, now, 1)
    now.now += 10
    shown = store.list(), store.get(meta(1).id)
    put(store, now, 2)

    assert shown == ([], None)
    assert numbers(store) == [2]
    assert len(names(url)) == 2


@pytest.mark.parametrize("profile", ["", "A" * 32, "../../etc/passwd", "a" * 31, "a" * 33])
def test_what_is_no_id_is_not_looked_for(url: str, profile: str) -> None:
    """It comes from an address that anybody may write."""
    assert remote(url).get(profile) is None


def test_what_others_keep_there_stays(url: str, now: Now) -> None:
    """And a profile that is not whole yet is not shown."""
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(f"{root}/shop", exist_ok=True)
    system.pipe_file(f"{root}/shop/readme.txt", b"mine")
    system.pipe_file(f"{root}/shop/1700000000000-{meta(7).id}.stacks", b"half")
    system.pipe_file(f"{root}/shop/1700000000000-{meta(8).id}.json", b"no json")
    system.pipe_file(f"{root}/shop/1700000000000-{meta(8).id}.stacks", b"")
    store = remote(url, now, max_count=1)

    assert (store.list(), store.get(meta(7).id)) == ([], None)
    put(store, now, 1)
    assert numbers(store) == [1]
    assert "readme.txt" in names(url)


def test_what_could_not_be_written_whole_is_taken_away(
    url: str, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a lost connection."""
    store = remote(url, now)
    system, _ = store._open()
    write = system.pipe_file

    def fail(path: str, content: bytes) -> None:
        if path.endswith(".json"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(system, "pipe_file", fail)

    with pytest.raises(OSError, match="No space left"):
        store.put(meta(), b"stacks")
    assert names(url) == []


def test_a_place_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A mount may be missing, and then it would be somewhere else."""
    store = remote(f"file://{tmp_path}/mnt")

    with pytest.raises(FileNotFoundError):
        store.put(meta(), b"stacks")

    assert list(tmp_path.iterdir()) == []
    assert store.list() == []


def test_a_forked_worker_opens_it_anew(tmp_path: Path) -> None:
    """Connections and loops of the parent's are not the child's."""
    store = remote(f"file://{tmp_path}")
    store.put(meta(1), b"stacks")
    mine = store._opened

    with multiprocessing.get_context("fork").Pool(1) as pool:
        theirs = pool.apply(_opened_by_another, (store,))

    assert mine is not None
    assert theirs is not None
    assert theirs != mine[0]


def _opened_by_another(store: Remote) -> int | None:
    store.list()
    return store._opened[0] if store._opened else None


def test_an_address_that_nobody_knows_stops_the_start_up() -> None:
    """With the ones that are likely meant."""
    with pytest.raises(ConfigError, match=r"'s4', which is no kind .* s3://bucket/profiles"):
        remote("s4://bucket")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec itself, or what it needs for this kind."""
    monkeypatch.setitem(sys.modules, "dropboxdrivefs", None)
    with pytest.raises(MissingExtra, match=r"dropbox://\.\.\. needs a library"):
        remote("dropbox://folder")

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fastobs\[remote\]'"):
        remote("file:///profiles")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"url": "/var/profiles"}, r"it is like s3://bucket/profiles"),
        ({"url": "s3://key:secret@b", "directory": "/var"}, r"directory is set as well"),
    ],
)
def test_two_places_or_none_at_all_are_a_mistake(given: dict[str, str], why: str) -> None:
    """The message does not repeat what may have a password in it."""
    with pytest.raises(ConfigError, match=why) as raised:
        load(None, {"profiles": given})

    assert "secret" not in str(raised.value)
    assert "profiles.url=***" in str(raised.value)


@pytest.mark.anyio
async def test_a_profile_is_shown_by_another_machine(
    observed: Callable[..., Handle], tmp_path: Path
) -> None:
    """The one that the load balancer asks knows of it by the place alone."""
    settings = {"url": f"file://{tmp_path}", "token": "t"}
    one, other = FastAPI(title="shop"), FastAPI(title="shop")
    one.get("/items/{i}")(lambda i: i)
    for app in (one, other):
        observed(app, profiles=settings)

    answer = await call(one, "/items/7", headers={"X-Profile": "t"})

    profile = answer.headers["x-profile-id"]
    parts.eventually(lambda: any(name.endswith(".json") for name in names(f"file://{tmp_path}")))
    shown = await call(other, f"/_fastobs/profiles/{profile}", headers={"X-Profile": "t"})
    assert shown.status == 200
    assert "GET /items/{i}" in shown.body.decode()
