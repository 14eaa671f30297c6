"""Caches written by hand over redis-py, recognised from the replies.

Who asks for a key that is not there, stores it with an expiry, and finds it later has a cache. What
is told of a key is first counted where nobody sees it; once its template has shown to be a cache,
that becomes visible, from the beginning. What is not clear stays unknown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from threading import Lock
from time import perf_counter
from typing import Any

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoReply

from fastobs import catalogue
from fastobs._contain import contain
from fastobs._exchange import CURRENT
from fastobs.cells import Meters, Reading
from fastobs.cells.meters import Row
from fastobs.cells.store import MemoryStore
from fastobs.config import Settings

from . import ADAPTERS, Kit, Probe
from ._caches import Tally
from ._replies import OBSERVERS, Observer
from ._templates import Templates

__all__ = ["RedisCaches", "probe"]

COMPONENT = "probes.redis_cache"

TEMPLATES = catalogue.CACHE_LOAD.limit - 1
"""Templates of keys that are looked at, caches or not: what fits into meters."""

NAMES = 100
"""Caches that have a name of their own."""

OTHER = "_other"
"""Where further caches are counted."""

REMEMBERED = 8192
"""Keys whose template is remembered, by their hashes."""

LOADED = 1000
"""Keys whose latest load is remembered."""

OPEN, OPEN_OF_REQUEST = 32, 256
"""Misses of one task, and of a request, that may still become loads."""

STATE = (
    "GETEX",
    "GETSET",
    "GETDEL",
    "EXPIRE",
    "PEXPIRE",
    "EXPIREAT",
    "PEXPIREAT",
    "PERSIST",
    "SETNX",
    "SETRANGE",
    "APPEND",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "DECR",
    "DECRBY",
)
"""Nobody does these with what is cached: a session is kept alive, a lock taken, a counter raised."""

EXPIRY = frozenset(("EX", "PX", "EXAT", "PXAT"))
CONDITION = frozenset(("XX", "KEEPTTL"))
CLAIM = frozenset(("NX", "GET"))
"""With these, SET does what SETNX and GETSET do."""

IDEMPOTENCY = re.compile(
    r"(?:^|[:/|])idem(?:poten(?:t|cy|ce))?(?:[._-]?keys?)?(?=[:/|._-])", re.IGNORECASE
)
"""An answer that is kept for who asks the same again is used like a cache that hardly ever hits; all
that tells them apart is what it is called."""

UNREACHABLE = (NoConnection, NoReply)

ABOUT = frozenset(row.library.partition(".")[0] for row in ADAPTERS if row.family == "caches")
"""Libraries whose caches are counted already, whatever they keep them in."""


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return RedisCaches(kit)


class Suspect:
    """A template of keys, and what speaks for its being a cache."""

    __slots__ = ("__weakref__", "folded", "loads", "name", "never", "tally", "template", "writes")

    def __init__(self, template: str, tally: Tally, *, never: bool) -> None:
        self.template = template
        self.tally = tally
        self.name = ""
        self.never = never
        self.folded = False
        self.loads = self.writes = 0

    @property
    def is_cache(self) -> bool:
        """Whether it is used like one: what was missed is mostly loaded, and found again.

        A list of revoked tokens is missed all the time; a session is stored again and again.
        """
        return self.may_be_one and self.loads > self.writes

    @property
    def may_be_one(self) -> bool:
        """Whether nothing speaks against it: somebody else may have loaded all that is found."""
        missed = self.tally.misses.value
        found = self.tally.hits.value
        return bool(found and self.loads >= self.writes and 2 * self.loads >= missed)


class Miss:
    """A key that was not there; its load may have begun."""

    __slots__ = ("at", "open", "place")

    def __init__(self, place: int, at: float) -> None:
        self.place = place
        self.at = at
        self.open = True


MISSES: ContextVar[tuple[Miss, ...]] = ContextVar("fastobs_redis_misses", default=())
"""Of this task or thread, and of those that made it."""

OF_REQUEST = "fastobs.redis_misses"
"""Where the scope of a request has those of all its tasks and threads: who asks with `gather` or in a
worker thread stores what was missing elsewhere."""


class RedisCaches(Probe):
    """The caches family, for what is written by hand over redis-py."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._unseen = Meters()
        self._templates = Templates(TEMPLATES)
        self._suspects: dict[str | None, Suspect] = {}
        self._by_key: dict[int, Suspect] = {}
        self._by_head: dict[str | bytes, Suspect] = {}
        self._settled = 0
        self._shown: list[Suspect] = []
        self._other: Tally | None = None
        self._ended: dict[int, float] = {}
        self._lock = Lock()
        self._blind = False
        self._acts = {
            "GET": self._get,
            "MGET": _contained(self._mget),
            "SET": _contained(self._set),
            "SETEX": _contained(self._setex),
            "PSETEX": _contained(self._setex),
            **dict.fromkeys(STATE, _contained(self._state)),
        }

    def attach(self, settings: Settings) -> None:
        self._blind = settings.pools is None
        OBSERVERS.update(self._acts)

    def detach(self) -> None:
        for name in self._acts:
            OBSERVERS.pop(name, None)
        self._forget()

    def begin_anew(self) -> None:
        self._lock = Lock()
        self._unseen.begin_anew(MemoryStore())

    def read(self) -> Iterator[Reading]:
        # Not at once with the hit: what speaks against it may come with the end of that request.
        doubtful: list[Suspect] = []
        for known, suspect in list(self._suspects.items()):
            if suspect.name or suspect.never:
                continue
            template = self._templates.of(suspect.template)
            if template != suspect.template:
                # Its place takes ever new words: what looked like a name may be somebody's.
                self._merge(self._suspects.pop(known), template)
            elif suspect.is_cache:
                self._show(suspect)
            elif suspect.may_be_one and self.kit.names.is_free(template):
                doubtful.append(suspect)
        if doubtful:
            # What another worker has recognised, it has loaded: this one only finds it.
            self.kit.meters.hear()
            shown = {row.values[0] for row in self.kit.meters.rows(catalogue.CACHE_REQUESTS)}
            for suspect in doubtful:
                if suspect.template in shown:
                    self._show(suspect)
        yield from ()

    def status(self) -> Iterator[tuple[str, str]]:
        for suspect in self._shown:
            if not suspect.never:
                yield suspect.name, "keys of Redis, used as a cache"

    def unwatchable(self) -> Iterator[tuple[str, str]]:
        if self._blind:
            yield (
                "caches over redis-py",
                "they are recognised by their commands, which are only seen without pools=None.",
            )

    def _show(self, suspect: Suspect) -> None:
        """What was counted becomes visible."""
        if len(self._shown) < NAMES:
            suspect.name = self.kit.names.claim(suspect, suspect.template)
            tally = Tally(self.kit.meters, suspect.name)
            self._shown.append(suspect)
        else:
            suspect.name, suspect.folded = OTHER, True
            tally = self._other = self._other or Tally(self.kit.meters, OTHER)
        suspect.tally = tally
        folded = self._carry(suspect.template, self.kit.meters, suspect.name)
        if suspect.folded:
            self._overflowed(folded)

    def _merge(self, suspect: Suspect, template: str | None) -> None:
        """What was counted of one template belongs to another."""
        target = self._suspects.get(template)
        if target is None:
            target = self._suspects[template] = self._new(template, never=template is None)
        suspect.never = True
        if not target.never:
            target.loads += suspect.loads
            target.writes += suspect.writes
            meters = self.kit.meters if target.name else self._unseen
            moved = self._carry(suspect.template, meters, target.name or target.template)
            if target.folded:
                self._overflowed(moved)

    def _carry(self, template: str, meters: Meters, name: str) -> float:
        """Add what was counted of a template to what these meters have of a name, and say how much."""
        return sum(
            _carry(row, meters, (name, *row.values[1:]))
            for metric in (
                catalogue.CACHE_REQUESTS,
                catalogue.CACHE_LOAD,
                catalogue.CACHE_STAMPEDES,
            )
            for row in list(self._unseen.rows(metric))
            if row.values[0] == template
        )

    def _new(self, template: str | None, *, never: bool) -> Suspect:
        name = template or OTHER
        return Suspect(name, Tally(self._unseen, name), never=never)

    def _overflowed(self, amount: float = 1.0) -> None:
        metric = catalogue.CACHE_REQUESTS.name
        self.kit.meters.counter(catalogue.SELF_OVERFLOW, metric).add(amount)

    # What follows runs within the app's calls: it must not raise.

    def _get(self, args: Sequence[Any], reply: Any, took: float) -> None:  # noqa: ARG002
        # What is asked for most of the time, and so contains its own errors.
        try:
            if len(args) < 2:
                return
            key = args[1]
            if type(key) is str:
                # As `_suspect` does it, without the calls.
                head, _, last = key.rpartition(":")
                if "/" in last or "|" in last:
                    head = ""
                suspect = self._by_head.get(head) or self._by_key.get(hash(key))
                if suspect is None:
                    suspect = self._learn(key, head)
            else:
                suspect = self._suspect(key)
            if suspect.never:
                return
            if reply is None:
                suspect.tally.misses.add()
                _missed((Miss(hash(key), perf_counter()),))
            elif not isinstance(reply, BaseException):
                hits = suspect.tally.hits
                hits.cells[hits.at] += 1.0
            elif isinstance(reply, UNREACHABLE):
                # Any other may be that of another command in the same pipeline.
                suspect.tally.errors.add()
            else:
                return
            if suspect.folded:
                self._overflowed()
        except Exception as error:
            contain(COMPONENT, error)

    def _mget(self, args: Sequence[Any], reply: Any, took: float) -> None:
        keys = args[1:]
        if isinstance(reply, BaseException):
            reply = [reply] * len(keys)
        if len(reply) != len(keys):
            return
        missed = []
        now = perf_counter()
        for key, one in zip(keys, reply, strict=True):
            if one is not None:
                self._get(("GET", key), one, took)
                continue
            suspect = self._suspect(key)
            if not suspect.never:
                suspect.tally.misses.add()
                missed.append(Miss(hash(key), now))
                if suspect.folded:
                    self._overflowed()
        if missed:
            _missed(missed)

    def _set(self, args: Sequence[Any], reply: Any, took: float) -> None:
        options = {
            word.decode("ascii", "replace").upper() if isinstance(word, bytes) else word.upper()
            for word in args[3:]
            if isinstance(word, (str, bytes))
        }
        if options & CLAIM:
            self._state(args, reply, took)
        elif options & EXPIRY and not options & CONDITION:
            self._setex(args, reply, took)

    def _setex(self, args: Sequence[Any], reply: Any, took: float) -> None:
        suspect = self._suspect(args[1])
        if suspect.never or isinstance(reply, BaseException):
            return
        place = hash(args[1])
        sent = perf_counter() - took
        exchange = CURRENT.get()
        others = () if exchange is None else exchange.scope.get(OF_REQUEST, ())
        for miss in (*MISSES.get(), *others):
            # In one pipeline with the question it is no answer to it.
            if miss.open and miss.place == place and miss.at <= sent:
                # Tasks that were made since have it, too.
                miss.open = False
                suspect.loads += 1
                self._loaded(suspect, miss, sent)
                return
        suspect.writes += 1

    def _loaded(self, suspect: Suspect, miss: Miss, sent: float) -> None:
        with self._lock:
            before = self._ended.pop(miss.place, None)
            self._ended[miss.place] = perf_counter()
            if len(self._ended) > LOADED:
                del self._ended[next(iter(self._ended))]
        # Storing is no part of the load. Another one that ended since this one began was too much.
        suspect.tally.load(sent - miss.at, crowded=before is not None and before > miss.at)

    def _state(self, args: Sequence[Any], reply: Any, took: float) -> None:  # noqa: ARG002
        self._suspect(args[1]).never = True

    def _suspect(self, key: Any) -> Suspect:
        head = _head(key)
        return self._by_head.get(head) or self._by_key.get(hash(key)) or self._learn(key, head)

    def _learn(self, key: Any, head: str | bytes) -> Suspect:
        template = self._templates.of(_text(key))
        if self._settled != self._templates.settled:
            self._settled = self._templates.settled
            self._forget()
        suspect = self._suspects.get(template)
        if suspect is None:
            never = (
                template is None
                or IDEMPOTENCY.search(template) is not None
                or _is_known(sys._getframe(1))
            )
            suspect = self._suspects.setdefault(template, self._new(template, never=never))
        if head and template == f"{_text(head)}:*":
            # Whatever comes last: most keys need no look at all.
            self._by_head[head] = suspect
            return suspect
        if len(self._by_key) >= REMEMBERED:
            self._by_key.clear()
        self._by_key[hash(key)] = suspect
        return suspect

    def _forget(self) -> None:
        self._by_key.clear()
        self._by_head.clear()


