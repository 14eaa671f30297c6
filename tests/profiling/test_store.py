"""The folder of profiles is private, bounded, and never half written."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from fastobs.config import Profiles
from fastobs.profiling.store import Folder, Meta, NotPrivate, TooLarge, is_id


def meta(number: int = 1, **more: object) -> Meta:
    known: dict[str, object] = {
        "id": f"{number:032x}",
        "time": "2026-01-02T03:04:05.678+00:00",
        "service": "shop",
        "pid": 7,
        "method": "GET",
        "route": "/items/{item_id}",
        "status": 200,
        "error_type": "",
        "duration": 0.5,
        "trigger": "header",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "samples": 3,
        "truncated": False,
    }
    return Meta(**(known | more))  # type: ignore[arg-type]


class Now:
    """A time at which files can be said to have been written."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def now() -> Now:
    return Now()


def folder(path: Path, now: Now | None = None, **settings: object) -> Folder:
    chosen = Profiles(directory=path, **settings)  # type: ignore[arg-type]
    return Folder(chosen) if now is None else Folder(chosen, now)


def put(store: Folder, path: Path, now: Now, number: int, content: bytes = b"stacks") -> None:
    """Keep a profile as if it were done now, and let a second pass."""
    store.put(meta(number), content)
    for file in path.glob(f"{number:032x}.*"):
        os.utime(file, (now.now, now.now))
    now.now += 1


