"""Learning that a library was imported, without importing it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Arrivals"]


class Arrivals(MetaPathFinder):
    """First on ``sys.meta_path`` while it expects something; finds nothing itself.

    Args:
        arrived: Told the name of an expected module once its code has run.
    """

    def __init__(self, arrived: Callable[[str], None]) -> None:
        self._arrived = arrived
        self._expected: set[str] = set()
        self._asking: set[str] = set()

    def expect(self, name: str) -> None:
        """Tell when this top-level module is imported."""
        self._expected.add(name)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Expect nothing any more."""
        self._expected.clear()
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the signature of a finder
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec that the others find, with a loader that tells us."""
        if fullname not in self._expected or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self._tell)
        return spec

    def _tell(self, name: str) -> None:
        self._expected.discard(name)
        self._arrived(name)


class _Telling(Loader):
    """Another loader, for as long as it takes to run the module."""

    def __init__(self, loader: Loader, tell: Callable[[str], None]) -> None:
        self._loader = loader
        self._tell = tell

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell(module.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
