"""What is asked of every adapter, whatever library it is for.

Each row of `ADAPTERS` has a class beside the adapter's own tests, below one of the classes here. It
says how the library is used; the questions are the same for all. What is particular to a library is
asked in its own tests.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import threading
from abc import ABC, abstractmethod
from asyncio import to_thread
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial, wraps
from inspect import iscoroutinefunction
from itertools import count
from types import CodeType
from typing import Any
from weakref import ref

import pytest

from fastobs import catalogue, watch
from fastobs import probes as seam
from fastobs._decisions import decisions
from fastobs._exchange import Exchange
from fastobs._process import Process
from fastobs.cells import Meters
from fastobs.cells.meters import Histogram
from fastobs.cells.render import render
from fastobs.cells.store import MemoryStore
from fastobs.probes import Adapter
from tests.driving import Clock, call, values
from tests.parts import PATIENCE

from .gate import Gate
from .turns import STEP, Turns, take_turns
from .upstream import Upstream, going_on, request
from .waiting import until

__all__ = [
    "SECRET",
    "CacheContract",
    "ClientContract",
    "Contract",
    "LimiterContract",
    "Named",
    "PoolContract",
    "contract_url",
    "subscribed",
]

Read = Callable[..., dict[tuple[str, ...], float]]

SECRET = "hunter2"
"""In every address, key and identifier that the subscribers use."""

COUNTER = count()
"""For keys that nobody has used yet."""

SIZES = [
    each
    for each in catalogue.CATALOGUE.values()
    if each.kind == "gauge" and {"cache", "client", catalogue.POOL} & {*each.labels}
]
"""What is told of an object by its name."""

CONTAINING = {"contain", "contained", "timed", "asks", "answered", "_ask", "_collected"}
"""What of ours may be called without a net, or on a thread of its own: it is one."""


SEAM = {f"fastobs.probes.{name}" for name in ("_hooks", "_server", "_repeats", "_sites")}
"""What has tests of its own for that."""


class Place:
    """An attribute of a module or a class, which may be hooked."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"

    @property
    def _key(self) -> tuple[int, str]:
        # Some classes cannot be hashed, or are equal to others.
        return id(self.owner), self.name

    @property
    def value(self) -> Any:
        return vars(self.owner).get(self.name)

    @contextmanager
    def holding(self, value: Any) -> Iterator[None]:
        before = self.value
        setattr(self.owner, self.name, value)
        try:
            yield
        finally:
            setattr(self.owner, self.name, before)


def hookable(packages: tuple[str, ...]) -> dict[Place, Any]:
    """Every attribute of the packages' modules and classes, and its value.

    Without numbers: libraries count in some of them, on other threads, too.
    """
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages:
            kinds = [value for value in list(vars(module).values()) if isinstance(value, type)]
            own = [kind for kind in kinds if kind.__module__.partition(".")[0] in packages]
            for owner in (module, *own):
                found.update(
                    {
                        Place(owner, key): value
                        for key, value in list(vars(owner).items())
                        if not isinstance(value, int | float)
                    }
                )
    return found


def ours(value: Any) -> bool:
    """Whether it is a hook."""
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return isinstance(code, CodeType) and f"{os.sep}fastobs{os.sep}probes" in code.co_filename


def breakable(probe: Any) -> Iterator[Place]:
    """Everything of ours that an adapter's modules call by a name which can be replaced."""
    adapter = sys.modules[type(probe).__module__]
    origins = {getattr(value, "__module__", "") for value in vars(adapter).values()}
    shared = {each for each in origins if each and each.startswith("fastobs.probes._")}
    for module in (adapter, *(sys.modules[each] for each in sorted(shared - SEAM))):
        called = _called(module)
        for name, value in sorted(vars(module).items()):
            made_here = getattr(value, "__module__", "") or ""
            if name in called - CONTAINING and (
                (callable(value) and made_here.startswith("fastobs")) or value is ref
            ):
                yield Place(module, name)


def _called(module: Any) -> set[str]:
    """The names that the functions of a module look up."""
    names: set[str] = set()
    codes = [compile(inspect.getsource(module), module.__file__, "exec")]
    for code in codes:
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
        # What the module itself and its classes look up is looked up already.
        if code.co_flags & inspect.CO_OPTIMIZED:
            names.update(code.co_names)
    return names


def broken(*_: Any, **__: Any) -> Any:
    """In the place of something of ours."""
    raise ZeroDivisionError


