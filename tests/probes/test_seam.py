"""How adapters come to life, and go."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from cachetools import LRUCache
from fastapi import FastAPI
from starlette.testclient import TestClient

import fastobs
from fastobs import catalogue
from fastobs import probes as seam
from fastobs.cells import Meters
from fastobs.config import load
from fastobs.probes import ADAPTERS, Adapter, Kit, Probe, Probes
from fastobs.probes._imports import Arrivals
from fastobs.probes._names import Names, variables
from tests.parts import PATIENCE

OPTIONAL = sorted({row.library for row in ADAPTERS} - {"asyncio", "functools", "fastapi"})


def run(script: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_begins_anew(probes: Probes, contained_errors: None) -> None:
    """Every adapter that was alive; the error of one is contained, and hinders none."""
    done = []

    class Forked(Probe):
        def begin_anew(self) -> None:
            done.append(self)
            raise ZeroDivisionError

    kit = Kit(meters=probes.meters, names=Names(), look=lambda: None)
    rows = ADAPTERS[:2]
    probes._probes.update({row: Forked(kit) for row in rows})
    if (child := os.fork()) == 0:
        os._exit(len(done))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(rows)
    assert done == []


def test_fastobs_imports_no_library_for_its_adapters() -> None:
    """Neither on import nor by instrument()."""
    loaded = run(
        f"""
import sys
from fastapi import FastAPI
import fastobs
fastobs.instrument(FastAPI())
print([name for name in {OPTIONAL} if name in sys.modules])
"""
    )

    assert loaded.strip() == "[]"


@pytest.mark.parametrize("library", OPTIONAL)
def test_a_library_that_is_imported_later_is_adapted(library: str) -> None:
    """Its import is noticed, works as always, and nothing of ours stays behind."""
    told = run(
        f"""
