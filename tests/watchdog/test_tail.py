"""Slow requests leave a profile behind, fast ones nothing."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import StreamingResponse

import fastobs
from fastobs import Handle, catalogue
from fastobs._exchange import Exchange
from fastobs._routes import Routes
from fastobs.cells import Meters
from fastobs.config import Profiles, Slow
from fastobs.profiling.stacks import Stacks
from fastobs.profiling.store import Folder, Keeper, Meta
from fastobs.watchdog import tail, watchdog_of
from fastobs.watchdog.tail import TELLING, Capture
from tests.driving import Clock, call, scope, values
from tests.parts import eventually
from tests.probes.waiting import until
from tests.profiling.shelf import Shelf

from .rig import TRIES, beaten, each_loop, run

SLOW = 0.4
"""Seconds; the threshold here."""
LONG = 0.6
"""Seconds; longer than that."""
NEVER = 60.0
"""Seconds; a threshold that no request reaches."""
ENOUGH = 5
"""Samples; a busy machine may take longer for them."""

Observed = Callable[..., Handle]

APP = f"wait\x00{__file__}\x003\x01l7"
LIBRARY = f"get\x00{httpx.__file__}\x003\x01l7"
"""Frames as pyinstrument writes them."""


async def helper() -> None:
    unseen = unsampled()
    await asyncio.sleep(LONG)
    while unseen():  # noqa: ASYNC110 - the watchdog is not of asyncio
        await asyncio.sleep(LONG / 10)


def works() -> None:
    unseen = unsampled()
    time.sleep(LONG)
    while unseen():
        time.sleep(LONG / 10)


def holds() -> None:
    works()


def unsampled() -> Callable[[], bool]:
    """Whether somebody is looking at this request, and has not looked often enough yet."""
    exchange = fastobs.current()
    handle = None if exchange is None else getattr(exchange.scope["app"].state, "fastobs", None)
    if exchange is None or handle is None or handle._tail is None:
        return lambda: False
    looking: tail.Tail = handle._tail

    def unseen() -> bool:
        capture = looking._captures.get(exchange)
        if looking.stopped:
            return False
        if capture is None or capture.count < ENOUGH or (seen := capture.busiest()) is None:
            return True
        # Longer than what is told at least, since what follows takes time, too.
        return seen.seconds < 1.5 * TELLING * (time.perf_counter() - exchange.started)

    return unseen


class Kept:
    """What was kept of one app's requests."""

    def __init__(self, folder: Path, meters: Meters) -> None:
        self._folder = Folder(Profiles(directory=folder))
        self._meters = meters

    @property
    def outcomes(self) -> dict[tuple[str, ...], float]:
        return values(self._meters, catalogue.SELF_PROFILES)

    @property
    def kept(self) -> list[tuple[Meta, Stacks]]:
        found = [self._folder.get(meta.id) for meta in self._folder.list()]
        return [(each[0], Stacks.decode(each[1])) for each in found if each is not None]

    @property
    def seconds(self) -> dict[str, float]:
        """By function, of the only profile: each with what it called or awaited."""
        ((_, stacks),) = self.kept
        return seconds(stacks)


def seconds(stacks: Stacks) -> dict[str, float]:
    """How long each function was in the stack."""
    found: dict[str, float] = defaultdict(float)
    for node, duration, _ in stacks.samples:
        at, names = node, set()
        while at >= 0:
            names.add(stacks.frames[at].partition("\x00")[0])
            at = stacks.parents[at]
        for name in names:
            found[name] += duration
    return found


def tail_of(handle: Handle) -> tail.Tail:
    """The app's."""
    assert handle._tail is not None
    return handle._tail


