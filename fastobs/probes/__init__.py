"""What teaches fastobs a library: one adapter each, found by the module it is for.

A family (pools, caches, limits, runtime) is a question, with its series, panels, alerts and runbook;
an adapter answers it for one library. A new library is one file here, one test, and one row in
`ADAPTERS`. Adapters do not know each other, and nobody imports their library for them: they are
loaded when the app has imported it, or as soon as it does. See docs/adding-a-probe.md.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary, ref

from starlette.applications import Starlette

from fastobs._contain import contain, contained
from fastobs._health import Check
from fastobs.cells import Meters, Reading
from fastobs.config import Settings

from ._imports import Arrivals
from ._names import Label, Names, forget_owners, variables
from ._sites import forget_files

if TYPE_CHECKING:
    from .hand import CacheProbe, LimiterProbe

__all__ = ["ADAPTERS", "Adapter", "Kit", "Probe", "Probes"]

logger = logging.getLogger("fastobs")


class Adapter(NamedTuple):
    """A row of `ADAPTERS`."""

    library: str
    """The top-level module that brings the adapter to life."""
    family: str
    """Also the section of the settings that switches it off."""
    module: str
    """In this package; it has a function ``probe(kit)``."""
    supports: str
    """What `fastobs.watch` takes; empty if there is nothing to hand over."""
    oldest: str = ""
    """The release from which on it is understood, where an older one could be attached to and would
    be counted wrong; it is left alone."""


ADAPTERS = (
    Adapter("asyncio", "runtime", ".runtime", ""),
    # Starlette does not run without anyio.
    Adapter("asyncio", "runtime", ".threads", ""),
    # The kernel is always there.
    Adapter("asyncio", "runtime", ".accepts", ""),
    Adapter("fastapi", "runtime", ".fastapi", ""),
    Adapter(
        "sqlalchemy",
        "pools",
        ".sqlalchemy",
        "Engine, AsyncEngine, sessionmaker or Pool of SQLAlchemy",
        oldest="2.0",
    ),
    Adapter("httpx", "pools", ".httpx", "Client or AsyncClient of httpx"),
    Adapter("httpx2", "pools", ".httpx", "Client or AsyncClient of httpx2"),
    Adapter("aiohttp", "pools", ".aiohttp", "ClientSession of aiohttp"),
    Adapter("asyncpg", "pools", ".asyncpg", "Pool of asyncpg"),
    Adapter("psycopg", "pools", ".psycopg", ""),
    Adapter(
        "psycopg_pool",
        "pools",
        ".psycopg_pool",
        "ConnectionPool or AsyncConnectionPool of psycopg_pool",
    ),
    Adapter(
        "redis",
        "pools",
        ".redis",
        "Redis, RedisCluster or ConnectionPool of redis-py, sync or asyncio",
        oldest="5.2",
    ),
    # What it learns from are the commands that the one above sees.
    Adapter("redis", "caches", ".redis_cache", "", oldest="5.2"),
    Adapter(
        "pymongo",
        "pools",
        ".pymongo",
        "MongoClient or AsyncMongoClient of pymongo, made after instrument() or with "
        "event_listeners=[fastobs.probes.pymongo.Listener()]",
    ),
    Adapter(
        "cachetools",
        "caches",
        ".cachetools",
        "a cache or a cached function of cachetools",
        oldest="5.5",
    ),
    # Of the standard library, so it is always there, as asyncio is; after cachetools, whose functions
    # count in the same way.
    Adapter(
        "functools", "caches", ".functools", "a function with lru_cache, alru_cache or cachebox"
    ),
    Adapter("aiocache", "caches", ".aiocache", "a cache or a cached function of aiocache"),
    Adapter("cashews", "caches", ".cashews", "Cache of cashews"),
    Adapter("dogpile.cache", "caches", ".dogpile", "CacheRegion of dogpile.cache"),
    Adapter("fastapi_cache", "caches", ".fastapi_cache", ""),
    Adapter("limits", "limits", ".limits", "a strategy of limits"),
    Adapter("slowapi", "limits", ".slowapi", "Limiter of slowapi"),
    Adapter("pyrate_limiter", "limits", ".pyrate_limiter", "Limiter of pyrate-limiter"),
    Adapter("guard_core", "limits", ".fastapi_guard", ""),
)


Tell = Callable[[tuple[str, dict[str, object]]], None]
"""Has a line logged, given as its level and its fields; never waits."""


def _nobody(line: tuple[str, dict[str, object]], /) -> None:
    """Logs nothing."""


LOOKS = 100
"""How often a probe may have the variables searched; who makes more objects makes them from data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What a probe gets to work with."""

    meters: Meters
    names: Names
    """The names of its family."""
    look: Callable[[], None]
    """Have the app's variables searched: `Probe.found` is called with what they hold."""
    tell: Tell = _nobody
    """Where lines of the log go."""
    library: str = ""
    """The module that brought the adapter to life: one adapter may serve twins."""