def numbers(store: Folder) -> list[int]:
    return [int(one.id, 16) for one in store.list()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_put_can_be_got_listed_and_deleted(tmp_path: Path):
    """The four verbs."""
    store = folder(tmp_path / "new" / "profiles")
    empty = store.list(), store.get(meta().id)
    store.put(meta(), b"stacks")
    found, listed = store.get(meta().id), store.list()
    store.delete(meta().id)
    store.delete(meta().id)

    assert empty == ([], None)
    assert found == (meta(), b"stacks")
    assert listed == [meta()]
    assert store.list() == []


def test_only_we_may_read_it(tmp_path: Path):
    """The folder is 0700 and the files are 0600, whatever the umask."""
    umask = os.umask(0)
    try:
        folder(tmp_path / "profiles").put(meta(), b"stacks")
    finally:
        os.umask(umask)

    assert mode(tmp_path / "profiles") == 0o700
    assert {mode(file) for file in (tmp_path / "profiles").iterdir()} == {0o600}


@pytest.mark.parametrize("writable", [0o770, 0o777, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, writable: int):
    """Whoever can put a file there decides what is shown as a profile."""
    tmp_path.chmod(writable)
    store = folder(tmp_path)

    for attempt in (lambda: store.put(meta(), b""), store.list, lambda: store.get(meta().id)):
        with pytest.raises(
            NotPrivate, match=r"Set profiles.directory to a folder that does not exist"
        ):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a place where everybody may create folders, ours may have been created for us."""
    tmp_path.chmod(0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)

    with pytest.raises(NotPrivate, match=f"it belongs to uid {user} with mode 0700"):
        folder(tmp_path).put(meta(), b"")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    """The message says so."""
    (tmp_path / "profiles").touch()

    with pytest.raises(NotPrivate, match="it is not a folder"):
        folder(tmp_path / "profiles").list()


def test_the_default_is_a_private_folder_below_the_temporary_one(tmp_path: Path, monkeypatch):
    """It has the user in its name, and both levels belong to that user alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Folder(Profiles())
    before = store.list()
    store.put(meta(), b"stacks")
    outer = tmp_path / f"fastobs-{os.geteuid()}"

    assert before == []
    assert store.list() == [meta()]
    assert (mode(outer), mode(outer / "profiles")) == (0o700, 0o700)


def test_each_service_of_a_user_has_a_default_folder_of_its_own(tmp_path: Path, monkeypatch):
    """The token of one opens nothing of another, and a busy one makes no other's profiles go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shop = Folder(Profiles(), service="../My Shop")
    shop.put(meta(), b"stacks")

    assert Folder(Profiles(), service="Other").list() == []
    assert Folder(Profiles(), service="../My Shop").list() == [meta()]
    assert mode(tmp_path / f"fastobs-{os.geteuid()}" / "profiles-..-My-Shop") == 0o700


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_the_default_folder_is_not_somewhere_else(tmp_path: Path, monkeypatch, which: str):
    """A symbolic link that lies where it should be is not followed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outer, elsewhere = tmp_path / f"fastobs-{os.geteuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if which == "outer":
        outer.symlink_to(elsewhere)
    else:
        outer.mkdir(mode=0o700)
        (outer / "profiles").symlink_to(elsewhere)

    with pytest.raises(NotPrivate, match="it is not a folder"):
        Folder(Profiles()).put(meta(), b"")
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_was_chosen_may_be_a_link(tmp_path: Path):
    """Mounted volumes are; what counts is whose the folder behind it is."""
    (tmp_path / "volume").mkdir(mode=0o700)
    (tmp_path / "profiles").symlink_to(tmp_path / "volume")
    store = folder(tmp_path / "profiles")
    store.put(meta(), b"stacks")

    assert store.list() == [meta()]


def test_the_oldest_goes_when_there_are_too_many(tmp_path: Path, now: Now):
    """The newest comes first in the list."""
    store = folder(tmp_path / "p", now, max_count=3)
    for number in range(5):
        put(store, tmp_path / "p", now, number)

    assert numbers(store) == [4, 3, 2]


def test_the_oldest_goes_when_there_is_too_much(tmp_path: Path, now: Now):
    """At no time is there more than the bound."""
    store = folder(tmp_path / "p", now, max_bytes=5000)
    for number in range(5):
        put(store, tmp_path / "p", now, number, b"x" * 1500)

    assert numbers(store) == [4, 3]
    assert sum(file.stat().st_size for file in (tmp_path / "p").iterdir()) <= 5000


def test_a_profile_that_is_larger_than_everything_is_refused(tmp_path: Path, now: Now):
    """The others stay; the message says what to change."""
    store = folder(tmp_path / "p", now, max_bytes=2000)
    put(store, tmp_path / "p", now, 1)

    with pytest.raises(TooLarge, match=r"Raise it, or lower profiles.max_seconds"):
        store.put(meta(2), b"x" * 2000)
    assert numbers(store) == [1]


def test_what_is_too_old_is_gone(tmp_path: Path, now: Now):
    """It is not shown any more, and removed with the next profile."""
    store = folder(tmp_path / "p", now, max_age=100)
    put(store, tmp_path / "p", now, 1)
    now.now += 100
    shown = store.list(), store.get(meta(1).id)
    put(store, tmp_path / "p", now, 2)

    assert shown == ([], None)
    assert not list((tmp_path / "p").glob(f"{1:032x}*"))


def test_what_is_not_ours_stays(tmp_path: Path, now: Now):
    """Other files in the folder are neither counted, shown nor removed."""
    path = tmp_path / "p"
    path.mkdir(mode=0o700)
    strangers = ["notes.txt", f"{1:032x}.html", f"{1:031x}.json", f"{10:032X}.json", ".json"]
    for name in strangers:
        (path / name).write_text("{}")
        os.utime(path / name, (0, 0))
    store = folder(path, now, max_count=1, max_age=10)
    put(store, path, now, 11)
    put(store, path, now, 12)

    assert numbers(store) == [12]
    assert all((path / name).exists() for name in strangers)


def test_what_a_process_left_half_written_is_cleared_away(tmp_path: Path, now: Now):
    """It is never shown; a moment later it belongs to nobody."""
    path = tmp_path / "p"
    store = folder(path, now)
    put(store, path, now, 1)
    (path / f"{2:032x}.stacks").write_bytes(b"half")
    (path / f"{3:032x}.part").write_bytes(b"half")
    for number, kind in ((2, "stacks"), (3, "part")):
        os.utime(path / f"{number:032x}.{kind}", (now.now, now.now))
    put(store, path, now, 4)
    kept = len(list(path.iterdir()))
    now.now += 120
    put(store, path, now, 5)

    assert kept == 6
    assert len(list(path.iterdir())) == 6
    assert numbers(store) == [5, 4, 1]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither a temporary file nor half a profile."""
    store = folder(tmp_path / "p")
    replace = os.replace

    def fail(source: str, target: str, **more: int) -> None:
        if target.endswith(".json"):
            raise OSError(28, "No space left on device")
        replace(source, target, **more)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        store.put(meta(), b"stacks")

    assert list((tmp_path / "p").iterdir()) == []


@pytest.mark.parametrize(
    "profile",
    [
        "",
        "1",
        "../" + "1" * 29,
        "/etc/passwd",
        "A" * 32,
        "g" * 32,
        "1" * 31,
        "1" * 33,
        "1" * 32 + "\n",
        "\N{ARABIC-INDIC DIGIT ONE}" * 32,
        "1" * 31 + "\x00",
        "../../../../../../../../etc/pass",
    ],
)
def test_an_id_is_32_hex_characters_and_nothing_else(tmp_path: Path, profile: str):
    """What is not cannot name a file."""
    store = folder(tmp_path / "p")
    store.put(meta(), b"stacks")
    store.delete(profile)

    assert not is_id(profile)
    assert store.get(profile) is None
    assert store.list() == [meta()]


def test_a_damaged_description_hides_one_profile_only(tmp_path: Path):
    """The list shows the others; a newer version's extra fields are no damage."""
    path = tmp_path / "p"
    store = folder(path)
    for number in (1, 2, 3):
        store.put(meta(number), b"stacks")
    (path / f"{2:032x}.json").write_text('{"id": 1}')
    more = json.loads((path / f"{3:032x}.json").read_text()) | {"invented": "later"}
    (path / f"{3:032x}.json").write_text(json.dumps(more))

    assert sorted(numbers(store)) == [1, 3]
    with pytest.raises(ValueError, match="no description of a profile"):
        store.get(meta(2).id)
