"""`instrument`: the composition root, the only place that knows everyone."""

from __future__ import annotations

import logging
import sys
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from . import _tracing, catalogue
from ._contain import contained
from ._decisions import undecided
from ._endpoint import metrics_page
from ._exchange import Exchange, Finish, Signal
from ._farewell import say_farewell
from ._files import adopt
from ._health import WITHIN, Ask, Check, Health, health_pages
from ._middleware import Inmost, Middleware
from ._process import Process, process
from ._routes import Routes, declared
from ._service import identify
from .cells import Reader, Reading
from .config import Profiles, Settings, Traces, load
from .errors import ConfigError

if TYPE_CHECKING:
    from .profiling.access import Access
    from .profiling.store import Store
    from .watchdog.tail import Tail

__all__ = ["Handle", "instrument"]

logger = logging.getLogger("fastobs")

UNDECIDED = """\
  There is a limiter, but it was never asked for these. slowapi's middleware passes over what
  include_router() adds: write @limiter.limit("5/minute") above the endpoint. A limiter of your own
  is seen through fastobs.limiter(name). Where no limit is meant, nothing is wrong."""


def instrument(app: Starlette, settings: Settings | None = None, /, **sections: Any) -> Handle:
    """Have the app observed: metrics, traces, slow-request lines, profiles on demand.

    Call it once, at any time before the first request: at module level, in a factory, or in the
    lifespan; before or after routes, middleware, engines and clients exist. A second call for the
    same app changes nothing and answers with the first one's handle.

    The package that calls it is the app's, even where it is installed among the libraries: what its
    variables hold is found, and called after them.

    Args:
        app: A FastAPI or Starlette application.
        settings: All settings at once.
        sections: Single sections, as their class, as a dict, or None to switch one off:
            ``instrument(app, slow={"after": 0.5}, profiles=None)``.

    Raises:
        ConfigError: A setting that cannot work, or a path of ours that the app already has.
    """
    given: object = app
    if not isinstance(given, Starlette):
        msg = (
            f"instrument() takes a FastAPI or Starlette application, not {type(given).__name__}. "
            "If the app is wrapped in a middleware, pass the application inside."
        )
        raise ConfigError(msg)
    if (handle := getattr(app.state, "fastobs", None)) is not None:
        assert isinstance(handle, Handle)
        return handle
    caller = sys._getframe(1).f_globals
    adopt(caller.get("__package__") or caller.get("__name__", ""))
    return Handle(app, load(settings, sections), process())