import importlib.util, sys
from fastapi import FastAPI
import fastobs
handle = fastobs.instrument(FastAPI())
assert importlib.util.find_spec({library!r}) is not None   # asking is not importing
import {library}
print([row.library for row in handle._process.probes._attached])
print(type({library}.__spec__.loader).__name__, type({library}.__loader__).__name__)
handle.uninstrument()
print([type(finder).__name__ for finder in sys.meta_path if type(finder).__name__ == "Arrivals"])
"""
    )
    attached, loaders, finders = told.splitlines()

    assert repr(library) in attached
    assert loaders == "SourceFileLoader SourceFileLoader"
    assert finders == "[]"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library that nobody has imported yet."""
    (tmp_path / "a_new_library.py").write_text("DONE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_new_library"
    sys.modules.pop("a_new_library", None)


def test_an_arrival_is_told_once_the_module_has_run(library: str) -> None:
    """And once only, for what was expected only."""
    told: list[Any] = []
    arrivals = Arrivals(lambda name: told.append((name, sys.modules[name].DONE)))
    arrivals.expect("no_such_library")
    arrivals.expect(library)

    module = importlib.import_module(library)
    importlib.reload(module)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_library")

    assert told == [(library, True)]
    arrivals.stop()
    arrivals.stop()
    assert arrivals not in sys.meta_path


def test_the_loader_of_an_expected_module_can_be_asked_as_always(library: str) -> None:
    """Who asks where the source is gets the answer of the real one."""
    arrivals = Arrivals(lambda name: None)
    arrivals.expect(library)
    spec = importlib.util.find_spec(library)

    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_source(library) == "DONE = True\n"  # type: ignore[attr-defined]
    module = ModuleType(library)
    module.__spec__ = None
    spec.loader.exec_module(module)
    assert module.DONE
    arrivals.stop()


class Stub(Probe):
    """An adapter that says what it is asked."""

    kinds = (SimpleNamespace,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.calls: list[Any] = []

    def attach(self, settings: Any) -> None:
        self.calls.append("attach")

    def detach(self) -> None:
        self.calls.append("detach")

    def found(self, obj: Any, name: str) -> None:
        self.calls.append(name)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, library: str) -> Any:
    """Puts an adapter for the new library into the table."""
    module: Any = ModuleType("fastobs.probes.stub")
    module.made = []

    def make(kit: Kit) -> Probe:
        module.made.append(getattr(module, "kind", Stub)(kit))
        probe: Probe = module.made[-1]
        return probe

    module.probe = make
    monkeypatch.setitem(sys.modules, "fastobs.probes.stub", module)
    row = Adapter(library, "caches", ".stub", "a stub")
    monkeypatch.setattr(seam, "ADAPTERS", (*ADAPTERS, row))
    return module


@pytest.fixture
def fresh() -> Iterator[Probes]:
    probes = Probes(Meters())
    yield probes
    probes.detach()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_an_adapter_lives_while_its_library_is_there_and_an_app_is(
    stub: Any, fresh: Probes, library: str
) -> None:
    """Made with the import, attached once however many apps there are, detached with the last."""
    fresh.attach(load(None, {}))
    assert stub.made == []

    importlib.import_module(library)
    fresh.attach(load(None, {}))
    fresh.detach()

    (made,) = stub.made
    assert [call for call in made.calls if "." not in call] == ["attach", "detach"]


def test_a_family_that_is_switched_off_has_no_adapters(
    stub: Any, fresh: Probes, library: str
) -> None:
    """Its settings are None; status() says so."""
    importlib.import_module(library)
    fresh.attach(load(None, {"caches": None}))

    assert stub.made == []
    assert "caches\n  switched off by caches=None" in fresh.status()


def test_of_several_apps_one_is_enough(stub: Any, fresh: Probes, library: str) -> None:
    """What the other one has switched off is still watched; after both are gone all begins anew."""
    importlib.import_module(library)
    fresh.attach(load(None, {}))
    fresh.attach(load(None, {"caches": None}))
    both = fresh.status()
    fresh.detach()
    fresh.attach(load(None, {"caches": None}))

    assert "switched off" not in both
    assert "switched off by caches=None" in fresh.status()


@pytest.mark.usefixtures("contained_errors")
def test_a_library_that_an_adapter_does_not_understand_is_left_alone(
    stub: Any, fresh: Probes, library: str
) -> None:
    """A release that looks different: the app starts, the error is counted, status() tells.

    What was hooked before the error is taken out, else each app would hook it once more.
    """

    class Broken(Stub):
        def attach(self, settings: Any) -> None:
            super().attach(settings)
            message = "no such method"
            raise AttributeError(message)

    stub.kind = Broken
    importlib.import_module(library)
    fresh.attach(load(None, {}))

    assert "a_new_library: its adapter could not be attached: AttributeError(" in fresh.status()
    assert stub.made[0].calls == ["attach", "detach"]


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize(
    ("release", "attached"), [("5.1.9", False), ("5.2", True), ("5.10.1", True), ("6.0rc1", True)]
)
def test_a_release_that_is_too_old_is_left_alone(
    stub: Any,
    fresh: Probes,
    library: str,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    attached: bool,
) -> None:
    """It would be attached to, and counted wrong; status() says so."""
    row = seam.ADAPTERS[-1]
    monkeypatch.setattr(seam, "ADAPTERS", (row._replace(oldest="5.2"),))
    monkeypatch.setattr(seam, "version", {library: release}.__getitem__)
    importlib.import_module(library)
    fresh.attach(load(None, {}))
    status = fresh.status()

    assert [probe.calls[0] for probe in stub.made] == ["attach"] * attached
    assert ("5.1.9 is older than 5.2, from which on it is understood" in status) != attached


def test_a_library_that_does_not_tell_its_release_is_adapted(
    stub: Any, fresh: Probes, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be frozen into one file with the app."""
    row = seam.ADAPTERS[-1]
    monkeypatch.setattr(seam, "ADAPTERS", (row._replace(oldest="5.2"),))
    importlib.import_module(library)
    fresh.attach(load(None, {}))

    assert stub.made[0].calls[0] == "attach"


@pytest.mark.usefixtures("contained_errors")
def test_an_adapter_that_fails_does_not_take_the_others_with_it(
    stub: Any, fresh: Probes, library: str, loop: asyncio.AbstractEventLoop
) -> None:
    """Not when it is asked, nor when it finds, nor when it is detached."""

    class Broken(Stub):
        def fail(self, *_: Any) -> Any:
            raise RuntimeError

        detach = found = read = on_loop = watch = fail  # type: ignore[assignment]

    stub.kind = Broken
    importlib.import_module(library)
    fresh.attach(load(None, {}))
    fresh.meters.refresh()
    fresh.on_loop(loop)
    fresh.watch(SimpleNamespace(), "thing")
    fresh.detach()

    assert fresh.meters.rows(catalogue.PROCESS_CPU)


def test_what_was_imported_since_is_looked_at_before_the_next_answer(
    stub: Any, fresh: Probes, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new module may hold what nobody has used yet."""
    importlib.import_module(library)
    fresh.attach(load(None, {}))
    later: Any = ModuleType("later")
    later.__file__ = "/srv/app/later.py"
    later.thing = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "later", later)

    fresh.meters.refresh()

    assert "later.thing" in stub.made[0].calls


def test_ever_new_objects_are_not_searched_for_for_ever(
    fresh: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine per request would have each request search all variables."""
    searches: list[int] = []
    monkeypatch.setattr(fresh, "discover", lambda: searches.append(1))
    for _ in range(seam.LOOKS + 5):
        fresh._look()

    assert len(searches) == seam.LOOKS


def test_watch_names_what_it_knows_when_it_is_given_something_else() -> None:
    """The remedy comes last."""
    with pytest.raises(TypeError) as raised:
        fastobs.watch({})

    assert "cannot watch builtins.dict" in str(raised.value)
    assert "Engine, AsyncEngine, sessionmaker or Pool of SQLAlchemy" in str(raised.value)
    assert "use fastobs.cache(name)" in str(raised.value)


def test_a_probe_answers_nothing_until_it_is_taught_to(
    fresh: Probes, loop: asyncio.AbstractEventLoop
) -> None:
    """An adapter defines only what its library can answer."""
    probe = Probe(Kit(meters=fresh.meters, names=Names(), look=lambda: None))
    probe.attach(load(None, {}))
    probe.found(1, "one")
    probe.on_loop(loop)
    probe.detach()

    assert probe.kinds == ()
    assert probe.watch(1, None) is False
    assert [*probe.read(), *probe.status(), *probe.unwatchable()] == []


def test_status_is_part_of_the_handle(observed: Any) -> None:
    """Every family is there, also when there is nothing in it."""
    handle = observed(FastAPI())

    lines = [line for line in handle.status().splitlines() if not line.startswith(" ")]
    assert {"runtime", "pools", "caches", "limits"} <= set(lines)


class Thing:
    """Somebody's resource."""


class Holder:
    """Somebody's object that has one."""

    next: Holder

    def __init__(self) -> None:
        self.thing = Thing()


class Slotted:
    __slots__ = ("thing",)

    def __init__(self) -> None:
        self.thing = Thing()


class Shy:
    """A proxy that fails when it is asked anything, like those of Werkzeug outside of a request."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return None


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of an app: first somebody imports the thing, then comes the one that made it."""
    thing = Thing()
    for name, source in (
        ("an_app_importer", "from an_app import thing\n"),
        ("an_app", "thing: Thing = Thing()\n"),
        ("an_app_without_source", None),
    ):
        module: Any = ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        module.thing = thing
        if source is not None:
            Path(module.__file__).write_text(source)
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["an_app"]


def _of_the_app(found: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    return {name: obj for name, obj in found if name.startswith("an_app")}


def test_a_variable_is_called_after_the_module_that_assigns_it(module: Any) -> None:
    """Not after one that imports it."""
    assert _of_the_app(variables((Thing,))) == {"an_app.thing": module.thing}


def test_attributes_and_the_apps_state_are_looked_into(module: Any) -> None:
    """Of the app's own objects, two levels deep; of others nothing is touched."""
    app = FastAPI()
    app.state.thing = Thing()
    module.app, module.holder = app, Holder()
    module.holder.next = Holder()
    module.holder.next.next = Holder()
    module.orphan = type("Orphan", (), {"__module__": "gone"})()
    module.slotted, module.shy, module.plain = Slotted(), Shy(), {"thing": Thing()}
    module.unset = Slotted.__new__(Slotted)

    assert set(_of_the_app(variables((Thing,)))) == {
        "an_app.thing",
        "an_app.holder.thing",
        "an_app.holder.next.thing",
        "an_app.slotted.thing",
        "an_app.app.state.thing",
    }


CLASSES = """
def decorated():
    def function(*_): ...
    function.cache = Thing()
    return function

class Shop:
    thing = Thing()
    method, static, bound = decorated(), staticmethod(decorated()), classmethod(decorated())
    price = property(decorated())
    alias = Holder

    def plain(self): ...

    class Inner:
        thing = Thing()
"""


def test_what_a_class_holds_is_called_after_it(module: Any) -> None:
    """Of methods the function, if a decorator has left something on it; not of classes that were only
    imported."""
    module.Thing, module.Holder = Thing, type("Holder", (), {"thing": Thing()})
    exec(CLASSES, vars(module))

    assert set(_of_the_app(variables((Thing, FunctionType)))) == {
        "an_app.thing",
        "an_app.Shop.thing",
        "an_app.Shop.method",
        "an_app.Shop.static",
        "an_app.Shop.bound",
        "an_app.Shop.price",
        "an_app.Shop.Inner.thing",
    }


def test_a_variable_of_its_own_names_it_before_any_attribute(module: Any) -> None:
    """Such as the state of an app that was made first."""
    Path(module.__file__).write_text("app = FastAPI()\nthing = Thing()\n")
    del module.thing
    module.app, module.thing = FastAPI(), Thing()
    module.app.state.thing = module.thing

    assert [name for name, obj in variables((Thing,)) if obj is module.thing] == ["an_app.thing"]


def test_a_variable_whose_origin_cannot_be_told_is_called_after_the_first(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a source to read."""
    monkeypatch.delitem(sys.modules, "an_app")

    assert set(_of_the_app(variables((Thing,)))) == {"an_app_importer.thing"}


def test_installed_modules_and_ours_are_not_searched() -> None:
    """Their caches are not the app's."""
    found = dict(variables((ModuleType,)))

    assert not {name.partition(".")[0] for name in found} & {"fastobs", "pytest", "asyncio"}


def test_an_app_that_is_installed_like_a_library_is_searched(tmp_path: Path) -> None:
    """As in many images: by the package from which instrument() was called, even if it was looked at
    before."""
    shop = tmp_path / "site-packages" / "a_shop"
    shop.mkdir(parents=True)
    (shop / "__init__.py").write_text("")
    (shop / "caches.py").write_text(
        """
from functools import lru_cache
from cachetools import LRUCache
prices = LRUCache(maxsize=3)
@lru_cache
def discount(): ...
"""
    )
    (shop / "api.py").write_text(
        """
from fastapi import FastAPI
import fastobs
from .caches import discount, prices
from fastobs.probes._sites import call_site, written
app = FastAPI()
before = written(call_site())
fastobs.watch(prices)
handle = fastobs.instrument(app)
after = written(call_site())
"""
    )
    told = run(
        f"""
import sys
sys.path.insert(0, {str(shop.parent)!r})
from a_shop import api
print(f"[{{api.before}}] {{api.after}}")
print(api.handle.status())
"""
    )

    assert "\n  a_shop.caches.prices: cachetools LRUCache\n" in told
    assert "\n  a_shop.caches.discount: cached function (functools)\n" in told
    assert told.splitlines()[0] == "[] a_shop/api.py:10"


def test_an_app_and_a_cache_that_were_there_before_are_found(
    module: Any, observed: Any, meters: Meters
) -> None:
    """From instrument() to /metrics."""
    module.cache = LRUCache(maxsize=3)
    app = FastAPI()
    observed(app)
    with TestClient(app) as client:
        exposed = client.get("/metrics").text

    assert 'fastobs_cache_max_entries{cache="an_app.cache",worker="0"} 3.0' in exposed


def test_what_an_app_of_a_factory_holds_is_counted_from_its_first_request_on(
    module: Any, observed: Any, meters: Meters
) -> None:
    """It is in no variable, and what it holds may come with the start-up. What is in a variable all the
    same is called after that."""

    @asynccontextmanager
    async def start_up(app: FastAPI) -> AsyncIterator[None]:
        app.state.late = LRUCache(2)
        yield

    app = FastAPI(lifespan=start_up)
    app.state.early = LRUCache(1)
    app.state.kept = module.kept = LRUCache(3)
    app.get("/")(lambda: [app.state[name].get("a") for name in ("early", "late", "kept")])
    observed(app)
    with TestClient(app) as client:
        client.get("/")
    meters.refresh()

    misses = {
        row.values[0]: row.cells[row.at]
        for row in meters.rows(catalogue.CACHE_REQUESTS)
        if row.values[1] == "miss" and row.values[0].startswith(("app.", "an_app."))
    }
    assert misses == {"app.state.early": 1, "app.state.late": 1, "an_app.kept": 1}


def test_a_name_is_one_owners() -> None:
    """Until it is gone."""
    names = Names()
    first, second = Thing(), Thing()

    assert names.claim(first, "a") == "a"
    assert names.claim(first, "a") == "a"
    assert names.claim(second, "a") == "a#2"
    del first
    assert names.claim(second, "a") == "a"


def test_readings_of_all_adapters_are_told_together(fresh: Probes) -> None:
    """One reader for the meters, whatever is attached."""
    fresh.attach(load(None, {}))

    assert catalogue.PROCESS_CPU in {reading.metric for reading in fresh.read()}
