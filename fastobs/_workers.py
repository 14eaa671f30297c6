"""A worker among its siblings: joins them, keeps what they read of it fresh, and lets go after a fork."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from . import catalogue
from ._contain import contain
from ._farewell import before_the_end, forget
from ._service import Identity
from ._siblings import Unusable, shared_folder
from ._version import __version__
from .cells import Meters, Reading
from .cells.carry import Carry
from .cells.keys import Damaged
from .cells.shared import SharedStore
from .cells.slots import Overflow, count
from .cells.store import MemoryStore
from .config import Workers as Settings

__all__ = ["Workers"]

logger = logging.getLogger("fastobs")


class Workers:
    """This process's part in the whole: alone at first, and wherever sharing is not possible."""

    def __init__(self, meters: Meters, carry: Carry) -> None:
        self._meters = meters
        self._carry = carry
        self._folder: Path | None = None
        self._store: SharedStore | None = None
        self._asked = False
        self._complaints: set[str] = set()
        # Made before anything can go wrong: where new rows fail, so would the one that says it.
        self._errors = meters.counter(catalogue.SELF_ERRORS, "workers")
        self._stop = threading.Event()
        meters.ask(self)
        _all.add(self)

    def join(self, settings: Settings | None, who: Identity) -> None:
        """Share from now on, if there are siblings; what was counted so far is taken along.

        Called when the process begins to serve: in the worker, whatever forked or spawned it.
        """
        if self._asked:
            return
        self._asked = True
        self._enter(settings, who)
        self._meters.counter(catalogue.WORKER_STARTS).add()
        if self._store is not None:
            threading.Thread(target=self._run, name="fastobs-tick", daemon=True).start()
            before_the_end(self._tell_last)

    def read(self) -> Iterator[Reading]:
        """How many workers there are; a process that is alone is one."""
        if self._folder is None:
            yield Reading(catalogue.WORKERS, ("live",), 1.0)
            return
        live, free = count(self._folder)
        yield Reading(catalogue.WORKERS, ("live",), live)
        yield Reading(catalogue.WORKERS, ("free",), free)

    def tell(self) -> None:
        """Bring up to date what siblings show of this process."""
        self._meters.refresh()
        if (store := self._store) is not None:
            store.tell()
            self._carry.publish()

    @property
    def number(self) -> str:
        """Of this worker among its siblings, as in the label ``worker``; empty if it is alone."""
        store = self._store
        return "" if store is None or isinstance(store.slot, Overflow) else str(store.slot.number)

    def status(self) -> str:
        """For people."""
        if self._store is None or self._folder is None:
            return "workers: alone, metrics are those of this process"
        if isinstance(self._store.slot, Overflow):
            return (
                f"workers: all slots in {self._folder} are taken; counts are added to those of the "
                "others once a second, gauges and your own prometheus_client metrics are not shown"
            )
        return (
            f"workers: slot {self._store.slot.number} in {self._folder}\n"
            "your own prometheus_client metrics: counters, histograms and summaries are summed over "
            "the workers; all others are shown of each worker, with the label worker; not carried are "
            "their exemplars, and registries other than the default one"
        )

    def begin_anew(self) -> None:
        """In a forked child: the slot is the parent's, and so is what is in it."""
        store, self._store = self._store, None
        self._folder = None
        self._asked = False
        self._stop = threading.Event()
        self._carry.leave()
        self._meters.begin_anew(MemoryStore())
        if store is not None:
            store.close()

    def close(self) -> None:
        """Let go of the slot; what was counted stays in it, and in this process."""
        self._stop.set()
        forget(self._tell_last)
        self._tell_last()
        store, self._store = self._store, None
        if store is not None:
            self._folder = None
            self._carry.leave()
            self._meters.move(MemoryStore())
            store.close()

    def _enter(self, settings: Settings | None, who: Identity) -> None:
        if settings is None:
            return
        try:
            folder = shared_folder(settings.directory, who, version())
            if folder is None:
                return
            store = SharedStore(folder, version(), self._left_out)
        except (OSError, Unusable, Damaged) as error:
            logger.warning(
                "fastobs: the workers of this server cannot share their metrics, so each shows its "
                "own: %s. Set FASTOBS_WORKERS_DIRECTORY to a directory that they all can write to.",
                error,
            )
            self._errors.add()
            return
        self._meters.move(store)
        self._folder, self._store = folder, store
        if isinstance(store.slot, Overflow):
            self._meters.counter(catalogue.SELF_OVERFLOW, catalogue.WORKERS.name).add()
            logger.warning("fastobs: more workers than slots: %s.", self.status())
        else:
            self._carry.enter(folder, store.slot.number, self._left_out)

    def _left_out(self, what: str) -> None:
        self._errors.add()
        if what not in self._complaints:
            self._complaints.add(what)
            logger.warning("fastobs: left out of the shared metrics: %s.", what)

    def _tell_last(self) -> None:
        """What came after the last tick."""
        if self._store is not None:
            try:
                self.tell()
            except Exception as error:
                contain("workers", error)

    def _run(self) -> None:
        stop, pid = self._stop, os.getpid()
        while os.getpid() == pid:
            try:
                self.tell()
            except Exception as error:
                contain("workers", error)
            if stop.wait(TICK):
                return


TICK = 1.0
"""Seconds after which siblings see what only this process can measure."""

_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def version() -> str:
    """What siblings must have in common to read each other."""
    shape = repr(sorted(catalogue.CATALOGUE.values(), key=lambda metric: metric.name))
    return f"{__version__}-{hashlib.sha256(shape.encode()).hexdigest()[:8]}"


def _after_fork() -> None:
    for workers in list(_all):
        workers.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
