"""Where in the app's own code something was called from."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fastobs._files import INSTALLED, adopted

__all__ = ["Site", "call_site", "forget_files", "written"]

Site = tuple[dict[str, Any], CodeType, int]
"""The module's variables, the function and where in it: what is quickest to get. Written out only when
somebody wants to read it."""

FRAMES = 60
"""So deep is looked; an ORM query that a template or a serializer caused has some 40 of others."""

FILES = 10_000
"""Names of files that are remembered; code that is made at run time may have any."""

_OTHERS = (
    "<",
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{sysconfig.get_path('stdlib')}{os.sep}",
    f"{sysconfig.get_path('platstdlib')}{os.sep}",
)
_INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in INSTALLED)

_own: dict[str, bool] = {}


def call_site(frames: int = FRAMES, inner: int = 1) -> Site | None:
    """The innermost line that is neither ours, nor of an installed package or the standard library.

    Under SQLAlchemy's asyncio, it goes on in the task that the greenlet works for.

    Args:
        frames: So many are looked at; None if there is none among them.
        inner: So many are passed over without a look, which would take 0.1 us each.
    """
    frame: FrameType | None = sys._getframe(inner)
    greenlet: Any = None
    known = _own
    while frames:
        if frame is None:
            frame, greenlet = _outside(greenlet)
            if frame is None:
                return None
        code = frame.f_code
        try:
            own = known[code.co_filename]
        except KeyError:
            own = _is_own(code.co_filename)
        if own:
            return frame.f_globals, code, frame.f_lasti
        frame = frame.f_back
        frames -= 1
    return None


def written(site: Site | None) -> str:
    """``shop/orders.py:31``: no more of the path than the module's name says; empty for None."""
    if site is None:
        return ""
    names, code, at = site
    lines = (line for begin, end, line in code.co_lines() if begin <= at < end)
    line = next(lines, None) or code.co_firstlineno
    return f"{_within(names.get('__name__', ''), code.co_filename)}:{line}"


@lru_cache(maxsize=1000)
def _within(module: str, file: str) -> str:
    parts = Path(file).parts
    depth = module.count(".") + (2 if parts[-1] == "__init__.py" else 1)
    return "/".join(parts[-depth:])


def _outside(inner: Any) -> tuple[FrameType | None, Any]:
    """Where the greenlet's stack goes on: the frames of the one that switched to it."""
    module = sys.modules.get("greenlet")
    if module is None:
        return None, None
    parent = (module.getcurrent() if inner is None else inner).parent
    return (None, None) if parent is None else (parent.gr_frame, parent)


def _is_own(file: str) -> bool:
    if len(_own) >= FILES:
        _own.clear()
    own = not file.startswith(_OTHERS) and not any(place in file for place in _INSTALLED)
    _own[file] = own = own or adopted(file)
    return own


def forget_files() -> None:
    """It is known better now what is the app's."""
    _own.clear()
