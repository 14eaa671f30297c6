"""A request is profiled when its header may ask for it, and is answered the same in any case."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio.to_thread
import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from pyinstrument import Profiler
from pyinstrument.stack_sampler import active_profiler_context_var, get_stack_sampler
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.types import Message

from fastobs import catalogue
from fastobs._exchange import Exchange, Finish
from fastobs.profiling.stacks import Tree
from fastobs.profiling.store import NotPrivate
from fastobs.profiling.tokens import sign
from tests.driving import Answer, Clock, call, scope, values
from tests.parts import eventually
from tests.profiling.rig import HOME, LOOPS, TOKEN, Rig, burn, each_loop, run

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Whatever a test does, the thread is as it was: no profiler, nothing of anyio replaced."""
    run_sync = anyio.to_thread.run_sync
    yield
    assert not get_stack_sampler().subscribers
    assert sys.getprofile() is None
    assert anyio.to_thread.run_sync is run_sync


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item_id}")
    async def read_item(item_id: str, request: Request) -> dict[str, object]:
        work()
        return {"item": item_id, "headers": sorted(request.headers.items())}

    return app


def work() -> None:
    burn()


def test_the_response_is_as_without_the_header_plus_an_id(app: FastAPI, tmp_path: Path):
    """Status, body and every other header stay; the id is 32 hex characters."""
    rig = Rig(app, tmp_path)
    plain = run(rig.get("/items/3", token=None))
    profiled = run(rig.get("/items/3"))
    headers = profiled.headers
    profile = headers.pop("x-profile-id")

    assert (profiled.status, profiled.body, headers) == (plain.status, plain.body, plain.headers)
    assert len(profile) == 32
    assert set(profile) <= set("0123456789abcdef")


def test_a_profile_shows_what_the_endpoint_did(app: FastAPI, tmp_path: Path):
    """The user's functions are in it, with the request's data beside it."""
    rig = Rig(app, tmp_path)
    answer = run(rig.get("/items/3"))
    meta, stacks = rig.kept(answer)

    assert {"read_item", "work", "burn"} <= rig.functions(answer)
    assert (meta.method, meta.route, meta.status) == ("GET", "/items/{item_id}", 200)
    assert (meta.service, meta.trigger, meta.error_type) == ("shop", "header", "")
    assert 0 < len(stacks.samples) <= meta.samples
    assert not meta.truncated
    assert rig.outcomes() == {"kept": 1.0}


def test_other_signals_know_the_profile(app: FastAPI, tmp_path: Path):
    """The slow-request line can name it, although the profile begins last and ends first."""
    ended: list[Exchange] = []

    def other(exchange: Exchange) -> Finish:
        return ended.append

    rig = Rig(app, tmp_path, others=(other,))
    answer = run(rig.get("/items/3"))
    meta, _ = rig.kept(answer)

    assert ended[0].profile_id == answer.headers["x-profile-id"] == meta.id
    assert (ended[0].trace_id, ended[0].span_id) == (meta.trace_id, meta.span_id)


@pytest.mark.parametrize(
    "token", ["", "wrong", "correct-hors", "correct-horse2", "CORRECT-HORSE", "ü"]
)
def test_a_wrong_token_is_answered_as_if_there_were_none(app: FastAPI, tmp_path: Path, token: str):
    """Every byte is the same, nothing is kept, and the attempt is counted."""
    rig = Rig(app, tmp_path / "profiles")
    without = run(rig.get("/items/3", token=None))
    denied = run(rig.get("/items/3", token=token))

    assert denied.messages == without.messages
    assert rig.outcomes() == {"denied": 1.0}
    assert not (tmp_path / "profiles").exists()


@pytest.mark.parametrize("pattern", ["*", "/items/*", "/items/{item_id}", "/items/3"])
def test_a_signed_token_profiles_the_requests_that_it_is_for(
    app: FastAPI, tmp_path: Path, pattern: str
):
    """By their path, since they are not routed yet; behind a proxy without its prefix."""
    rig = Rig(app, tmp_path, now=lambda: NOW)
    token = sign(TOKEN, pattern=pattern, expires=NOW + 1)
    plain = run(rig.get("/items/3", token=token))
    behind = run(rig.get("/shop/items/3", token=f" {token} ", root_path="/shop"))

    assert {"work"} <= rig.functions(plain) & rig.functions(behind)
    assert token.encode() not in plain.body
    assert rig.outcomes() == {"kept": 2.0}


