"""What the watchdog does for an app, in one line for people."""

from __future__ import annotations

from fastobs.config import Settings

from .watch import refusal

__all__ = ["summary"]


def summary(settings: Settings, *, watches: bool, refused: str) -> str:
    """Whether blocks are told of and slow requests are profiled; of what is off also why.

    Args:
        settings: The app's.
        watches: Whether this process has a watchdog; several apps have one together.
        refused: Why profiles cannot be kept, as far as that is known; empty if they can.
    """
    if not watches:
        return f"watchdog: off, {_off(settings)}; so slow requests are not profiled either"
    runtime = settings.runtime
    after = None if runtime is None else runtime.loop_block_after
    # Without a threshold of this app's, another app's settings have it run.
    limit = "" if after is None else f" longer than {after:g} s"
    return f"watchdog: tells of event loop blocks{limit}; {_profiles(settings, refused)}"


def _off(settings: Settings) -> str:
    if settings.runtime is None:
        return "since runtime is None"
    if settings.runtime.loop_block_after is None:
        return "since runtime.loop_block_after is None"
    return reason if (reason := refusal()) else "since nothing is instrumented any more"


def _profiles(settings: Settings, refused: str) -> str:
    slow = settings.slow
    if slow is None or settings.profiles is None:
        return (
            f"no profiles of slow requests, since {'slow' if slow is None else 'profiles'} is None"
        )
    if slow.profile_from is None:
        return "no profiles of slow requests, since slow.profile_from is None"
    if refused:
        return f"no profiles of slow requests until the next start: {refused}"
    return (
        f"samples requests from {slow.profile_from:.0%} of their threshold on, and keeps what ends "
        "slow or fails"
    )