class Rig:
    """An instrumented app."""

    def __init__(self, folder: Path, meters: Meters, observed: Observed) -> None:
        self.folder = folder
        self.app = FastAPI()
        self.kept = Kept(folder, meters)
        self._observed = observed

        @self.app.get("/fast")
        async def fast() -> None:
            await asyncio.sleep(0)

        @self.app.get("/slow/{number}")
        async def slow(number: int) -> None:
            await helper()

        @self.app.get("/patient/{number}")
        async def patient(number: int) -> None:
            await asyncio.sleep(LONG)

    def instrument(self, **sections: Any) -> Handle:
        """All but the fast request and the patient one are slow here, however busy the machine is."""
        never = {"/fast": NEVER, "/patient/{number}": NEVER}
        slow = {"after": SLOW, "routes": never}
        chosen = {"slow": slow, "profiles": {"directory": self.folder}, **sections}
        return self._observed(self.app, traces=None, workers=None, **chosen)

    async def begin(self) -> None:
        """Have the loop known to the watchdog."""
        await call(self.app, "/fast")
        watchdog = watchdog_of(asyncio.get_running_loop())
        assert watchdog is not None
        await beaten(watchdog._wards[0].heart)

    def ask(self, *paths: str, loop: str = "asyncio", profiles: int = 1) -> None:
        """One request after the other, and wait until there are so many profiles."""

        async def main() -> None:
            await self.begin()
            for path in paths:
                await call(self.app, path)
            await until(lambda: sum(self.kept.outcomes.values()) >= profiles)

        run(main(), loop)


@pytest.fixture
def rig(tmp_path: Path, meters: Meters, observed: Observed, monkeypatch: pytest.MonkeyPatch) -> Rig:
    # Traced for its coverage, a look costs so much that there would be few.
    monkeypatch.setattr(tail, "DUTY", 1.0)
    return Rig(tmp_path / "profiles", meters, observed)


@each_loop
def test_a_thousand_fast_requests_leave_nothing_and_a_slow_one_its_profile(
    rig: Rig, loop: str
) -> None:
    """It says who asked, how long it took, and which function it waited in."""
    handle = rig.instrument()

    async def main() -> None:
        await rig.begin()
        waiting = asyncio.create_task(call(rig.app, "/slow/7"))
        for _ in range(1000):
            await call(rig.app, "/fast")
        await waiting
        await until(lambda: rig.kept.outcomes)

    run(main(), loop)

    ((meta, stacks),) = rig.kept.kept
    assert rig.kept.outcomes == {("slow", "kept"): 1.0}
    assert (meta.method, meta.route, meta.trigger) == ("GET", "/slow/{number}", "slow")
    assert (meta.samples, meta.truncated) == (stacks.count, False)
    assert meta.duration >= LONG
    assert sum(sample.seconds for sample in stacks.samples) == pytest.approx(
        meta.duration, abs=1e-3
    )
    found = seconds(stacks)
    assert found["helper"] > 0
    # What a busy machine makes long is a block, which is known from its beginning on.
    blocked = sum(found[name] for name in found if name.startswith(tail.BLOCKED_BY))
    assert found[tail.BEFORE] + blocked >= SLOW / 2
    assert found["helper"] + found[tail.BEFORE] <= meta.duration + 1e-3
    assert not handle._opened
    assert not tail_of(handle)._captures


@each_loop
def test_a_request_that_blocks_the_loop_shows_what_it_ran(rig: Rig, loop: str) -> None:
    """Its own step is no block of another's."""

    @rig.app.get("/blocks")
    async def blocks() -> None:
        holds()

    rig.instrument()
    rig.ask("/blocks", loop=loop)

    found = rig.kept.seconds
    assert found["holds"] > 0
    assert not [name for name in found if name.startswith("blocked by works")]