class Handle:
    """What `instrument` set up for one app.

    Attributes:
        settings: What applies to this app.
    """

    def __init__(self, app: Starlette, settings: Settings, shared: Process) -> None:
        self.settings = settings
        self._app = app
        self._process = shared
        self._undo: list[Callable[[], None]] = []
        self._health = Health(self._checks)
        self._opened: dict[Exchange, None] = {}
        self._tail = self._capture()
        pages = dict(self._pages())
        for path in _collisions(app, pages):
            msg = (
                f"The app already has a route at {path.removesuffix('/*')!r}, where fastobs would "
                f"answer. {_way_out(pages[path][1])}"
            )
            raise ConfigError(msg)
        if settings.traces is not None:
            self._undo.append(_tracing.prepare(app, settings.traces))
        routes = Routes(app)

        def wrap(stack: ASGIApp) -> Middleware:
            # Routes that were added after the call: what the app answered without us, it still does.
            for path in _collisions(app, pages):
                logger.warning(
                    "fastobs: the app has a route of its own at %r, which answers instead of ours. %s",
                    path.removesuffix("/*"),
                    _way_out(pages[path][1]),
                )
                del pages[path]
            self._know_routing(stack)
            return Middleware(
                self._stepped(stack),
                **self._of_each(stack),
                requested=dict(self._requested()),
                ends=list(self._ends()),
                patience=inf if settings.slow is None else settings.slow.least,
                routes=routes,
                pages={path: page for path, (page, _) in pages.items()},
                excluded=() if settings.metrics is None else settings.metrics.exclude,
                sockets=shared.meters.gauge(catalogue.HTTP_WEBSOCKETS).add,
                started=self._started,
                ended=say_farewell,
                opened=self._opened,
            )

        self._insert(wrap)
        shared.enter(settings, app)
        self._undo.append(shared.leave)
        health = _WhileThere(self._health)
        shared.meters.ask(health)
        self._undo.append(lambda: shared.meters.forget(health))
        if self._tail is not None:
            self._undo.append(self._tail.stop)
        app.state.fastobs = self

    def status(self) -> str:
        """What is watched, what was found but cannot be, and the line to add; for people.

        If there is a limiter, also the routes that none ever decided on.
        """
        shared = self._process
        parts = [
            shared.workers.status(),
            self._watching(),
            shared.probes.status(),
            *self._undecided(),
        ]
        return "\n".join(parts)

    def check(self, name: str, ask: Ask, *, within: float = WITHIN, required: bool = True) -> None:
        """Have ``/_fastobs/readyz`` ask this, too: ``handle.check("redis", client.ping)``.

        Watched connection pools are asked without it. Each check is asked at most once a second.

        Args:
            name: Its label, and what an orchestrator is told if it fails.
            ask: A sync or async callable; the app is not ready while it raises or returns False.
            within: Seconds that it may take.
            required: Whether the app is not ready without it; else it is asked and told like the
                others, and the app is ready all the same.

        Raises:
            ConfigError: There is a check of this name, or it cannot be asked.
        """
        self._health.add(Check(name, ask, within, required=required))

    def uninstrument(self) -> None:
        """Restore the app as it was; what was counted stays counted."""
        while self._undo:
            self._undo.pop()()
        with suppress(AttributeError, KeyError):
            del self._app.state.fastobs

    def _checks(self) -> Iterator[Check]:
        """Those that nobody had to ask for: of the pools."""
        pools = self.settings.pools
        for check in self._process.probes.checks():
            optional = pools is not None and pools.is_optional(check.name)
            yield replace(check, required=False) if optional else check

    def _watching(self) -> str:
        from .watchdog.summary import summary

        watched = dict(self._process.probes.watched("runtime"))
        refused = "" if self._tail is None else self._tail.refusal
        return summary(self.settings, watches="event loop blocks" in watched, refused=refused)

    def _undecided(self) -> Iterator[str]:
        """Limiters fail open: a route that they pass over looks like one that nobody overloads."""
        settings, shared = self.settings, self._process
        limiters = shared.probes.watched("limits") or shared.meters.rows(catalogue.LIMIT_DECISIONS)
        if settings.limits is None or not limiters:
            return
        excluded = () if settings.metrics is None else settings.metrics.exclude
        if lines := list(undecided(shared.meters, _limitable(self._app, excluded))):
            yield "routes that no limiter decided on"
            yield from (f"  {line}" for line in lines)
            yield UNDECIDED

    def _pages(self) -> Iterator[tuple[str, tuple[ASGIApp, str]]]:
        """What we answer ourselves: by path, with the setting that moves it."""
        metrics = self.settings.metrics
        if metrics is not None and metrics.path is not None:
            token = metrics.token.get_secret_value() if metrics.token else None
            shared = self._process
            page = metrics_page(shared.meters, token=token, users=shared.carry.families)
            yield metrics.path, (page, "metrics.path")
        # Before the profiles, which answer everything below the same prefix.
        for path, page in health_pages(self._health, "/_fastobs", tokens=self._tokens()):
            yield path, (page, "")
        if (profiles := self.settings.profiles) is not None:
            from .profiling.viewer import viewer

            page = viewer(self._store, access=self._access(profiles), prefix=profiles.path)
            yield f"{profiles.path}/*", (page, "profiles.path")

    @cached_property
    def _store(self) -> Store:
        """Made once: who keeps profiles and who shows them must mean the same."""
        profiles = self.settings.profiles
        assert profiles is not None
        service = identify(self.settings.service, self._app).name
        if profiles.url is not None:
            from .profiling.remote import Remote

            return Remote(profiles, service=service)
        from .profiling.store import Folder

        return Folder(profiles, service=service)

    def _tokens(self) -> Iterator[str]:
        """What shows the details of health."""
        for section in (self.settings.metrics, self.settings.profiles):
            if section is not None and section.token is not None:
                yield section.token.get_secret_value()

    def _started(self) -> None:
        """The app has set up what it sets up; what is missing is ours."""
        if self.settings.runtime is not None:
            # Under trio there is no such loop.
            with suppress(RuntimeError):
                self._watch(get_running_loop())
        shared = self._process
        with contained("probes"):
            # What it holds since is counted from the first request on.
            shared.probes.discover()
        who = identify(self.settings.service, self._app)
        shared.workers.join(self.settings.workers, who)
        if (traces := self.settings.traces) is not None:
            _tracing.provide(traces, who, shared.meters, shared.head)
            if traces.server_spans == "fastobs":
                _tracing.spare_probe(self._app)

    def _watch(self, loop: AbstractEventLoop) -> None:
        from .watchdog import watchdog_of

        self._process.probes.on_loop(loop)
        if self._tail is not None and (watchdog := watchdog_of(loop)) is not None:
            watchdog.accompany(self._tail)

    def _capture(self) -> Tail | None:
        """Who samples requests that take long, if that is wanted and somebody could keep it."""
        slow, profiles = self.settings.slow, self.settings.profiles
        if slow is None or slow.profile_from is None or profiles is None:
            return None
        from .probes.threads import Errand
        from .watchdog.tail import Tail

        return Tail(
            slow,
            profiles,
            self._process.meters,
            opened=self._opened,
            store=self._store,
            errand=Errand.__call__.__code__,
            service=lambda: identify(self.settings.service, self._app).name,
        )

    def _of_each(self, stack: ASGIApp) -> dict[str, Any]:
        """What the middleware does with each exchange."""
        settings, meters = self.settings, self._process.meters
        signals: list[Signal] = []
        told: dict[str, Any] = {"signals": signals}
        if settings.metrics is not None:
            from .signals.metrics import http, late_exceptions

            begin, finish = http(meters)
            signals.append(begin)
            told |= {"finishers": [finish], "late": late_exceptions(meters)}
        if settings.traces is not None:
            from .signals.traces import leave

            spans = _tracing.spans_for(stack, settings.traces, self._process.head)
            signals.append(spans.begin)
            told |= {"enter": spans.enter, "leave": leave, "announces": True}
            # Whoever else makes the span decides what becomes of it.
            if spans.enter is not None:
                told["heads"] = list(self._late_spans(settings.traces))
        if self._times(everybody=True):
            from .signals.timing import server_timing

            signals.append(server_timing())
        if settings.breakdown is None:
            from .signals.parts import nothing

            signals.append(nothing)
        return told

    def _late_spans(self, traces: Traces) -> Iterator[Finish]:
        """Who keeps what the sampler does not."""
        slow = self.settings.slow if traces.keep_slow else None
        if traces.keep_errors or slow is not None:
            from .signals.traces import unsampled

            yield unsampled(
                self._process.head,
                errors=traces.keep_errors,
                slow=_never if slow is None else slow.threshold,
            )

    def _stepped(self, stack: ASGIApp) -> ASGIApp:
        """The stack, with its steps driven if that is wanted."""
        breakdown = self.settings.breakdown
        if breakdown is None or breakdown.mode != "steps":
            return stack
        from ._steps import Stepped

        stepped = Stepped(stack)
        self._undo.append(stepped.undo)
        return stepped

    def _requested(self) -> Iterator[tuple[bytes, Signal]]:
        """Who is told of an exchange whose request has a header."""
        settings, meters = self.settings, self._process.meters
        if settings.caches is not None:
            from .signals.conditional import revalidations

            yield from revalidations(meters)
        if settings.profiles is not None:
            from .signals.profiles import HEADER, profiles

            access = self._access(settings.profiles)
            # They begin last: whoever comes before is not in the profile, nor slowed down by it.
            profiled = profiles(
                settings.profiles,
                meters,
                access=access,
                store=self._store,
                service=identify(settings.service, self._app).name,
            )
            if self._times(everybody=False):
                from .signals.timing import timed_for

                profiled = timed_for(access, profiled)
            yield HEADER, profiled

    def _ends(self) -> Iterator[Finish]:
        """Who is told of its end only; the last one knows the most."""
        settings, meters = self.settings, self._process.meters
        if settings.metrics is not None and settings.breakdown is not None:
            from .signals.parts import breakdown

            yield breakdown(meters)
        if settings.limits is not None:
            from .signals.limits import rejections

            yield rejections(meters)
        if settings.pools is not None:
            from .signals.repeats import repeats

            yield repeats(meters)
        if self._tail is not None:
            yield self._tail.finish
        if settings.slow is not None:
            from .signals.slow import slow_requests

            yield slow_requests(
                settings.slow,
                meters,
                self._process.lines.put,
                who=identify(settings.service, self._app),
                worker=lambda: self._process.workers.number,
            )

    def _times(self, *, everybody: bool) -> bool:
        """Whether responses have a ``Server-Timing``: all of them, or those of who may profile."""
        metrics = self.settings.metrics
        if metrics is None or metrics.server_timing is False:
            return False
        return (metrics.server_timing or self._app.debug) == everybody

    def _access(self, profiles: Profiles) -> Access:
        from .profiling.access import Access

        token = profiles.token.get_secret_value() if profiles.token else None
        return Access(token, debug=lambda: self._app.debug)

    def _know_routing(self, stack: ASGIApp) -> None:
        """Find the scope that routing writes to, whatever the app's own middleware hands on."""
        layer: Any = stack
        while layer is not None and not isinstance(layer, ExceptionMiddleware):
            layer = getattr(layer, "app", None)
        if layer is None or not self._app.user_middleware:
            return
        router = layer.app
        layer.app = Inmost(router)

        def remove() -> None:
            layer.app = router

        self._undo.append(remove)

    def _insert(self, wrap: Callable[[ASGIApp], Middleware]) -> None:
        app = self._app
        before = app.__dict__.get("build_middleware_stack")
        build = app.build_middleware_stack
        inserted = True

        def build_wrapped() -> ASGIApp:
            return wrap(build()) if inserted else build()

        def remove() -> None:
            # Somebody may have wrapped our function in the meantime; then it must become harmless.
            nonlocal inserted
            inserted = False
            if app.__dict__.get("build_middleware_stack") is build_wrapped:
                if before is None:
                    del app.__dict__["build_middleware_stack"]
                else:
                    app.__dict__["build_middleware_stack"] = before
            if isinstance(app.middleware_stack, Middleware):
                app.middleware_stack = _inside(app.middleware_stack)

        # On the instance, so that the stack is wrapped whenever it is built: routes and middleware
        # may be added until then, and we are outside even of ServerErrorMiddleware.
        app.__dict__["build_middleware_stack"] = build_wrapped
        if app.middleware_stack is not None:
            app.middleware_stack = wrap(app.middleware_stack)
        self._undo.append(remove)