class Contract(ABC):
    """One adapter: that it counts what happens, and is otherwise not there."""

    row: tuple[str, str]
    """The library and the module of its row."""
    packages: tuple[str, ...] | None = None
    """Where it has its hooks, if that is not the library."""
    plain: frozenset[str] = frozenset()
    """Classes of the adapter that are too simple to fail."""
    inner: tuple[str, ...] = ()
    """Methods of the adapter that may fail like what it calls by name."""
    name = "shop"
    """What it is called in its series."""
    part = ""
    """The part of a request's time that an event is; empty if it takes none."""
    counts = True
    """Whether events are counted one by one."""
    since = 0
    """How many are counted of one that was before the probes."""
    hooks = True
    """Whether the library is hooked at all; some can just be asked."""

    @pytest.fixture
    def place(self) -> str:
        """Where what it needs is: the address of a server."""
        return ""

    @abstractmethod
    def made(self, place: str) -> AbstractAsyncContextManager[Any]:
        """What is watched; the tests make it before the probes are attached."""

    def call(self, it: Any, name: str) -> None:
        """Give it a name."""
        watch(it, name=name)

    @abstractmethod
    async def use(self, it: Any) -> Any:
        """One event that goes well; what the library answers is always the same."""

    async def fail(self, it: Any) -> None:  # noqa: B027 - some libraries never fail
        """One event for which the library has an error of its own, which is caught here."""

    def events(self, read: Read, name: str) -> float:
        """How many events were counted that went well."""
        return 0

    def kept(self, exchange: Exchange) -> float:
        """How many events the request keeps until its end."""
        return 0

    def marks(self, it: Any) -> object:
        """What else but attributes of modules and classes the adapter changes."""
        return None

    @property
    def _adapter(self) -> Adapter:
        (adapter,) = [each for each in seam.ADAPTERS if (each.library, each.module) == self.row]
        return adapter

    @property
    def _packages(self) -> tuple[str, ...]:
        return (self.row[0],) if self.packages is None else self.packages

    def _probe(self, probes: Any) -> Any:
        return probes._attached[self._adapter]

    @pytest.mark.anyio
    async def test_what_was_there_before_is_counted_once(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """Outside and inside of requests, one after the other and many at once."""
        async with self.made(place) as it:
            before = await self.use(it)
            attach()
            self.call(it, self.name)
            answers = [await self.use(it) for _ in range(2)]
            with request("/items/{item}") as exchange:
                answers += [await self.use(it), *await asyncio.gather(*map(self.use, [it] * 8))]

            assert answers == [before] * 11
            if self.counts:
                assert self.events(read, self.name) + self.kept(exchange) == 11 + self.since
            if self.part:
                assert self.part in exchange.parts
            assert exchange.parts == {} or going_on(exchange) == []

    @pytest.mark.anyio
    async def test_every_hook_comes_out_again(self, place: str, attach: Any, read: Read) -> None:
        """One that somebody wrapped meanwhile cannot be taken out, and only passes on."""
        async with self.made(place) as it:
            self.call(it, self.name)
            before, unmarked = hookable(self._packages), self.marks(it)
            probes = attach()
            hooked = {at: at.value for at, value in before.items() if at.value is not value}
            marked = self.marks(it)
            await self.use(it)
            counted = self.events(read, self.name)
            probes.detach()

            assert bool(hooked) or marked != unmarked or not self.hooks
            assert self.marks(it) == unmarked
            assert [at for at in hooked if at.value is not before[at]] == []
            with request("/") as exchange:
                await _wrapped(hooked, lambda: self.use(it))
                await _wrapped(hooked, lambda: self.fail(it))
            assert exchange.parts == {}
            assert self.events(read, self.name) + self.kept(exchange) == counted

    @pytest.mark.anyio
    async def test_what_is_hooked_again_counts_once(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """For a second app, and after all was taken out; also where somebody's wrapper has kept a hook
        of ours in place."""
        async with self.made(place) as it:
            self.call(it, self.name)
            before = hookable(self._packages)
            probes = attach()
            hooked = [at for at, value in before.items() if at.value is not value]
            await self.use(it)
            attach()
            await self.use(it)
            counted = self.events(read, self.name)
            for at in hooked:
                setattr(at.owner, at.name, _passing_on(at.value))
            try:
                probes.detach()
                attach()
                await self.use(it)
                afterwards = self.events(read, self.name)
            finally:
                probes.detach()
                for at in hooked:
                    setattr(at.owner, at.name, before[at])

            assert [counted, afterwards] == ([2, 3] if self.counts else [0, 0])

    @pytest.mark.anyio
    @pytest.mark.usefixtures("contained_errors")
    async def test_an_error_of_ours_stays_ours(
        self,
        place: str,
        attach: Any,
        meters: Meters,
        read: Read,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The library answers as always, whatever of ours is broken; some of it was needed."""
        async with self.made(place) as it:
            expected = await self.use(it)
        probe = self._probe(attach())
        inner = [Place(type(probe), name) for name in self.inner]
        for at in (*breakable(probe), *inner):
            if at.name in self.plain:
                continue
            async with self.made(place) as it:
                with monkeypatch.context() as patch:
                    patch.setattr(at.owner, at.name, broken)
                    self.call(it, str(at))
                    with request("/"):
                        answers = [await self.use(it)]
                        await self.fail(it)
                    answers.append(await self.use(it))
                    read(catalogue.POOL_PENDING)
                assert answers == [expected] * 2, at
                assert set(read(catalogue.POOL_PENDING).values()) <= {0}, at

        assert values(meters, catalogue.SELF_ERRORS) or not self.hooks

    @pytest.mark.anyio
    @pytest.mark.usefixtures("contained_errors")
    async def test_a_release_that_looks_different_is_told_of(
        self, place: str, attach: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        """Without what is hooked nothing is counted wrong and nothing stays hooked; there is one
        warning and a line in the status."""
        families = {row.family for row in seam.ADAPTERS}
        attach = partial(attach, **dict.fromkeys(families - {self._adapter.family}))
        async with self.made(place):
            before = hookable(self._packages)
            probes = attach()
            hooked = [at for at, value in before.items() if at.value is not value]
            probes.detach()
            told = []
            for lacking in (*([at] for at in hooked), hooked):
                with monkeypatch.context() as patch:
                    for at in lacking:
                        patch.delattr(at.owner, at.name)
                    patch.setattr("fastobs._contain._logged", set())
                    probes._unknown.clear()
                    caplog.clear()
                    status = attach().status()
                    probes.detach()
                assert [other for other in hooked if other.value is not before[other]] == []
                _, _, missing = status.partition("found, but not watched")
                lines = [line for line in missing.splitlines() if f"  {self.row[0]}: " in line]
                if lines:
                    told.append(lacking)
                    assert len([r for r in caplog.records if r.name == "fastobs"]) == 1, lacking
            assert hooked in told or not hooked

    @pytest.mark.anyio
    async def test_no_secret_is_told(
        self, place: str, attach: Any, meters: Meters, caplog: Any
    ) -> None:
        """Neither passwords nor keys nor who calls are in a series, the status or the log."""
        async with self.made(place) as it:
            probes = attach()
            await self.use(it)
            with request("/"):
                await self.use(it)
            await self.fail(it)
            told = "".join([probes.status(), *render(meters, openmetrics=False), caplog.text])

        assert SECRET not in told

    @pytest.mark.anyio
    async def test_a_family_that_is_switched_off_has_no_hooks(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """The library is as it was."""
        async with self.made(place) as it:
            self.call(it, self.name)
            before, unmarked = hookable(self._packages), self.marks(it)
            attach(**{self._adapter.family: None})
            await self.use(it)

            after = hookable(self._packages).items()
            hooked = [at for at, value in after if ours(value) and before.get(at) is not value]
            assert hooked == []
            assert self.marks(it) == unmarked
            assert self.events(read, self.name) == 0


def _passing_on(method: Any) -> Any:
    """What other tools make of a method."""
    if not inspect.isfunction(method):
        return method

    @wraps(method)
    def wrapper(*args: Any, **options: Any) -> Any:
        return method(*args, **options)

    return wrapper


async def _wrapped(hooked: dict[Place, Any], use: Callable[[], Any]) -> None:
    """Use it as if somebody had wrapped our hooks before they were taken out."""
    places = [at.holding(hook) for at, hook in hooked.items()]
    for place in places:
        place.__enter__()
    try:
        await use()
    finally:
        for place in places:
            place.__exit__(None, None, None)


class Named(Contract):
    """One adapter whose objects have names."""

    def found(self, variable: str) -> str:
        """What one is called that is in this variable."""
        return variable

    @pytest.mark.anyio
    async def test_it_is_called_as_it_is_given_or_as_its_variable(
        self, place: str, attach: Any, read: Read, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No two have one name. A later name is taken up: what was counted before stays where it is."""
        here = sys.modules[type(self).__module__]
        found = self.found(f"{here.__name__}.a_variable")
        async with (
            self.made(place) as first,
            self.made(place) as second,
            self.made(place) as third,
        ):
            monkeypatch.setattr(here, "a_variable", third, raising=False)
            probes = attach()
            self.call(first, "shop")
            self.call(second, "shop")
            for it in (first, second, third):
                await self.use(it)
            seen = [self.events(read, name) for name in ("shop", "shop#2", found)]
            self.call(second, "renamed")
            await self.use(second)

            assert seen == [1, 1, 1]
            assert [self.events(read, name) for name in ("shop#2", "renamed")] == [1, 1]
            for name in ("shop", "renamed", found):
                assert f"  {name}: " in probes.status()
            sizes = {values for metric in SIZES for values in read(metric)}
            assert [values for values in sizes if "shop#2" in values] == []


class Lines:
    """Keeps what is told to the log."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def put(self, line: tuple[str, dict[str, Any]]) -> None:
        self.kept.append(line[1])


class PoolContract(Named):
    """A pool of connections to a server; `made` with room for one, and empty."""

    part = ""
    gives_up: type[Exception]
    """What it raises for who has waited too long."""
    cancels = True
    """Whether who waits can be cancelled, as tasks can and threads cannot."""
    tells = True
    """Whether a connection that is held for long has a line in the log."""
    remembers = True
    """Whether the pool tells what is out that was taken before anybody looked."""
    inherits = True
    """Whether a forked child's pool tells what was out in its parent."""
    limited = True
    """Whether its server can be asked how many connections it takes."""

    @abstractmethod
    async def acquire(self, it: Any, *, within: float | None = None) -> Any:
        """A connection; `gives_up` is raised if there is none within these seconds."""

    @abstractmethod
    async def release(self, it: Any, connection: Any) -> None:
        """Give it back."""

    async def use(self, it: Any) -> Any:
        connection = await self.acquire(it)
        await self.release(it, connection)
        return True

    async def fail(self, it: Any) -> None:
        connection = await self.acquire(it)
        with pytest.raises(self.gives_up):
            await self.acquire(it, within=0.001)
        await self.release(it, connection)

    def events(self, read: Read, name: str) -> float:
        assert read(catalogue.POOL_USE) == read(catalogue.POOL_WAIT)
        return read(catalogue.POOL_USE).get((name,), 0)

    @pytest.mark.anyio
    async def test_a_connection_is_used_until_it_is_back(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """It is opened once, and idle after that."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            connection = await self.acquire(it)
            during = read(catalogue.POOL_COUNT)
            await self.release(it, connection)
            await self.use(it)

            assert during == {("shop", "used"): 1, ("shop", "idle"): 0}
            assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
            assert read(catalogue.POOL_MAX) == {("shop",): 1}
            assert read(catalogue.POOL_CREATE) == {("shop",): 1}
            assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("shop",): 2}
            assert read(catalogue.POOL_PENDING) == read(catalogue.POOL_TIMEOUTS) == {("shop",): 0}
        gc.collect()

    @pytest.mark.anyio
    async def test_three_requests_wait_for_each_other(
        self, place: str, clock: Clock, meters: Meters, read: Read
    ) -> None:
        """The second for the first and the third for both; the connection is opened once."""
        async with self.made(place) as it:
            self.call(it, "shop")
            turns = Turns()

            async def ask() -> None:
                connection = await self.acquire(it)
                await turns.keep_async()
                await self.release(it, connection)

            exchanges = await take_turns(ask, turns=turns, clock=clock, read=read, pool="shop")
            # Older releases of some do not serve who came first.
            waited = sorted(exchange.parts.get("pool_wait", 0.0) for exchange in exchanges)

            assert waited == pytest.approx([0, STEP, 2 * STEP])
            assert _total(meters, catalogue.POOL_WAIT) == pytest.approx(sum(waited))
            assert _total(meters, catalogue.POOL_USE) == pytest.approx(3 * STEP)
            assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_USE) == {("shop",): 3}
            assert read(catalogue.POOL_CREATE) == {("shop",): 1}
            assert read(catalogue.POOL_PENDING) == {("shop",): 0}

    @pytest.mark.anyio
    async def test_opening_a_connection_is_not_waiting(
        self, place: str, clock: Clock, meters: Meters, read: Read
    ) -> None:
        """However long the server takes for it."""
        with Gate(place) as gate:
            async with self.made(gate.url) as it:
                self.call(it, "shop")
                with request("/") as exchange:
                    asked = asyncio.create_task(self.use(it))
                await until(lambda: gate.waiting)
                clock.now += STEP
                gate.open()
                await asked

                assert _total(meters, catalogue.POOL_WAIT) == 0
                assert _total(meters, catalogue.POOL_CREATE) == pytest.approx(STEP)
                assert exchange.parts.get("pool_wait", 0) == 0
                assert self.events(read, "shop") == read(catalogue.POOL_CREATE)["shop",] == 1

    @pytest.mark.anyio
    async def test_one_gives_up_and_one_is_cancelled(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """An exhausted pool: one timeout is counted, and nobody is pending in the end."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            connection = await self.acquire(it)
            waiting = asyncio.create_task(self.acquire(it)) if self.cancels else None
            await until(lambda: read(catalogue.POOL_PENDING)["shop",] == self.cancels)
            with pytest.raises(self.gives_up):
                await self.acquire(it, within=0.01)
            pending = read(catalogue.POOL_PENDING)
            if waiting is not None:
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            during = read(catalogue.POOL_COUNT)
            await self.release(it, connection)

            assert pending == {("shop",): self.cancels}
            assert read(catalogue.POOL_TIMEOUTS) == {("shop",): 1}
            assert read(catalogue.POOL_PENDING) == {("shop",): 0}
            assert read(catalogue.POOL_WAIT) == {("shop",): 2 + self.cancels}
            assert during == {("shop", "used"): 1, ("shop", "idle"): 0}
            assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
            assert read(catalogue.POOL_USE) == {("shop",): 1}

    @pytest.mark.anyio
    async def test_who_holds_a_connection_is_told_by_route(
        self, place: str, clock: Clock, read: Read
    ) -> None:
        """By the whole template, and for how long; outside of requests there is none."""
        async with self.made(place) as it:
            self.call(it, "shop")
            with request("/v1/items/{item}"):
                connection = await self.acquire(it)
            clock.now += 7
            inside = read(catalogue.POOL_OLDEST)
            await self.release(it, connection)
            connection = await self.acquire(it)
            clock.now += 2
            outside = read(catalogue.POOL_OLDEST)
            await self.release(it, connection)

            assert inside == {("shop", "/v1/items/{item}"): 7}
            assert outside == {("shop", ""): 2}
            assert read(catalogue.POOL_OLDEST) == {}

    @pytest.mark.anyio
    async def test_it_is_asked_whether_it_answers(self, place: str, attach: Any) -> None:
        """On a connection of its own, which is given back; not while requests have them all."""
        async with self.made(place) as it:
            probes = attach()
            self.call(it, "shop")
            await self.use(it)
            (check,) = [check for check in probes.checks() if check.name == "shop"]
            free = check.busy()
            answer = check.ask() if iscoroutinefunction(check.ask) else to_thread(check.ask)
            assert await answer is not False
            connection = await self.acquire(it)
            busy = check.busy()
            await self.release(it, connection)
            await self.use(it)

            assert (free, busy) == (False, True)

    @pytest.mark.anyio
    async def test_the_server_is_asked_how_many_connections_it_takes(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """On a thread and a connection of its own, once the app has reached it; where it says so."""
        async with self.made(place) as it:
            probe = self._probe(attach())
            self.call(it, "shop")
            before = read(catalogue.DB_SERVER_MAX)
            await self.use(it)
            read(catalogue.DB_SERVER_MAX)
            if self.limited:
                await to_thread(probe._asker.join, PATIENCE)

            assert before == {}
            assert set(read(catalogue.DB_SERVER_MAX)) == {("shop",)} & {("shop",) * self.limited}
            assert read(catalogue.POOL_CREATE) == {("shop",): 1}

    @pytest.mark.anyio
    async def test_a_connection_that_is_held_for_long_has_one_line(
        self, place: str, attach: Any, shared: Process, meters: Meters
    ) -> None:
        """With its pool, its route and the line that took it, however often metrics are shown."""
        lines = shared.__dict__["lines"] = Lines()
        async with self.made(place) as it:
            attach(pools={"held_after": 1e-9, "server_limits": None})
            self.call(it, "shop")
            with request("/v1/items/{item}") as exchange:
                connection = await self.acquire(it)
                meters.refresh()
                meters.refresh()
            await self.release(it, connection)
            await self.use(it)
            meters.refresh()

        told = [
            {key: fields[key] for key in ("pool", "route", "trace_id")} for fields in lines.kept
        ]
        expected = {"pool": "shop", "route": "/v1/items/{item}", "trace_id": exchange.trace_id}
        assert told == [expected] * self.tells
        if self.tells and self.cancels:
            # A thread that only takes it has no line of the app's.
            assert lines.kept[0]["at"].startswith("tests/probes/test_")

    @pytest.mark.anyio
    async def test_probes_may_go_while_a_connection_is_out(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """It is given back as always, and is forgotten."""
        async with self.made(place) as it:
            self.call(it, "shop")
            probes = attach()
            connection = await self.acquire(it)
            probes.detach()
            await self.release(it, connection)
            attach()
            await self.use(it)

            assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
            assert read(catalogue.POOL_USE) == {("shop",): 1}
            assert read(catalogue.POOL_OLDEST) == {}

    @pytest.mark.anyio
    async def test_probes_may_go_while_somebody_waits(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """They get the connection and give it back as always, and nothing is left of it."""
        async with self.made(place) as it:
            self.call(it, "shop")
            probes = attach()
            connection = await self.acquire(it)
            waiting = asyncio.create_task(self.acquire(it))
            await until(lambda: read(catalogue.POOL_PENDING)["shop",] == 1)
            probes.detach()
            await self.release(it, connection)
            await self.release(it, await waiting)
            attach()

            assert read(catalogue.POOL_COUNT) == {("shop", "used"): 0, ("shop", "idle"): 1}
            assert read(catalogue.POOL_PENDING) == {("shop",): 0}
            assert read(catalogue.POOL_OLDEST) == {}

    @pytest.mark.anyio
    async def test_what_was_taken_before_the_probes_is_used_until_it_is_back(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """If the pool tells of it, beside what is taken later; who has it is not known."""
        async with self.made(place) as it:
            self.call(it, "shop")
            connection = await self.acquire(it)
            attach()
            before = read(catalogue.POOL_COUNT)
            await self.release(it, connection)
            after = read(catalogue.POOL_COUNT)
            connection = await self.acquire(it)
            again = read(catalogue.POOL_COUNT)
            await self.release(it, connection)

            assert before == {("shop", "used"): self.remembers, ("shop", "idle"): 0}
            assert after == {("shop", "used"): 0, ("shop", "idle"): 1}
            assert again == {("shop", "used"): 1, ("shop", "idle"): 0}
            assert read(catalogue.POOL_COUNT) == after

    @pytest.mark.anyio
    async def test_in_a_forked_child_nobody_waits(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """Nor is it known who has what is out: those were threads and tasks of the parent."""
        async with self.made(place) as it:
            self.call(it, "shop")
            probes = attach()
            connection = await self.acquire(it)
            waiting = asyncio.create_task(self.acquire(it))
            await until(lambda: read(catalogue.POOL_PENDING)["shop",] == 1)
            probes.begin_anew()
            oldest, pending = read(catalogue.POOL_OLDEST), read(catalogue.POOL_PENDING)
            used = read(catalogue.POOL_COUNT)["shop", "used"]
            await self.release(it, connection)
            await self.release(it, await waiting)

            assert (oldest, pending, used) == ({}, {("shop",): 0}, self.inherits)
            assert read(catalogue.POOL_COUNT)["shop", "used"] == 0
            assert read(catalogue.POOL_PENDING) == {("shop",): 0}


class ClientContract(Named):
    """A client of HTTP services; `made` with room for one connection."""

    part = "http"
    gives_up: Any
    """What it raises for who has waited too long for a connection."""

    @pytest.fixture
    def place(self, server: Upstream) -> str:
        return server.url.replace("//", f"//me:{SECRET}@")

    @abstractmethod
    async def get(self, it: Any, path: str, *, within: float | None = None) -> int:
        """The status; `gives_up` is raised if there is no connection within these seconds."""

    async def use(self, it: Any) -> Any:
        return await self.get(it, "/")

    def events(self, read: Read, name: str) -> float:
        return read(catalogue.CLIENT_QUEUE).get((name,), 0)

    @pytest.mark.anyio
    async def test_connections_are_told_apart(
        self, place: str, server: Upstream, attach: Any, read: Read
    ) -> None:
        """A connection is active while a request has it, and idle after that."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            held = asyncio.create_task(self.get(it, "/hold"))
            await until(lambda: server.holding)
            during = read(catalogue.CLIENT_OPEN)
            server.release.set()
            await held

            assert during == {("active", "shop"): 1, ("idle", "shop"): 0}
            assert read(catalogue.CLIENT_OPEN) == {("active", "shop"): 0, ("idle", "shop"): 1}
            await self.use(it)
            assert read(catalogue.CLIENT_CREATE) == {("shop",): 1}

    @pytest.mark.anyio
    async def test_there_is_room_for_so_many_and_others_wait(
        self, place: str, server: Upstream, attach: Any, read: Read
    ) -> None:
        """Now; afterwards nobody does."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            held = asyncio.create_task(self.get(it, "/hold"))
            await until(lambda: server.holding)
            before = read(catalogue.CLIENT_PENDING)
            waiting = asyncio.create_task(self.get(it, "/"))
            await until(lambda: read(catalogue.CLIENT_PENDING) == {("shop",): 1})
            server.release.set()
            await asyncio.gather(held, waiting)

            assert before == read(catalogue.CLIENT_PENDING) == {("shop",): 0}
            assert read(catalogue.CLIENT_MAX) == {("shop",): 1}

    @pytest.mark.anyio
    async def test_a_forked_child_waits_for_no_thread_of_its_parents(
        self, place: str, attach: Any, read: Read
    ) -> None:
        """One of those may have been in the middle of something when the process forked."""
        async with self.made(place) as it:
            probes = attach()
            self.call(it, "shop")
            await self.use(it)
            (probe,) = (one for row, one in probes._attached.items() if row is self._adapter)
            locked, done = threading.Event(), threading.Event()

            def hold() -> None:
                with probe._lock:
                    locked.set()
                    done.wait(PATIENCE)

            holder = threading.Thread(target=hold)
            holder.start()
            locked.wait(PATIENCE)
            probes.begin_anew()
            told = await to_thread(read, catalogue.CLIENT_OPEN)
            still_held = not done.is_set()
            done.set()
            holder.join()

            assert still_held
            assert told == {("active", "shop"): 0, ("idle", "shop"): 1}

    @pytest.mark.anyio
    async def test_waiting_in_vain_is_waiting(
        self, place: str, server: Upstream, attach: Any, read: Read
    ) -> None:
        """The timeout ends it, and is the app's exception."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            held = asyncio.create_task(self.get(it, "/hold"))
            await until(lambda: server.holding)
            before = self.events(read, "shop")
            with pytest.raises(self.gives_up):
                await self.get(it, "/", within=0.001)
            in_vain = self.events(read, "shop") - before
            server.release.set()
            await held

            assert in_vain == 1
            assert self.events(read, "shop") == 2
            assert read(catalogue.CLIENT_TIMEOUTS) == {("shop",): 1}

    @pytest.mark.anyio
    async def test_how_long_a_request_has_its_connection_is_told(
        self, place: str, server: Upstream, clock: Clock, attach: Any, meters: Meters, read: Read
    ) -> None:
        """Until it gives it back; the time in which it had none, or that was opened, is not of it."""
        async with self.made(place) as it:
            attach()
            self.call(it, "shop")
            await self.use(it)
            held = asyncio.create_task(self.get(it, "/hold"))
            await until(lambda: server.holding)
            waiting = asyncio.create_task(self.get(it, "/"))
            await until(lambda: read(catalogue.CLIENT_PENDING) == {("shop",): 1})
            with pytest.raises(self.gives_up):
                await self.get(it, "/", within=0.001)
            before = read(catalogue.CLIENT_USE)
            clock.now += STEP
            server.release.set()
            await asyncio.gather(held, waiting)

            assert (before, read(catalogue.CLIENT_USE)) == ({("shop",): 1}, {("shop",): 3})
            assert _total(meters, catalogue.CLIENT_USE) == pytest.approx(STEP)

    @pytest.mark.anyio
    async def test_a_429_is_counted_although_we_answer_200(
        self, place: str, observed: Any, read: Read
    ) -> None:
        """By the route that asked."""
        from fastapi import FastAPI

        app = FastAPI()
        async with self.made(place) as it:

            @app.get("/orders/{order}")
            async def order(order: int) -> int:
                return await self.get(it, "/429")

            observed(app)
            answer = await call(app, "/orders/1")

        assert (answer.status, answer.body) == (200, b"429")
        assert read(catalogue.LIMIT_REJECTED)["/orders/{order}", "upstream"] == 1


class CacheContract(Contract):
    """A cache, `made` empty."""

    part = "cache"
    loads = True
    """Whether it can be known how long a load takes, and who loads the same at once."""

    @abstractmethod
    async def look_up(self, it: Any, key: str, load: Callable[[], Any] = lambda: None) -> Any:
        """The value of a key, loaded and stored if it is not there; ``load`` is called meanwhile."""

    async def use(self, it: Any) -> Any:
        return await self.look_up(it, SECRET)

    async def fail(self, it: Any) -> None:
        # It has to be loaded.
        await self.look_up(it, f"{SECRET} {next(COUNTER)}")

    def events(self, read: Read, name: str) -> float:
        requests = read(catalogue.CACHE_REQUESTS)
        return sum(requests.get((name, result), 0) for result in ("hit", "miss"))

    @pytest.mark.anyio
    async def test_hits_misses_and_loads_are_told(
        self, place: str, clock: Clock, meters: Meters, read: Read
    ) -> None:
        """What has to be loaded is a miss; a load is as long as it takes, without the look-up."""

        def load() -> None:
            clock.now += 0.25

        async with self.made(place) as it:
            self.call(it, self.name)
            for key in ("a", "a", "b", "a"):
                await self.look_up(it, key, load)
            requests = read(catalogue.CACHE_REQUESTS)

            assert (requests[self.name, "hit"], requests[self.name, "miss"]) == (2, 2)
            if self.loads:
                assert requests[self.name, "error"] == 0
                assert read(catalogue.CACHE_LOAD)[self.name,] == 2
                assert _total(meters, catalogue.CACHE_LOAD) == 0.5
                assert read(catalogue.CACHE_STAMPEDES)[self.name,] == 0

    @pytest.mark.anyio
    async def test_a_forked_child_counts_what_it_does_itself(
        self, place: str, attach: Any, meters: Meters, read: Read
    ) -> None:
        """What came before is its parent's, whether that has told of it or not."""
        async with self.made(place) as it:
            probes = attach()
            self.call(it, self.name)
            await self.use(it)
            meters.begin_anew(MemoryStore())
            probes.begin_anew()
            await self.use(it)

            assert self.events(read, self.name) == 1


class LimiterContract(Contract):
    """A limiter of a thousand a minute."""

    limit: str
    """How that is written in its label."""

    @abstractmethod
    async def use(self, it: Any) -> Any:
        """Ask for `SECRET`; it is allowed."""

    @abstractmethod
    async def exhaust(self, it: Any) -> None:
        """Ask for so much that it is refused, once."""

    def events(self, read: Read, name: str) -> float:
        return self._count(read, name, "allowed")

    def kept(self, exchange: Exchange) -> float:
        return len(decisions(exchange))

    def _count(self, read: Read, name: str, outcome: str) -> float:
        return read(catalogue.LIMIT_DECISIONS).get((name, self.limit, "", outcome), 0)

    @pytest.mark.anyio
    async def test_what_is_refused_is_told(self, place: str, attach: Any, read: Read) -> None:
        """Beside what is allowed; who asks is no label."""
        async with self.made(place) as it:
            attach()
            self.call(it, self.name)
            await self.use(it)
            await self.exhaust(it)

            assert self._count(read, self.name, "allowed") == 1
            assert self._count(read, self.name, "limited") == 1

    @pytest.mark.anyio
    async def test_an_error_of_its_store_is_told(self, place: str, attach: Any, read: Read) -> None:
        """Neither allowed nor limited; it is the app's to handle."""
        async with self.made(place) as it:
            attach()
            self.call(it, self.name)
            await self.fail(it)

            assert self._count(read, self.name, "error") == 1
            assert self.events(read, self.name) == 0


def _total(meters: Meters, metric: catalogue.Metric) -> float:
    return sum(row.sum for row in meters.rows(metric) if isinstance(row, Histogram))


def contract_url(postgresql: Any, *, driver: str = "") -> str:
    """The server's own database, for who leaves nothing in it; it takes any password."""
    url: str = postgresql.url(driver=driver)
    return url.replace("@", f":{SECRET}@")


def subscribed() -> set[tuple[str, str]]:
    """The rows that have a class here."""
    rows = set()
    kinds: list[Any] = [Contract]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "row" in vars(kind):
            rows.add(kind.row)
    return rows