@each_loop
def test_a_request_that_others_blocked_says_by_whom(rig: Rig, loop: str) -> None:
    """For at least two thirds of the block, also where it began before the capture."""
    held: list[float] = []

    @rig.app.get("/culprit")
    async def culprit() -> None:
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        holds()
        held.append(time.perf_counter() - began)

    rig.instrument(profiles={"directory": rig.folder, "per_minute": 1000})

    async def once() -> float:
        """The share of the block that the other request's profile tells of."""
        before = {meta.id for meta, _ in rig.kept.kept}
        victim = asyncio.create_task(call(rig.app, "/slow/7"))
        await call(rig.app, "/culprit")
        await victim
        await until(lambda: len(rig.kept.kept) == len(before) + 2)
        ((_, stacks),) = (
            (meta, stacks)
            for meta, stacks in rig.kept.kept
            if meta.id not in before and meta.route == "/slow/{number}"
        )
        found = seconds(stacks)
        blocked = {name: found[name] for name in found if name.startswith(f"{blocker}:")}
        assert all(name.endswith(" (/culprit)") for name in blocked)
        assert found["helper"] >= sum(blocked.values())
        return sum(blocked.values()) / held[-1]

    async def main() -> float:
        await rig.begin()
        share = 0.0
        for _ in range(TRIES):
            # Where the machine has no time for the watchdog, it does not tell what it did not see.
            if (share := await once()) >= 2 / 3:
                break
        return share

    blocker = "blocked by works at tests/watchdog/test_tail.py"

    assert run(main(), loop) >= 2 / 3


@each_loop
def test_work_in_a_thread_is_shown_below_the_endpoint_that_waits_for_it(
    rig: Rig, loop: str
) -> None:
    """A ``def`` endpoint, as Starlette runs it."""

    @rig.app.get("/threaded")
    def threaded() -> None:
        works()

    rig.instrument()
    rig.ask("/threaded", loop=loop)

    found = rig.kept.seconds
    assert 0 < found["works"] <= found["threaded"] <= found["run_in_threadpool"]


async def gathers() -> None:
    await asyncio.gather(helper(), other())


async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(helper())
        group.create_task(other())


async def awaits_a_task() -> None:
    forgotten = asyncio.create_task(other())
    await asyncio.create_task(helper())
    await forgotten


async def sleeps_beside_a_task() -> None:
    forgotten = asyncio.create_task(other())
    await helper()
    await forgotten


async def waits_for_a_task() -> None:
    await asyncio.wait([asyncio.create_task(helper())])


async def other() -> None:
    await asyncio.sleep(LONG * 0.9)


@pytest.mark.parametrize(
    ("work", "both"),
    [
        (gathers, True),
        (groups, True),
        (waits_for_a_task, False),
        (awaits_a_task, False),
        (sleeps_beside_a_task, False),
    ],
)
def test_what_child_tasks_wait_for_is_shown_below_who_waits_for_them(
    rig: Rig, work: Callable[[], Coroutine[Any, Any, None]], both: bool
) -> None:
    """Several at once share the time; a task that nobody waits for has none of it."""

    @rig.app.get("/parent")
    async def parent() -> None:
        await work()

    async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    rig.app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    rig.instrument()
    rig.ask("/parent")

    found = rig.kept.seconds
    assert found["helper"] > 0
    assert ("other" in found) == both
    assert found[work.__name__] == pytest.approx(found["parent"])


def test_what_a_generator_awaits_is_found_behind_it(rig: Rig) -> None:
    """The steps of an async generator hide it from whoever asks by name."""

    async def counts() -> Any:
        await helper()
        yield 1

    @rig.app.get("/counted")
    async def counted() -> list[int]:
        return [number async for number in counts()]

    rig.instrument()
    rig.ask("/counted")

    found = rig.kept.seconds
    assert found["helper"] == pytest.approx(found["counts"])
    assert found["counted"] == pytest.approx(found["counts"])


@each_loop
def test_what_a_stream_awaits_is_found_though_its_task_listens_for_the_client(
    rig: Rig, loop: str
) -> None:
    """With uvicorn, Starlette sends from a task of its own, and listens in that of the request."""
    asgi = {"version": "3.0", "spec_version": "2.3"}

    async def rows() -> AsyncIterator[str]:
        yield "1"
        await helper()
        yield "2"

    @rig.app.get("/streamed")
    async def streamed() -> StreamingResponse:
        return StreamingResponse(rows())

    async def main() -> None:
        await rig.begin()
        await call(rig.app, "/streamed", asgi=asgi)
        await until(lambda: rig.kept.outcomes)

    rig.instrument()
    run(main(), loop)

    found = rig.kept.seconds
    assert found["helper"] > 0
    assert "listen_for_disconnect" not in found, found