@pytest.mark.parametrize(
    "token",
    [
        sign(TOKEN, pattern="/items/*", expires=NOW),
        sign(TOKEN, pattern="/orders/*", expires=NOW + 1),
        sign(TOKEN, pattern="/items", expires=NOW + 1),
        sign("another", pattern="*", expires=NOW + 1),
        sign(TOKEN, pattern="*", expires=NOW + 1)[:-1],
        "v1." + "x" * 5000,
        "v1.....",
    ],
    ids=["over", "other route", "a part of the path", "other secret", "cut", "long", "empty"],
)
def test_a_signed_token_that_is_not_good_is_a_wrong_one(app: FastAPI, tmp_path: Path, token: str):
    """Whatever is wrong with it, every byte is the same, nothing is kept, and it is counted."""
    rig = Rig(app, tmp_path / "profiles", now=lambda: NOW)
    without = run(rig.get("/items/3", token=None))
    denied = run(rig.get("/items/3", token=token))

    assert denied.messages == without.messages
    assert rig.outcomes() == {"denied": 1.0}
    assert not (tmp_path / "profiles").exists()


def test_a_prefix_is_one_only_where_a_slash_follows(app: FastAPI, tmp_path: Path):
    """A proxy's /it is not the beginning of /items."""
    rig = Rig(app, tmp_path, now=lambda: NOW)
    token = sign(TOKEN, pattern="/items/{item_id}", expires=NOW + 1)

    assert "x-profile-id" in run(rig.get("/items/3", token=token, root_path="/it")).headers


def test_without_a_request_for_it_nobody_looks_at_the_clock(app: FastAPI, tmp_path: Path):
    """Nor for the secret itself: only a signed token has an end."""

    def never() -> float:
        raise AssertionError

    rig = Rig(app, tmp_path, now=never)
    answers = [run(rig.get("/items/3", token=token)) for token in (None, TOKEN)]

    assert ["x-profile-id" in answer.headers for answer in answers] == [False, True]


@pytest.mark.parametrize("token", ["correct-horse", "wrong"])
def test_the_app_does_not_see_the_token(app: FastAPI, tmp_path: Path, token: str):
    """It may log or forward what it gets; the server's own list of headers is not changed."""
    rig = Rig(app, tmp_path)
    given = [(b"host", b"shop"), (b"x-profile", token.encode())]
    request = scope("/items/3")
    request["headers"] = given
    answer = run(call(rig.app, "/items/3", headers={"host": "shop", "x-profile": token}))
    run(rig.app(request, nothing_more, ignore))

    assert b"host" in answer.body
    assert token.encode() not in answer.body
    assert request["headers"] == [(b"host", b"shop")]
    assert len(given) == 2


async def nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def ignore(message: Message) -> None: ...


