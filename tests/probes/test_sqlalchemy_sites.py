"""The line of the app's code that something was called from."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest

from fastobs.probes import _sites
from fastobs.probes._sites import call_site, written


def test_it_is_the_innermost_line_of_the_apps_own():
    """Module, file and line; people are shown no more of the path than the module's name."""
    site = call_site()
    line = sys._getframe().f_lineno - 1

    assert written(site) == f"tests/probes/test_sqlalchemy_sites.py:{line}"


def test_a_package_is_told_by_its_file():
    """Not by its folder."""
    code = compile("\n\npass", "/srv/app/shop/orders/__init__.py", "exec")

    assert written(({"__name__": "shop.orders"}, code, len(code.co_code) - 2)) == (
        "shop/orders/__init__.py:3"
    )
    assert written(None) == ""


@pytest.mark.parametrize("greenlets", [True, False])
def test_where_nothing_is_the_apps_there_is_none(monkeypatch, greenlets):
    """A thread of a library, also where greenlet is not installed."""
    if not greenlets:
        monkeypatch.delitem(sys.modules, "greenlet", raising=False)
    told: SimpleQueue[Any] = SimpleQueue()
    thread = Thread(target=_library("told.put(call_site())", told=told, call_site=call_site))
    thread.start()
    thread.join()

    assert told.get() is None


def test_it_is_not_looked_for_for_ever():
    """Beyond so many frames it is not worth its time."""
    deep = _library("return call_site() if n == 0 else run(n - 1)", call_site=call_site)

    assert deep(10) is not None
    assert deep(_sites.FRAMES) is None


def _library(body: str, **names: Any) -> Any:
    """A function whose code is not the app's."""
    exec(compile(f"def run(n=0): {body}", "<library>", "exec"), names)
    return names["run"]


def test_files_without_end_are_not_remembered(monkeypatch):
    """Code that is made at run time may have any name."""
    monkeypatch.setattr(_sites, "_own", {})
    monkeypatch.setattr(_sites, "FILES", 2)
    for number in range(5):
        assert not _sites._is_own(f"<made {number}>")

    assert len(_sites._own) <= 2