def test_the_slow_line_names_the_profile_and_the_line_of_the_app(rig: Rig, shared: Any) -> None:
    """Both are known before it is written."""
    lines: list[tuple[str, dict[str, Any]]] = []
    rig.instrument()
    shared.lines.put = lines.append
    rig.ask("/slow/7")

    (line,) = (fields for _, fields in lines if fields["event"] == "slow_request")
    ((meta, _),) = rig.kept.kept
    # A busy machine may have made a block as well.
    (finding,) = (each for each in line["findings"] if each["kind"] == "mostly_at")
    file, _, at = finding["at"].partition(":")
    assert line["profile_id"] == meta.id
    assert finding["function"] == "helper"
    assert file == "tests/watchdog/test_tail.py"
    assert int(at) - helper.__code__.co_firstlineno in {2, 4}
    assert meta.duration * TELLING <= finding["seconds"] <= meta.duration


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ([APP, LIBRARY, "[await]"], "wait at tests/watchdog/test_tail.py:7"),
        ([LIBRARY, "[await]"], None),
        ([APP, "blocked by load at shop.py:3 (/b)"], None),
        (["[not seen]"], None),
    ],
)
def test_the_line_is_the_deepest_of_the_apps_own(stack: list[str], told: str | None) -> None:
    """A library's is not the app's, and what another request did is not this one's."""
    capture = Capture(0.0, 10.0)
    capture.add([stack], 1.0, block=None, running=False)
    capture.expected = 2.0
    capture.add([stack], 2.0, block=None, running=False)
    seen = capture.busiest()

    assert (seen and f"{seen.function} at {seen.at}") == told
    assert seen is None or seen.seconds == 1.0


def test_a_request_that_fails_after_its_arm_time_is_kept_though_it_is_not_slow(rig: Rig) -> None:
    """By an exception, whose class is in the description, or by a 5xx; what ends well is forgotten."""

    @rig.app.get("/ends/{how}")
    async def ends(how: str) -> None:
        await helper()
        if how == "badly":
            raise ZeroDivisionError
        raise HTTPException(int(how))

    rig.instrument(slow={"after": NEVER, "profile_from": SLOW / 2 / NEVER})
    rig.ask("/ends/404", "/ends/badly", "/ends/503", profiles=2)

    badly, unavailable = sorted(rig.kept.kept, key=lambda kept: kept[0].status or 0)
    assert [badly[0].error_type, unavailable[0].status] == ["ZeroDivisionError", 503]
    assert seconds(badly[1])["helper"] > 0


def test_a_request_whose_profile_is_asked_for_is_kept_though_it_ends_well_and_in_time(
    rig: Rig,
) -> None:
    """From the endpoint, from the thread of a ``def`` one, or early from a dependency; by itself none
    is."""

    def asked(how: str) -> None:
        if how == "dependency":
            wish()

    def wish() -> None:
        request = fastobs.current()
        assert request is not None
        request.keep_profile()

    @rig.app.get("/async/{how}", dependencies=[Depends(asked)])
    async def endpoint(how: str) -> None:
        await helper()
        if how == "endpoint":
            wish()

    @rig.app.get("/thread/{how}")
    def threaded(how: str) -> None:
        works()
        wish()

    rig.instrument(slow={"after": NEVER, "profile_from": SLOW / 2 / NEVER})
    rig.ask("/async/not", "/async/dependency", "/async/endpoint", "/thread/worker")
    eventually(lambda: len(rig.kept.kept) == 3)

    assert rig.kept.outcomes == {("slow", "kept"): 3.0}
    routes = sorted(meta.route for meta, _ in rig.kept.kept)
    assert routes == ["/async/{how}", "/async/{how}", "/thread/{how}"]
    assert all(
        {"helper", "works"} & set(seconds(stacks)) and meta.duration < NEVER
        for meta, stacks in rig.kept.kept
    )