class Probe:
    """Teaches fastobs one library; a subclass answers what its library can.

    Made when it is needed first, attached while an app is instrumented, and then asked for readings
    whenever metrics are shown. A hook must never raise (see `fastobs._contain`), and costs next to
    nothing outside a request.
    """

    def __init__(self, kit: Kit) -> None:
        self.kit = kit

    @property
    def kinds(self) -> tuple[type, ...]:
        """Types of objects that are worth finding in variables."""
        return ()

    def attach(self, settings: Settings) -> None:
        """Hook the library, at class level: objects that exist already must be seen."""

    def detach(self) -> None:
        """Take out every hook."""

    def begin_anew(self) -> None:
        """In a forked child: who waits for something or holds it is in the parent.

        What was counted stays counted, or is not. Locks may be held by threads that do not exist.
        """

    def watch(self, obj: Any, name: str | None) -> bool:  # noqa: ARG002
        """Watch what the user hands over; False if it is none of this library's."""
        return False

    def found(self, obj: Any, name: str) -> None:
        """A variable of the app holds an object of our `kinds`."""

    def on_loop(self, loop: AbstractEventLoop) -> None:
        """An event loop serves requests; called on it, and perhaps more than once."""

    def read(self) -> Iterable[Reading]:
        """The readings now; called from any thread, and must not block."""
        return ()

    def checks(self) -> Iterator[Check]:
        """How to find out whether what is watched answers."""
        yield from ()

    def status(self) -> Iterator[tuple[str, str]]:
        """What is watched: its name, and what it is."""
        yield from ()

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        """What was found and cannot be watched as it is: its name, and the line to add."""
        yield from ()

    def unknown(self) -> str:
        """What this release of the library hides, as a sentence; empty if nothing.

        Asked when the probe has been attached: what cannot be known is absent, and said to be.
        """
        return ""


class ReleaseError(Exception):
    """A release of a library that its adapter does not understand."""


def _check_release(row: Adapter) -> None:
    """Raise if the library is older than what the adapter understands."""
    if not row.oldest:
        return
    try:
        found = version(row.library)
    except PackageNotFoundError:
        # Frozen into one file, as it were; nobody can say.
        return
    if _numbers(found) < _numbers(row.oldest):
        msg = f"{row.library} {found} is older than {row.oldest}, from which on it is understood"
        raise ReleaseError(msg)


