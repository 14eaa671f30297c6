"""What two scrapes say of routes, pools, caches, limits and the event loop. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fastobs import catalogue
from fastobs.catalogue import POOL, POOL_STATE, ROUTE, STATUS

from .exposition import Histogram, Samples, histograms, total

NO_ROUTE = "(no route)"
UNACCOUNTED = "unaccounted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What one route did; times in seconds, NaN where there was nothing to measure."""

    route: str
    requests: float
    rate: float
    p50: float
    p95: float
    p99: float
    errors: float
    limited: float
    mostly: str
    """The part that took most of its time; empty when the server tells of no parts."""
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How a pool fared; ``used`` and ``most`` of the worker that came closest to its limit."""

    pool: str
    used: float
    most: float
    waits: float
    wait_p95: float
    timeouts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How full a pool is now, over all workers; ``most`` is NaN where there is no limit."""

    pool: str
    used: float
    most: float
    waiting: float
    timeouts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    cache: str
    hits: float
    misses: float
    errors: float
    evictions: float
    load_p95: float

    @property
    def hit_rate(self) -> float:
        looked = self.hits + self.misses
        return self.hits / looked if looked else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    route: str
    blocks: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    limiter: str
    limit: str
    route: str
    allowed: float
    limited: float
    errors: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that fastobs noticed by itself."""

    what: str
    route: str
    count: float


def routes(gained: Samples, *, seconds: float) -> list[Route]:
    """Every route that was asked, the slowest (P95) first."""
    metric = catalogue.HTTP_DURATION
    statuses = total(gained, f"{metric.name}_count", ROUTE, STATUS)
    times = histograms(gained, metric, ROUTE)
    spent = total(gained, f"{metric.name}_sum", ROUTE)
    parts = total(gained, catalogue.HTTP_PART.name, ROUTE, "part")
    rows = []
    for (route,), histogram in times.items():
        if not histogram.count:
            continue
        mine = {status: n for (name, status), n in statuses.items() if name == route}
        its_parts = {part: s for (name, part), s in parts.items() if name == route}
        mostly, share = (
            _largest(its_parts, of=spent.get((route,), 0.0)) if parts else ("", math.nan)
        )
        rows.append(
            Route(
                route=route or NO_ROUTE,
                requests=histogram.count,
                rate=histogram.count / seconds,
                p50=histogram.quantile(0.50),
                p95=histogram.quantile(0.95),
                p99=histogram.quantile(0.99),
                errors=sum(n for status, n in mine.items() if status.startswith("5")),
                limited=mine.get("429", 0.0),
                mostly=mostly,
                share=share,
            )
        )
    return sorted(rows, key=lambda row: (-row.p95, row.route))


class Peaks:
    """The fullest that each pool was seen, over several scrapes."""

    def __init__(self) -> None:
        self._fullest: dict[str, tuple[float, float]] = {}

    def see(self, samples: Samples) -> None:
        most = total(samples, catalogue.POOL_MAX.name, POOL, "worker")
        used = total(samples, catalogue.POOL_COUNT.name, POOL, "worker", **{POOL_STATE: "used"})
        for (pool, worker), limit in most.items():
            now = (used.get((pool, worker), 0.0), limit)
            self._fullest[pool] = max(self._fullest.get(pool, now), now)

    def of(self, pool: str) -> tuple[float, float]:
        """Used and most; NaN for a pool that was never seen."""
        return self._fullest.get(pool, (math.nan, math.nan))


def pools(gained: Samples, peaks: Peaks) -> list[Pool]:
    """Every pool that somebody used, the longest wait first."""
    waits = histograms(gained, catalogue.POOL_WAIT, POOL)
    timeouts = total(gained, catalogue.POOL_TIMEOUTS.name, POOL)
    rows = []
    for key in sorted(waits.keys() | timeouts.keys()):
        histogram = waits.get(key, Histogram({}))
        used, most = peaks.of(key[0])
        rows.append(
            Pool(
                pool=key[0],
                used=used,
                most=most,
                waits=histogram.count,
                wait_p95=histogram.quantile(0.95),
                timeouts=timeouts.get(key, 0.0),
            )
        )
    return sorted(
        (row for row in rows if row.waits or row.timeouts),
        key=lambda row: (-row.timeouts, -row.wait_p95 if row.waits else 0.0),
    )


def levels(now: Samples, gained: Samples) -> list[Level]:
    """Every pool that is there, the fullest first.

    Args:
        now: The latest scrape.
        gained: What it gained over the one before.
    """
    used = total(now, catalogue.POOL_COUNT.name, POOL, **{POOL_STATE: "used"})
    most = total(now, catalogue.POOL_MAX.name, POOL)
    waiting = total(now, catalogue.POOL_PENDING.name, POOL)
    timeouts = total(gained, catalogue.POOL_TIMEOUTS.name, POOL)
    rows = [
        Level(
            pool=key[0],
            used=used.get(key, 0.0),
            most=most.get(key, math.nan),
            waiting=waiting.get(key, math.nan),
            timeouts=timeouts.get(key, 0.0),
        )
        for key in used.keys() | most.keys()
    ]
    # Without a limit, `most` is NaN, which no order can have.
    return sorted(rows, key=lambda row: (-row.used / row.most if row.most > 0 else 0.0, row.pool))


def caches(gained: Samples) -> list[Cache]:
    """Every cache that was asked, the lowest hit rate first."""
    requests = total(gained, catalogue.CACHE_REQUESTS.name, "cache", "result")
    evictions = total(gained, catalogue.CACHE_EVICTIONS.name, "cache")
    loads = histograms(gained, catalogue.CACHE_LOAD, "cache")
    rows = [
        Cache(
            cache=name,
            hits=requests.get((name, "hit"), 0.0),
            misses=requests.get((name, "miss"), 0.0),
            errors=requests.get((name, "error"), 0.0),
            evictions=evictions.get((name,), 0.0),
            load_p95=loads.get((name,), Histogram({})).quantile(0.95),
        )
        for name in sorted({name for name, _ in requests})
    ]
    return sorted(
        (row for row in rows if row.hits or row.misses or row.errors),
        key=lambda row: row.hit_rate if row.hits or row.misses else -1.0,
    )


def blocks(gained: Samples) -> list[Blocks]:
    """Who held the event loop, the longest in total first."""
    counts = total(gained, catalogue.LOOP_BLOCKS.name, ROUTE)
    seconds = total(gained, catalogue.LOOP_BLOCKED.name, ROUTE)
    rows = [
        Blocks(route=key[0] or NO_ROUTE, blocks=count, seconds=seconds.get(key, 0.0))
        for key, count in counts.items()
        if count
    ]
    return sorted(rows, key=lambda row: (-row.seconds, row.route))


def limits(gained: Samples) -> list[Limit]:
    """What the limiters decided, the most rejections first."""
    decisions = total(gained, catalogue.LIMIT_DECISIONS.name, "limiter", "limit", ROUTE, "outcome")
    by_limit: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for (limiter, limit, route, outcome), count in decisions.items():
        if count:
            by_limit[limiter, limit, route][outcome] = count
    rows = [
        Limit(
            limiter=limiter,
            limit=limit,
            route=route or NO_ROUTE,
            allowed=outcomes.get("allowed", 0.0),
            limited=outcomes.get("limited", 0.0),
            errors=outcomes.get("error", 0.0),
        )
        for (limiter, limit, route), outcomes in by_limit.items()
    ]
    return sorted(rows, key=lambda row: (-row.limited, row.limiter, row.route))


def findings(gained: Samples) -> list[Finding]:
    """Repeated queries and unhandled exceptions, by route."""
    found = [
        Finding(what="repeated queries (N+1)", route=route or NO_ROUTE, count=count)
        for (route,), count in total(gained, catalogue.DB_REPEATED.name, ROUTE).items()
    ]
    unhandled = total(gained, catalogue.HTTP_EXCEPTIONS.name, ROUTE, catalogue.ERROR)
    found += [
        Finding(what=f"unhandled {error}", route=route or NO_ROUTE, count=count)
        for (route, error), count in unhandled.items()
    ]
    return sorted((f for f in found if f.count), key=lambda f: (-f.count, f.what, f.route))


def _largest(parts: Mapping[str, float], *, of: float) -> tuple[str, float]:
    """The largest part and its share of the whole, where what no part explains is a part too."""
    rest = max(of - sum(parts.values()), 0.0)
    shares = dict(parts) | {UNACCOUNTED: parts.get(UNACCOUNTED, 0.0) + rest}
    name = max(shares, key=lambda part: (shares[part], part))
    return name, shares[name] / of if of else math.nan