def test_without_a_token_the_header_is_the_apps_own(
    app: FastAPI, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing is profiled or counted, the app gets the header, and one line says what to set."""
    rig = Rig(app, tmp_path / "profiles", token=None)
    with caplog.at_level(logging.WARNING, "fastobs"):
        answers = [run(rig.get("/items/3", token="anything", client=HOME)) for _ in range(3)]

    assert all(b"anything" in answer.body for answer in answers)
    assert all("x-profile-id" not in answer.headers for answer in answers)
    assert rig.outcomes() == {}
    [line] = caplog.messages
    assert line == (
        "fastobs: a request has the header X-Profile, but profiles.token is not set, so no request "
        "is profiled. Set FASTOBS_PROFILES_TOKEN; requests from the same machine need none while "
        "the app has debug=True."
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_in_debug_mode_any_value_will_do_on_the_same_machine(
    app: FastAPI, tmp_path: Path, host: str
):
    """A developer needs no secret to profile what runs on the desk."""
    rig = Rig(app, tmp_path, token=None, debug=True)
    answer = run(rig.get("/items/3", token="1", client=(host, 1)))

    assert "work" in rig.functions(answer)


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("192.0.2.7", 1), {}),
        (("::ffff:192.0.2.7", 1), {}),
        (("testclient", 1), {}),
        (None, {}),
        (HOME, {"X-Forwarded-For": "127.0.0.1"}),
        (HOME, {"Forwarded": "for=127.0.0.1"}),
        (HOME, {"X-Real-IP": "127.0.0.1"}),
        (HOME, {"Via": "1.1 proxy"}),
    ],
)
def test_debug_mode_opens_nothing_to_others(app: FastAPI, tmp_path: Path, client, headers):
    """A peer elsewhere, or behind a proxy on this machine, gets no profile."""
    rig = Rig(app, tmp_path, token=None, debug=True)
    answer = run(rig.get("/items/3", token="1", client=client, headers=headers))

    assert "x-profile-id" not in answer.headers


def test_debug_mode_with_a_token_still_asks_for_it(app: FastAPI, tmp_path: Path):
    """Who sets a token means it."""
    rig = Rig(app, tmp_path, debug=True)

    assert "x-profile-id" not in run(rig.get("/items/3", token="1", client=HOME)).headers
    assert "x-profile-id" in run(rig.get("/items/3", client=HOME)).headers


def test_an_empty_token_is_no_token(app: FastAPI, tmp_path: Path):
    """FASTOBS_PROFILES_TOKEN= does not let in whoever sends nothing."""
    rig = Rig(app, tmp_path, token="")

    assert "x-profile-id" not in run(rig.get("/items/3", token="")).headers


def test_one_request_of_a_loop_is_profiled_at_a_time(tmp_path: Path):
    """The second is answered normally, and told that somebody else is being profiled."""
    app = FastAPI()
    arrived, leave = asyncio.Event(), asyncio.Event()

    @app.get("/wait")
    async def wait() -> None:
        arrived.set()
        await leave.wait()

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    rig = Rig(app, tmp_path)

    async def both() -> tuple[Answer, Answer]:
        first = asyncio.create_task(rig.get("/wait"))
        await arrived.wait()
        second = await rig.get("/quick")
        leave.set()
        return await first, second

    first, second = run(both())

    assert "x-profile-id" in first.headers
    assert second.headers["x-profile-status"] == "busy"
    assert (second.status, second.body) == (200, b'"quick"')
    assert rig.outcomes() == {"busy": 1.0, "kept": 1.0}


@each_loop
def test_others_at_the_same_time_are_not_in_the_profile(tmp_path: Path, loop: str):
    """What a neighbour did while the profiled request waited is shown as waiting."""
    app = FastAPI()
    leave = asyncio.Event()

    @app.get("/wait")
    async def wait() -> None:
        await patience()

    async def patience() -> None:
        await leave.wait()

    @app.get("/neighbour")
    async def neighbour() -> None:
        work()

    rig = Rig(app, tmp_path)

    async def both() -> Answer:
        waiting = asyncio.create_task(rig.get("/wait"))
        await asyncio.sleep(0)
        for _ in range(3):
            await rig.get("/neighbour", token=None)
        leave.set()
        return await waiting

    answer = run(both(), loop)

    assert "work" not in rig.functions(answer)
    assert any(stack[-1] == "[await]" and "patience" in stack for stack in rig.stacks(answer))


@each_loop
def test_a_request_to_oneself_is_answered(tmp_path: Path, loop: str):
    """A profiled endpoint may call its own app in process, with the same header."""
    app = FastAPI()

    @app.get("/outer")
    async def outer() -> dict[str, object]:
        transport = httpx.ASGITransport(app=rig.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            inner = await client.get("/inner", headers={"X-Profile": "correct-horse"})
        return {"status": inner.status_code, "profile": inner.headers["x-profile-status"]}

    @app.get("/inner")
    async def inner() -> None:
        work()

    rig = Rig(app, tmp_path)
    answer = run(rig.get("/outer"), loop)

    assert answer.body == b'{"status":200,"profile":"busy"}'
    assert "work" in rig.functions(answer)


@each_loop
def test_what_a_request_leaves_running_can_make_requests_itself(tmp_path: Path, loop: str):
    """A task that outlived its request, or a pipelined one, inherits a profiler that is over."""
    app = FastAPI()
    inherited: list[contextvars.Context] = []

    @app.get("/first")
    async def first() -> None:
        inherited.append(contextvars.copy_context())

    @app.get("/second")
    async def second() -> None:
        work()

    rig = Rig(app, tmp_path)

    async def one_after_the_other() -> Answer:
        await rig.get("/first")
        return await asyncio.create_task(rig.get("/second"), context=inherited[0])

    answer = run(one_after_the_other(), loop)

    assert "work" in rig.functions(answer)
    assert inherited[0][active_profiler_context_var] is None


def test_an_exception_in_the_endpoint_ends_the_profile(tmp_path: Path):
    """It reaches the server as without us, the profile is kept, and nothing goes on sampling."""
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> None:
        work()
        raise LookupError

    rig = Rig(app, tmp_path)
    answer = run(rig.get("/broken"))
    meta, _ = rig.kept(answer)

    assert isinstance(answer.raised, LookupError)
    assert (meta.status, meta.error_type) == (500, "LookupError")
    assert "work" in rig.functions(answer)


@each_loop
def test_a_cancelled_request_ends_the_profile(tmp_path: Path, loop: str):
    """The client has gone; what was recorded until then is kept."""
    app = FastAPI()
    arrived = asyncio.Event()

    @app.get("/wait")
    async def wait() -> None:
        work()
        arrived.set()
        await asyncio.Future()

    rig = Rig(app, tmp_path)

    async def cancel() -> None:
        request = asyncio.create_task(rig.get("/wait"))
        await arrived.wait()
        request.cancel()
        assert isinstance((await request).raised, asyncio.CancelledError)
        assert not get_stack_sampler().subscribers

    run(cancel(), loop)
    [meta] = eventually(rig.store.list)

    assert (meta.status, meta.error_type) == (None, "cancelled")


@each_loop
def test_a_stream_is_profiled_to_its_last_byte(tmp_path: Path, loop: str):
    """Asynchronous generators are in it, as are plain ones, which run in threads."""
    app = FastAPI()

    @app.get("/async")
    async def asynchronous() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0)
            last_async()
            yield b"last"

        return StreamingResponse(chunks())

    @app.get("/plain")
    def plain() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            yield b"first"
            last_plain()
            yield b"last"

        return StreamingResponse(chunks())

    def last_async() -> None:
        burn()

    def last_plain() -> None:
        burn()

    rig = Rig(app, tmp_path)
    one, other = run(rig.get("/async"), loop), run(rig.get("/plain"), loop)

    assert one.body == other.body == b"firstlast"
    assert "last_async" in rig.functions(one)
    assert "last_plain" in rig.functions(other)


@each_loop
def test_what_runs_in_threads_is_seen(tmp_path: Path, loop: str):
    """``def`` endpoints, their dependencies and the clean-up of these, each where it belongs."""
    app = FastAPI()

    def dependency() -> int:
        in_dependency()
        return 1

    def generator() -> Iterator[int]:
        in_set_up()
        yield 2
        in_clean_up()

    def in_dependency() -> None:
        burn()

    def in_set_up() -> None:
        burn()

    def in_clean_up() -> None:
        burn()

    def in_endpoint() -> None:
        burn()

    @app.get("/sum")
    def endpoint(one: int = Depends(dependency), two: int = Depends(generator, scope="function")):
        in_endpoint()
        return one + two

    rig = Rig(app, tmp_path)
    answer = run(rig.get("/sum"), loop)
    stacks = rig.stacks(answer)

    assert answer.body == b"3"
    for caller, function in [
        ("dependency", "in_dependency"),
        ("generator", "in_set_up"),
        ("generator", "in_clean_up"),
        ("endpoint", "in_endpoint"),
    ]:
        assert any(
            function in stack
            and stack.index("run_in_threadpool" if caller != "generator" else caller)
            < stack.index(function)
            and stack[stack.index(function) - 1] == caller
            for stack in stacks
        ), function


def test_time_in_threads_is_not_counted_twice(tmp_path: Path):
    """The loop's waiting for a thread is replaced by what the thread did."""
    app = FastAPI()

    @app.get("/")
    def endpoint() -> None:
        burn(0.1)

    rig = Rig(app, tmp_path)
    _, stacks = rig.kept(run(rig.get("/")))

    assert sum(sample.seconds for sample in stacks.samples) < 1.5 * stacks.duration


@each_loop
def test_behind_a_middleware_with_a_task_of_its_own_waiting_is_the_endpoints(
    tmp_path: Path, loop: str
):
    """Under BaseHTTPMiddleware the profile names what the endpoint awaits, not ``call_next``."""
    app = FastAPI()

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    app.add_middleware(Passing)
    app.add_middleware(Passing)

    @app.get("/")
    async def endpoint() -> None:
        await query()

    async def query() -> None:
        async for _ in rows():
            pass

    async def rows() -> AsyncIterator[int]:
        await asyncio.sleep(0.2)
        yield 1

    rig = Rig(app, tmp_path)
    answer = run(rig.get("/"), loop)
    _, stacks = rig.kept(answer)
    waited = {
        names[-2]: sample.seconds
        for names, sample in zip(rig.stacks(answer), stacks.samples, strict=True)
        if names[-1] == "[await]"
    }
    longest = max(waited, key=waited.__getitem__)

    assert longest == "sleep"
    assert any(
        {"query", "rows"} < set(stack) and stack[-1] == "[await]" for stack in rig.stacks(answer)
    )


def test_a_thread_that_outlives_its_request_is_left_alone(tmp_path: Path):
    """A cancelled request's abandoned thread stops being sampled while it still works."""
    app = FastAPI()
    started, go_on, seen = threading.Event(), threading.Event(), []

    def stubborn() -> None:
        started.set()
        go_on.wait()
        burn()
        seen.append(sys.getprofile())

    @app.get("/")
    async def endpoint() -> None:
        await anyio.to_thread.run_sync(stubborn, abandon_on_cancel=True)

    rig = Rig(app, tmp_path)

    async def leave() -> None:
        request = asyncio.create_task(rig.get("/"))
        await asyncio.to_thread(started.wait)
        request.cancel()
        await request
        go_on.set()
        await asyncio.to_thread(eventually, lambda: seen)

    run(leave())

    assert seen == [None]


def test_a_minute_has_so_many_profiles(app: FastAPI, tmp_path: Path):
    """What exceeds the budget is answered normally and told so; time refills it."""
    clock = Clock()
    rig = Rig(app, tmp_path, per_minute=2, clock=clock)
    three = [run(rig.get("/items/3")).headers for _ in range(3)]
    clock.now += 30
    later = run(rig.get("/items/3")).headers

    assert ["x-profile-id" in headers for headers in three] == [True, True, False]
    assert three[2]["x-profile-status"] == "limited"
    assert "x-profile-id" in later
    assert rig.outcomes() == {"limited": 1.0, "kept": 3.0}


def test_a_long_request_is_profiled_for_a_while(tmp_path: Path):
    """At its limit the recording ends and the request goes on; the profile says so."""
    app = FastAPI()
    detached: list[bool] = []

    @app.get("/")
    async def endpoint() -> str:
        burn()
        detached.append(sys.getprofile() is None and not get_stack_sampler().subscribers)
        return "done"

    rig = Rig(app, tmp_path, max_seconds=0.005)
    answer = run(rig.get("/"))
    meta, _ = rig.kept(answer)

    assert answer.body == b'"done"'
    assert detached == [True]
    assert meta.truncated


def test_the_users_own_pyinstrument_goes_first(app: FastAPI, tmp_path: Path):
    """Where a profiler runs already there is no second one, and no error."""
    rig = Rig(app, tmp_path)

    async def within() -> Answer:
        with Profiler() as profiler:
            answer = await rig.get("/items/3")
        assert profiler.last_session is not None
        return answer

    assert run(within()).headers["x-profile-status"] == "busy"


def test_the_users_pyinstrument_can_be_used_after_ours(tmp_path: Path):
    """A request's context does not stay occupied by a recording that reached its limit."""
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> str:
        burn()
        with Profiler():
            burn(0.005)
        return "done"

    rig = Rig(app, tmp_path, max_seconds=0.005)

    assert run(rig.get("/")).body == b'"done"'


def test_another_profilers_hook_is_not_replaced(app: FastAPI, tmp_path: Path):
    """sys.setprofile holds one function per thread; it is whose it was."""
    rig = Rig(app, tmp_path)

    def hook(*_: object) -> None: ...

    async def within() -> Answer:
        sys.setprofile(hook)
        try:
            answer = await rig.get("/items/3")
            assert sys.getprofile() is hook
        finally:
            sys.setprofile(None)
        return answer

    assert run(within()).headers["x-profile-status"] == "busy"


def test_whoever_wraps_run_sync_meanwhile_keeps_it(tmp_path: Path):
    """What another library put on top of ours stays, works, and does not grow with each profile."""
    app = FastAPI()
    original = anyio.to_thread.run_sync

    @app.get("/wrap")
    async def wrap() -> None:
        within = anyio.to_thread.run_sync

        async def run_sync(function, *args, **options):
            return await within(function, *args, **options)

        anyio.to_thread.run_sync = run_sync  # type: ignore[assignment]

    @app.get("/work")
    def endpoint() -> None:
        work()

    rig = Rig(app, tmp_path)
    try:
        run(rig.get("/wrap"))
        wrapped = anyio.to_thread.run_sync
        answers = [run(rig.get("/work")) for _ in range(2)]

        assert anyio.to_thread.run_sync is wrapped
        assert all("work" in rig.functions(answer) for answer in answers)
    finally:
        anyio.to_thread.run_sync = original


class Failing:
    """A store that cannot."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def put(self, meta, stacks):
        raise self.error

    def get(self, profile):
        raise self.error

    def list(self):
        raise self.error

    def delete(self, profile):
        raise self.error


@pytest.mark.usefixtures("contained_errors")
def test_a_full_disk_does_not_reach_the_request(app: FastAPI, tmp_path: Path):
    """It is counted, and the next profile is tried again."""
    rig = Rig(app, tmp_path, store=Failing(OSError(28, "No space left on device")))
    answers = [run(rig.get("/items/3")) for _ in range(2)]

    assert all(answer.status == 200 and "x-profile-id" in answer.headers for answer in answers)
    assert rig.outcomes() == {"error": 2.0}


def test_without_a_private_folder_there_are_no_profiles(app: FastAPI, tmp_path: Path, caplog):
    """One line says why; from then on the wish is declined before anything is slowed down."""
    rig = Rig(app, tmp_path, store=Failing(NotPrivate("It belongs to somebody else.")))
    with caplog.at_level(logging.WARNING, "fastobs"):
        run(rig.get("/items/3"))
        rig.outcomes()
        answer = run(rig.get("/items/3"))

    assert (answer.status, answer.headers["x-profile-status"]) == (200, "unavailable")
    assert caplog.messages == [
        "fastobs: It belongs to somebody else. No request is profiled until the next start."
    ]
    assert rig.outcomes() == {"error": 2.0}


@pytest.mark.usefixtures("contained_errors")
@pytest.mark.parametrize("loop", LOOPS)
def test_an_error_of_ours_in_a_sample_stays_with_us(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
):
    """A sample is taken in the midst of the user's code, where it must not raise."""

    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(Tree, "add", broken)
    rig = Rig(app, tmp_path)
    answer = run(rig.get("/items/3"), loop)

    assert answer.status == 200
    assert rig.outcomes() == {"error": 1.0}


def test_more_profiles_than_can_be_written_are_dropped(app: FastAPI, tmp_path: Path, monkeypatch):
    """The queue is bounded, and what does not fit is counted."""
    block = threading.Event()

    class Slow(Failing):
        def put(self, meta, stacks):
            block.wait()

    monkeypatch.setattr("fastobs.profiling.desk.WAITING", 1)
    rig = Rig(app, tmp_path, store=Slow(OSError()))
    for _ in range(4):
        run(rig.get("/items/3"))
    dropped = values(rig.meters, catalogue.SELF_DROPPED)[("profiles", "queue_full")]
    block.set()

    assert dropped >= 1
    assert rig.outcomes() == {"dropped": dropped, "kept": 4 - dropped}


def test_nothing_of_the_request_is_in_the_profile(app: FastAPI, tmp_path: Path):
    """Neither the path as requested, nor the query, nor a header: only the template."""
    rig = Rig(app, tmp_path)
    answer = run(
        rig.get(
            "/items/s3cret-path",
            query_string=b"q=s3cret-query",
            headers={"Authorization": "s3cret-header"},
        )
    )
    meta, stacks = rig.kept(answer)
    everything = repr(meta) + repr(stacks)

    assert stacks.description == "GET /items/{item_id}"
    assert "s3cret" not in everything
    assert "correct-horse" not in everything


def test_no_absolute_path_is_in_the_profile(app: FastAPI, tmp_path: Path):
    """Whoever reads it learns which files, not where they are."""
    rig = Rig(app, tmp_path)
    _, stacks = rig.kept(run(rig.get("/items/3")))
    files = {
        frame.split("\x00")[1] for frame in (*stacks.frames, *stacks.beginning) if "\x00" in frame
    }

    assert "tests/signals/test_profiles.py" in files
    assert "site-packages/starlette/routing.py" in files
    assert not [file for file in files if file.startswith(("/", "..", "~"))]
    assert stacks.session().sys_path == ["site-packages", f"python3.{sys.version_info.minor}"]


def test_every_outcome_exists_from_the_first_scrape(app: FastAPI, tmp_path: Path):
    """A rate over a counter that is born with its first event would be nothing."""
    rig = Rig(app, tmp_path)
    outcomes = {row.values[1] for row in rig.meters.rows(catalogue.SELF_PROFILES)}

    assert outcomes == {"kept", "denied", "busy", "limited", "dropped", "error"}