def _numbers(release: str) -> tuple[int, ...]:
    """What of a release can be compared; ``2.1.0rc1`` is nearly 2.1."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


class Probes:
    """The adapters of this process."""

    def __init__(
        self,
        meters: Meters,
        tell: Tell = _nobody,
    ) -> None:
        self.meters = meters
        self._tell = tell
        self._names: dict[str, Names] = {}
        self._labels: dict[str, WeakValueDictionary[str, Label]] = {}
        self._reserved: list[Label] = []
        self._written: WeakValueDictionary[str, CacheProbe] = WeakValueDictionary()
        self._probes: dict[Adapter, Probe] = {}
        self._attached: dict[Adapter, Probe] = {}
        self._failed: dict[Adapter, Exception] = {}
        self._unknown: dict[Adapter, str] = {}
        self._off: set[str] = set()
        self._settings: Settings | None = None
        self._arrivals = Arrivals(self._arrived)
        self._apps: list[ref[Starlette]] = []
        self._searched = self._looks = 0
        self._lock = threading.RLock()
        _all.add(self)

    def attach(self, settings: Settings, app: Starlette | None = None) -> None:
        """Attach to the libraries that are there, and be ready for those that come later.

        Args:
            settings: What is wanted.
            app: For which; what its state holds is found.
        """
        with self._lock:
            if app is not None:
                there = [known for known in self._apps if known() is not None]
                self._apps = [*there, ref(app)]
            # The app that is instrumented now may be an installed package.
            forget_owners()
            forget_files()
            off = {row.family for row in ADAPTERS if getattr(settings, row.family) is None}
            # Of several apps one is enough to have a family watched.
            self._off = off if self._settings is None else self._off & off
            self._settings = settings
            for row in ADAPTERS:
                if row.family in off:
                    continue
                if row.library in sys.modules:
                    self._start(row)
                else:
                    self._arrivals.expect(row.library)
            self.discover()
            self.meters.ask(self)

    def detach(self) -> None:
        """Take out every hook; what was counted stays counted."""
        with self._lock:
            self._arrivals.stop()
            self.meters.forget(self)
            for row, probe in reversed(self._attached.items()):
                with contained(f"probes{row.module}"):
                    probe.detach()
            self._attached.clear()
            self._settings = None

    def begin_anew(self) -> None:
        """In a forked child: what is under way is the parent's."""
        self._lock = threading.RLock()
        for row, probe in list(self._probes.items()):
            with contained(f"probes{row.module}"):
                probe.begin_anew()

    def watch(self, obj: Any, name: str | None) -> None:
        """Have an object watched, before or after an app is instrumented.

        Raises:
            TypeError: No adapter knows it.
        """
        failed = False
        for row in ADAPTERS:
            if row.supports and row.library in sys.modules:
                try:
                    if self._probe(row).watch(obj, name):
                        return
                except Exception as error:
                    failed = True
                    contain(f"probes{row.module}", error)
        if failed:
            # Perhaps it was that one's; an error of ours is no reason to refuse.
            return
        known = "; ".join(row.supports for row in ADAPTERS if row.supports)
        msg = (
            f"fastobs cannot watch {type(obj).__module__}.{type(obj).__qualname__}. It knows: {known}. "
            "For a cache or a limiter of your own, use fastobs.cache(name) or fastobs.limiter(name)."
        )
        raise TypeError(msg)

    def reserve(self, family: str, name: str) -> None:
        """Somebody else counts under this name: nothing that is watched may be called so."""
        self._reserved.append(Label(self._names_of(family), name))

    def cache(self, name: str) -> CacheProbe:
        """A probe for a cache written by hand; whoever gives the same name has the same one."""
        from .hand import CacheProbe

        with self._lock:
            probe = self._written.get(name)
            if probe is None:
                label = self._by_hand("caches", name)
                probe = CacheProbe(label, lambda: self._meters_of("caches"), self._tell)
                self._written[name] = probe
            return probe

    def limiter(self, name: str) -> LimiterProbe:
        """A probe for a limiter written by hand."""
        from .hand import LimiterProbe

        return LimiterProbe(self._by_hand("limits", name), lambda: self._meters_of("limits"))

    def on_loop(self, loop: AbstractEventLoop) -> None:
        """An event loop serves requests; called on it."""
        for row, probe in list(self._attached.items()):
            with contained(f"probes{row.module}"):
                probe.on_loop(loop)

    def read(self) -> Iterator[Reading]:
        """Everything that the adapters can tell now."""
        if self._searched != len(sys.modules):
            # Something was imported: its variables may hold what nobody has used yet.
            self.discover()
        for row, probe in list(self._attached.items()):
            with contained(f"probes{row.module}"):
                yield from probe.read()

    def checks(self) -> Iterator[Check]:
        """Everything whose health can be asked."""
        for row, probe in list(self._attached.items()):
            with contained(f"probes{row.module}"):
                yield from probe.checks()

    def discover(self) -> None:
        """Search the app's variables for what can be watched."""
        with self._lock:
            self._searched = len(sys.modules)
            attached = list(self._attached.items())
            kinds = tuple({kind for _, probe in attached for kind in probe.kinds})
            apps = [app for known in self._apps if (app := known()) is not None]
            for name, obj in variables(kinds, apps):
                for row, probe in attached:
                    if issubclass(type(obj), probe.kinds):
                        with contained(f"probes{row.module}"):
                            probe.found(obj, name)

    def watched(self, family: str) -> list[tuple[str, str]]:
        """What is watched of a family: its name, and what it is."""
        rows = [row for row in self._attached if row.family == family]
        found = [entry for row in rows for entry in self._attached[row].status()]
        labels = list(self._labels.get(family, {}).values())
        return [*found, *((label.name, "written by hand") for label in labels)]

    def status(self) -> str:
        """What is watched under which name, what cannot be and the line to add; for people."""
        self.discover()
        lines: list[str] = []
        missing: list[tuple[str, str]] = []
        for family in dict.fromkeys(row.family for row in ADAPTERS):
            lines.append(family)
            if family in self._off:
                lines.append(f"  switched off by {family}=None")
                continue
            rows = [row for row in self._attached if row.family == family]
            watched = self.watched(family)
            lines.extend(f"  {name}: {what}" for name, what in watched)
            if not watched:
                lines.append("  nothing found yet")
            missing.extend(entry for row in rows for entry in self._attached[row].unwatchable())
        missing.extend((row.library, told) for row, told in self._unknown.items() if told)
        missing.extend(
            (row.library, f"its adapter could not be attached: {error!r}")
            for row, error in self._failed.items()
        )
        if missing:
            lines.append("found, but not watched")
            lines.extend(f"  {name}: {line}" for name, line in missing)
        return "\n".join(lines)

    def _start(self, row: Adapter) -> None:
        assert self._settings is not None
        if row in self._attached:
            return
        probe = None
        try:
            _check_release(row)
            probe = self._probe(row)
            probe.attach(self._settings)
            unknown = probe.unknown()
        except Exception as error:
            # A release of the library that we do not know yet: the app goes on without this adapter,
            # and without the hooks that were in by then.
            self._failed[row] = error
            contain(f"probes{row.module}", error)
            if probe is not None:
                with contained(f"probes{row.module}"):
                    probe.detach()
        else:
            self._failed.pop(row, None)
            self._attached[row] = probe
            if unknown and self._unknown.get(row) != unknown:
                logger.warning("fastobs: %s: %s", row.library, unknown)
            self._unknown[row] = unknown

    def _probe(self, row: Adapter) -> Probe:
        with self._lock:
            if row not in self._probes:
                kit = Kit(
                    meters=self.meters,
                    names=self._names_of(row.family),
                    look=self._look,
                    tell=self._tell,
                    library=row.library,
                )
                self._probes[row] = import_module(row.module, __package__).probe(kit)
            return self._probes[row]

    def _look(self) -> None:
        # It takes milliseconds, and a request waits for it: not for ever new objects.
        if self._looks < LOOKS:
            self._looks += 1
            self.discover()

    def _arrived(self, library: str) -> None:
        with contained("probes"), self._lock:
            for row in ADAPTERS:
                if row.library == library:
                    self._start(row)

    def _names_of(self, family: str) -> Names:
        return self._names.setdefault(family, Names())

    def _by_hand(self, family: str, name: str) -> Label:
        """What all probes of this name count under; something that is watched may have it already."""
        with self._lock:
            labels = self._labels.setdefault(family, WeakValueDictionary())
            label = labels.get(name)
            if label is None:
                label = labels[name] = Label(self._names_of(family), name)
            return label

    def _meters_of(self, family: str) -> Meters:
        """Where a probe written by hand counts; nowhere visible if its family is switched off."""
        return Meters() if family in self._off else self.meters


_all: WeakSet[Probes] = WeakSet()


def _after_fork() -> None:
    for probes in list(_all):
        probes.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