def _inside(ours: Middleware) -> ASGIApp:
    """The app's own stack."""
    from ._steps import Stepped

    return ours.app.app if isinstance(ours.app, Stepped) else ours.app


def _never(route: str) -> float:  # noqa: ARG001 - of any
    return inf


class _WhileThere:
    """Reads for the meters, which outlive the apps: those of a test-suite come and go by the thousand."""

    def __init__(self, reader: Reader) -> None:
        self._reader = weakref.ref(reader)

    def read(self) -> Iterable[Reading]:
        reader = self._reader()
        return () if reader is None else reader.read()


def _limitable(app: Starlette, excluded: Sequence[str]) -> Iterator[str]:
    """Templates of routes that a limiter may decide on, as far as we see their requests."""
    beginnings = tuple(path[:-1] for path in excluded if path.endswith("*"))
    for selected, template in declared(app.routes):
        if (
            isinstance(selected, Route)
            # The pages of FastAPI's own documentation.
            and getattr(selected.endpoint, "__module__", "") != "fastapi.applications"
            and template not in excluded
            and not template.startswith(beginnings)
        ):
            yield template


def _collisions(app: Starlette, pages: Iterable[str]) -> list[str]:
    """Those of our pages where the app has a route."""
    taken = {getattr(route, "path", None) for route in app.routes}
    taken.update(template for _, template in declared(app.routes))
    return [path for path in pages if path.removesuffix("/*") in taken]


def _way_out(setting: str) -> str:
    """Of a collision with the page that this setting moves; some have none."""
    if not setting:
        return "Give the app's own route another path."
    if setting == "metrics.path":
        return (
            f"Set {setting} to another path, or to None to keep your own endpoint; it shows our metrics "
            "too if it serves prometheus_client's default registry."
        )
    return f"Set {setting} to another path."