def _contained(act: Observer) -> Observer:
    """What is done with a command that has a key."""

    def heard(args: Sequence[Any], reply: Any, took: float) -> None:
        if len(args) < 2:
            return
        try:
            act(args, reply, took)
        except Exception as error:
            contain(COMPONENT, error)

    return heard


def _missed(misses: Sequence[Miss]) -> None:
    places = {miss.place for miss in misses}
    others = []
    for miss in MISSES.get():
        if miss.place in places:
            # Who asks again begins again.
            miss.open = False
        elif miss.open:
            others.append(miss)
    MISSES.set((*others[-OPEN:], *misses))
    exchange = CURRENT.get()
    if exchange is not None:
        found = exchange.scope.get(OF_REQUEST)
        if found is None:
            # Two threads of a request may get here at once.
            found = exchange.scope.setdefault(OF_REQUEST, [])
        found.extend(misses)
        del found[:-OPEN_OF_REQUEST]


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _head(key: Any) -> str | bytes:
    """What is before the last colon; empty if other separators follow it."""
    if isinstance(key, str):
        head, _, last = key.rpartition(":")
        return "" if "/" in last or "|" in last else head
    if isinstance(key, bytes):
        start, _, end = key.rpartition(b":")
        return b"" if b"/" in end or b"|" in end else start
    return ""


def _is_known(frame: Any) -> bool:
    """Whether who sent the command is a library that has an adapter of its own."""
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in {"fastobs", "redis"}:
            return package in ABOUT
        frame = frame.f_back
    return False


def _carry(row: Row, meters: Meters, values: tuple[str, ...]) -> float:
    """Add what was counted in a row to that of the same metric in other meters, and say how much."""
    kind = meters.histogram if row.metric.kind == "histogram" else meters.counter
    visible = kind(row.metric, *values)
    numbers = row.numbers(row.cells)
    for at, amount in enumerate(numbers):
        visible.cells[visible.at + at] += amount
    return sum(numbers) if row.metric is catalogue.CACHE_REQUESTS else 0.0