def test_a_request_that_is_over_before_its_arm_time_has_no_profile_to_keep(alone: Alone) -> None:
    """Nothing was seen of it, and the wish is no error."""
    exchange = alone.open()
    alone.looks(0.3)
    exchange.keep_profile()
    alone.close(exchange)

    assert exchange.profile_id is None
    assert not told(alone)


def test_wishes_for_profiles_have_the_limit_of_all(meters: Meters, shelf: Shelf) -> None:
    """An endpoint that asks each time does not fill the disk."""
    alone = Alone(meters, shelf, per_minute=2)
    for _ in range(3):
        exchange = alone.open()
        alone.looks(0.6)
        exchange.keep_profile()
        alone.close(exchange)

    assert eventually(lambda: told(alone) == {("slow", "kept"): 2.0, ("slow", "limited"): 1.0})


def test_a_route_has_its_own_threshold(rig: Rig) -> None:
    """What is not slow for it is not sampled, even where another route is slow by then."""
    handle = rig.instrument()
    captures = 0

    async def main() -> None:
        nonlocal captures
        await rig.begin()
        waiting = asyncio.create_task(call(rig.app, "/patient/7"))
        while not waiting.done():
            captures = max(captures, len(tail_of(handle)._captures))
            await asyncio.sleep(0)
        await until(lambda: not tail_of(handle)._later)

    run(main())

    assert captures == 0
    assert not rig.kept.outcomes


def test_a_hundred_slow_requests_are_sampled_sixteen_at_once(rig: Rig) -> None:
    """And as many profiles are kept as a minute may have; the rest is counted."""
    release = asyncio.Event()

    @rig.app.get("/waits/{number}")
    async def waits(number: int) -> None:
        await release.wait()

    handle = rig.instrument()
    most = 0

    async def main() -> None:
        nonlocal most
        await rig.begin()
        captures = tail_of(handle)._captures
        waiting = [asyncio.create_task(call(rig.app, f"/waits/{n}")) for n in range(100)]
        patience = asyncio.create_task(asyncio.sleep(LONG))
        while min([each.count for each in list(captures.values())], default=0) < ENOUGH:
            most = max(most, len(captures))
            await asyncio.sleep(0)
        await patience
        most = max(most, len(captures))
        release.set()
        await asyncio.gather(*waiting)
        await until(lambda: rig.kept.outcomes.get(("slow", "kept"), 0) == 6)

    run(main())

    assert most == tail.MOST
    assert len(rig.kept.kept) == 6
    assert rig.kept.outcomes["slow", "limited"] >= tail.MOST - 6


@pytest.mark.parametrize(
    "sections",
    [{"profiles": None}, {"slow": None}, {"slow": {"after": SLOW, "profile_from": None}}],
    ids=str,
)
def test_it_can_be_switched_off(rig: Rig, sections: dict[str, Any]) -> None:
    """Then nothing is looked at, and nothing kept."""
    handle = rig.instrument(**sections)
    run(call(rig.app, "/patient/7"))

    assert handle._tail is None
    assert not rig.kept.outcomes
    assert not rig.folder.exists()


def test_without_a_watchdog_nothing_is_looked_at(rig: Rig) -> None:
    """It has the thread."""
    rig.instrument(runtime=None, slow={"after": SLOW})
    run(call(rig.app, "/patient/7"))

    assert not rig.kept.outcomes


def test_nothing_is_kept_once_the_app_is_as_it_was(rig: Rig) -> None:
    """Also of a request that was looked at already."""
    handle = rig.instrument()

    async def main() -> None:
        waiting = asyncio.create_task(call(rig.app, "/slow/7"))
        await until(lambda: tail_of(handle)._captures)
        handle.uninstrument()
        await waiting

    run(main())

    assert not rig.kept.outcomes
    assert not tail_of(handle)._captures


