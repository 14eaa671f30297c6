"""Rate limits of fastapi-guard on requests, not on WebSockets; what else it blocks is no decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from guard_core.handlers.ratelimit_handler import RateLimitManager

from fastobs._contain import contain
from fastobs._decisions import decide
from fastobs.config import Settings

from . import Kit, Probe
from ._hooks import Hooks

__all__ = ["FastAPIGuard", "probe"]

COMPONENT = "probes.fastapi_guard"


def probe(kit: Kit) -> Probe:
    """The adapter."""
    return FastAPIGuard(kit)


class FastAPIGuard(Probe):
    """The limits family, for fastapi-guard: its one manager decides for all middleware of a process.

    WebSockets are decided about elsewhere, by a function that is imported by name.
    """

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._hooks = Hooks()
        self._name = ""

    def attach(self, settings: Settings) -> None:  # noqa: ARG002 - nothing to set yet
        self._hooks.wrap(RateLimitManager, "check_rate_limit", self._around)

    def detach(self) -> None:
        self._hooks.undo()

    def status(self) -> Iterator[tuple[str, str]]:
        if self._name:
            yield self._name, "fastapi-guard's rate limits"

    # What follows runs within the app's calls: it must not raise.

    def _around(
        self, original: Callable[..., Awaitable[object]]
    ) -> Callable[..., Awaitable[object]]:
        async def check_rate_limit(manager: Any, *args: Any, **options: Any) -> object:
            try:
                refusal = await original(manager, *args, **options)
            except Exception:
                self._decided(manager, options, "error")
                raise
            self._decided(manager, options, "allowed" if refusal is None else "limited")
            return refusal

        return check_rate_limit

    def _decided(self, manager: Any, options: dict[str, Any], outcome: str) -> None:
        if not self._hooks.on:
            return
        try:
            config = options.get("config") or manager.config
            if not config.enable_rate_limiting:
                return
            if config.passive_mode and outcome == "limited":
                # It is logged, and the request goes on.
                outcome = "allowed"
            if not self._name:
                self._name = self.kit.names.claim(RateLimitManager, "fastapi-guard")
            # The path is no label: what is asked for need not exist.
            decide(self.kit.meters, self._name, _rate(config, options), outcome)
        except Exception as error:
            contain(COMPONENT, error)


def _rate(config: Any, options: dict[str, Any]) -> str:
    """What is allowed, like ``5 per 60 s``; a route's own limit is given by keyword."""
    count, window = options.get("rate_limit"), options.get("rate_limit_window")
    count = config.rate_limit if count is None else count
    window = config.rate_limit_window if window is None else window
    return f"{count} per {window} s"