def test_a_folder_that_is_not_private_is_told_once_and_not_tried_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is answered all the same."""
    rig.folder.mkdir(mode=0o777)
    rig.folder.chmod(0o777)
    rig.instrument()
    rig.ask("/slow/7", "/slow/8")

    assert rig.kept.outcomes == {("slow", "error"): 1.0}
    assert caplog.text.count("No slow request is kept") == 1


class Alone:
    """A tail without an app, a loop or a thread: time and what is open are given."""

    def __init__(self, meters: Meters, store: Keeper, **settings: Any) -> None:
        self.meters = meters
        self.clock = Clock()
        self.opened: dict[Exchange, None] = {}
        self.spent = 0.0
        self.tail = tail.Tail(
            Slow(after=1.0),
            Profiles(**settings),
            meters,
            opened=self.opened,
            store=store,
            clock=self.clock,
            cpu=self._cpu,
        )

    def _cpu(self) -> float:
        self.spent += 0.001
        return self.spent

    def open(self) -> Exchange:
        """A request that begins now."""
        exchange = Exchange(scope("/"), Routes(None), self.clock.now)  # type: ignore[arg-type]
        self.opened[exchange] = None
        return exchange

    def looks(self, *after: float, wards: Sequence[Any] = ()) -> list[float]:
        """Look again and again, so many seconds after the last time."""
        pauses = []
        for pause in after:
            self.clock.now += pause
            pauses.append(self.tail.look(wards, self.clock.now))
        return pauses

    def close(self, exchange: Exchange) -> None:
        """The request ends now."""
        exchange.duration = self.clock.now - exchange.started
        exchange.closed = True
        del self.opened[exchange]
        self.tail.finish(exchange)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def alone(meters: Meters, shelf: Shelf) -> Alone:
    return Alone(meters, shelf)


def told(alone: Alone) -> dict[tuple[str, ...], float]:
    return values(alone.meters, catalogue.SELF_PROFILES)


def kept(alone: Alone, shelf: Shelf) -> tuple[Meta, Stacks]:
    """The one that is kept, soon."""
    assert eventually(lambda: told(alone))
    return shelf.kept[0]


def test_sampling_takes_two_percent_of_a_processor_at_most(alone: Alone) -> None:
    """A look that cost a millisecond is followed by fifty of something else."""
    alone.open()

    assert alone.looks(0.4, 0.2) == [inf, pytest.approx(0.05)]
    assert alone.looks(0.02) == [pytest.approx(0.03)]
    assert alone.looks(0.04) == [pytest.approx(0.05)]


def test_time_in_which_nobody_looked_is_nobodys(alone: Alone, shelf: Shelf) -> None:
    """The process was stopped, or another thread kept the interpreter."""
    exchange = alone.open()
    alone.looks(0.6)
    capture = alone.tail._captures[exchange]
    capture.add([["one"]], alone.clock.now + 0.1, block=None, running=False)
    capture.add([["two"]], alone.clock.now + 2.0, block=None, running=False)
    alone.clock.now += 2.1
    alone.close(exchange)

    _, stacks = kept(alone, shelf)
    assert seconds(stacks) == {
        tail.BEFORE: pytest.approx(0.6),
        "one": pytest.approx(0.1),
        tail.UNSEEN: pytest.approx(1.9),
        tail.AFTER: pytest.approx(0.1),
    }


def test_what_is_seen_again_is_one_sample_that_says_how_often(alone: Alone, shelf: Shelf) -> None:
    """A request that waits has few samples, whatever its time."""
    exchange = alone.open()
    alone.looks(0.6)
    capture = alone.tail._captures[exchange]
    for _ in range(5):
        alone.clock.now += 0.1
        capture.add([["one"]], alone.clock.now, block=None, running=True)
    alone.close(exchange)

    _, stacks = kept(alone, shelf)
    assert [sample.times for sample in stacks.samples] == [1, 5]


def test_a_request_whose_samples_are_full_says_so(alone: Alone, shelf: Shelf) -> None:
    """What came later is told as not captured; at the latest after `profiles.max_seconds`."""
    exchange = alone.open()
    alone.looks(0.6, 20.0, 11.0)
    assert alone.looks(5.0) == [inf]
    alone.close(exchange)

    meta, stacks = kept(alone, shelf)
    assert (meta.truncated, stacks.truncated) == (True, True)
    assert seconds(stacks)[tail.AFTER] == pytest.approx(5.0)


def test_what_is_slow_may_take_longer_than_samples_are_taken(meters: Meters, shelf: Shelf) -> None:
    """The time for samples begins with the first one."""
    alone = Alone(meters, shelf, max_seconds=0.1)
    exchange = alone.open()
    alone.looks(0.55)

    assert exchange in alone.tail._captures


@pytest.mark.parametrize("limit", ["SAMPLES", "NODES"])
def test_a_requests_samples_are_bounded(
    alone: Alone, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In number, and in different stacks."""
    monkeypatch.setattr(tail, limit, 3)
    exchange = alone.open()
    alone.looks(0.6)
    capture = alone.tail._captures[exchange]
    for number in range(5):
        capture.add([[str(number)]], alone.clock.now + number + 1, block=None, running=True)

    assert capture.truncated
    assert capture.count == 3


def test_requests_that_go_on_for_ever_do_not_keep_others_from_being_seen(alone: Alone) -> None:
    """Their samples are kept for a while, of the oldest the shortest."""
    streams = [alone.open() for _ in range(tail.MOST)]
    alone.looks(0.6, 31.0)
    more = [alone.open() for _ in range(tail.MOST + 1)]
    alone.looks(0.6)

    assert streams[0] not in alone.tail._captures
    assert more[-2] in alone.tail._captures
    assert more[-1] not in alone.tail._captures


def test_a_request_that_is_profiled_on_demand_is_not_kept_twice(alone: Alone, shelf: Shelf) -> None:
    """Its own profile is better."""
    exchange = alone.open()
    exchange.profile_id = "0" * 32
    alone.looks(0.6, 1.0)
    alone.close(exchange)

    assert not told(alone)
    assert exchange.profile_id == "0" * 32


def test_a_request_that_ends_before_it_is_slow_is_forgotten_with_the_next_look(
    alone: Alone,
) -> None:
    """Also if nobody told of its end."""
    exchange = alone.open()
    alone.looks(0.6)
    exchange.closed = True
    alone.looks(1.0)

    assert not alone.tail._captures
    assert exchange.profile_id is None


def test_a_loop_that_is_gone_or_too_busy_with_tasks_costs_a_sample(
    alone: Alone, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one stands for its time."""

    class Gone:
        heart = SimpleNamespace(loop=lambda: None)

    class Busy:
        heart = SimpleNamespace(loop=object)

        def held(self, now: float) -> None:
            raise RuntimeError

    def busy(*_: object) -> None:
        raise RuntimeError

    exchange = alone.open()
    alone.looks(0.6, 0.1, wards=[Gone()])
    monkeypatch.setattr(tail, "View", busy)
    alone.looks(0.1, wards=[Busy()])
    alone.clock.now += 1.0
    alone.close(exchange)

    meta, stacks = kept(alone, shelf)
    assert meta.samples == 2
    assert seconds(stacks)[tail.UNSEEN] == pytest.approx(0.1)


@pytest.mark.usefixtures("contained_errors")
def test_a_profile_that_cannot_be_stored_is_counted(meters: Meters) -> None:
    """The disk is full."""
    alone = Alone(meters, Shelf(OSError(28, "No space left on device")))
    exchange = alone.open()
    alone.looks(0.6, 1.0)
    alone.close(exchange)

    assert eventually(lambda: told(alone) == {("slow", "error"): 1.0})


def test_a_profile_that_nobody_has_time_to_write_is_dropped(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counted twice: as a profile, and as something dropped."""
    monkeypatch.setattr(alone.tail._desk._outbox, "_limit", 0)
    exchange = alone.open()
    alone.looks(0.6, 1.0)
    alone.close(exchange)

    assert told(alone) == {("slow", "dropped"): 1.0}
    assert values(alone.meters, catalogue.SELF_DROPPED) == {("profiles", "queue_full"): 1.0}
