"""What watched things are called: names from variables, and no name twice."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple
from weakref import ref

from starlette.applications import Starlette

from fastobs._files import INSTALLED, adopted

__all__ = ["Label", "Names", "forget_owners", "of_the_app", "variables"]


class Names:
    """The names of one family; a name is free again when what it belonged to is gone."""

    def __init__(self) -> None:
        self._owners: dict[str, ref[Any]] = {}
        # By identity: whoever decides is asked for its name each time.
        self._lent: dict[int, tuple[ref[Any], str]] = {}
        self.on_lend: list[Callable[[], None]] = []
        """Called when a name was lent: who remembers one asks again."""

    def claim(self, owner: object, wanted: str) -> str:
        """The wanted name, or with ``#2`` and so on if something else has it."""
        name, number = wanted, 1
        while (holder := self._holder(name)) is not None and holder is not owner:
            number += 1
            name = f"{wanted}#{number}"
        self._owners[name] = ref(owner)
        return name

    def is_free(self, name: str) -> bool:
        """Whether nothing has this name."""
        return self._holder(name) is None

    def lend(self, obj: object, name: str) -> None:
        """Whoever watches this object shall call it so, even if others are called the same."""
        key = id(obj)
        self._lent[key] = (ref(obj, lambda _: self._lent.pop(key, None)), name)
        for forget in self.on_lend:
            forget()

    def of(self, obj: object) -> str | None:
        """The name that was lent to this object."""
        lent = self._lent.get(id(obj))
        return None if lent is None else lent[1]

    def _holder(self, name: str) -> object:
        owner = self._owners.get(name)
        return None if owner is None else owner()


class Label:
    """The name that probes written by hand have in common, if they are given the same."""

    __slots__ = ("__weakref__", "name")

    def __init__(self, names: Names, wanted: str) -> None:
        self.name = names.claim(self, wanted)


class Place(NamedTuple):
    """Where an object was found."""

    name: str
    module: ModuleType
    variable: str
    """Of the module, through which it was reached."""
    is_variable: bool
    """Whether it is what that variable holds."""


def variables(kinds: tuple[type, ...], apps: Iterable[Starlette] = ()) -> Iterator[tuple[str, Any]]:
    """Objects of these types in variables of the app's own modules, with the variable's name.

    Args:
        kinds: The types.
        apps: Perhaps in no variable, as what a factory makes: their state is looked into all the same.

    Looked into are modules, ``app.state``, classes and attributes of objects whose class is the app's
    own. An object that several modules import is named after the one that assigns it.
    """
    found: dict[int, tuple[Any, list[Place]]] = {}
    # Most are of few types, and some ask their subclasses.
    wanted: dict[type, bool] = {}
    for module_name, module in list(sys.modules.items()):
        if not of_the_app(module_name):
            continue
        for variable, value in list(vars(module).items()):
            inner = _of_class if _is_class_of(value, module_name) else _within
            for path, obj in inner(variable, value, depth=2):
                kind = type(obj)
                if kind not in wanted:
                    wanted[kind] = issubclass(kind, kinds)
                # A function that has nothing is no more than that: whoever decorates one leaves something.
                if wanted[kind] and not (kind is FunctionType and not obj.__dict__):
                    _, places = found.setdefault(id(obj), (obj, []))
                    name = f"{module_name}.{path}"
                    places.append(Place(name, module, variable, path == variable))
    for obj, places in found.values():
        yield _where_assigned(places), obj
    for app in apps:
        for path, obj in _within("app", app, depth=2):
            if id(obj) not in found and issubclass(type(obj), kinds):
                found[id(obj)] = obj, []
                yield path, obj


def _within(path: str, value: Any, *, depth: int) -> Iterator[tuple[str, Any]]:
    # By type(), not isinstance(): a proxy may fail when it is asked for its __class__.
    yield path, value
    if depth == 0:
        return
    if issubclass(type(value), Starlette):
        inner, path = value.state._state, f"{path}.state"
    elif of_the_app(type(value).__module__):
        inner = getattr(value, "__dict__", {})
    else:
        return
    parts = list(inner.items()) if isinstance(inner, dict) else []
    for name, part in (*parts, *_slots(value)):
        yield from _within(f"{path}.{name}", part, depth=depth - 1)


def _is_class_of(value: Any, module_name: str) -> bool:
    """Whether it is a class that this module has written, not imported."""
    return issubclass(type(value), type) and vars(value).get("__module__") == module_name


def _of_class(path: str, kind: type, *, depth: int) -> Iterator[tuple[str, Any]]:
    """What is written in a class, and in those within it; of methods and properties the function."""
    for name, value in list(vars(kind).items()):
        place = f"{path}.{name}"
        if issubclass(type(value), type):
            if depth and value.__qualname__ == f"{kind.__qualname__}.{name}":
                yield from _of_class(place, value, depth=depth - 1)
        elif issubclass(type(value), staticmethod | classmethod):
            yield place, value.__func__
        else:
            yield place, value.fget if issubclass(type(value), property) else value


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds outside of a dictionary, such as one of a slotted dataclass."""
    for kind in type(value).__mro__:
        if of_the_app(kind.__module__):
            for name, slot in list(vars(kind).items()):
                if isinstance(slot, MemberDescriptorType):
                    # Asked like this, the object's own code is not.
                    with suppress(AttributeError):
                        yield name, slot.__get__(value)


def _where_assigned(places: list[Place]) -> str:
    """Where the variable is assigned, not imported; if that cannot be told, the first."""
    # A variable of its own says more than what else has it: ``app.state`` is often given one, too.
    places = [place for place in places if place.is_variable] or places
    if len(places) > 1:
        for place in places:
            assigned = rf"^{re.escape(place.variable)}\s*(:[^=\n]+)?=[^=]"
            if re.search(assigned, _source(place.module), re.MULTILINE):
                return place.name
    return places[0].name


def _source(module: ModuleType) -> str:
    try:
        return Path(module.__file__ or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def of_the_app(module_name: str) -> bool:
    """Whether a module is the app's: of no library, nor the standard one, nor ours."""
    # Asked for every module there is: what was found out is kept.
    known = _owned.get(module_name)
    if known is None:
        module = sys.modules.get(module_name)
        if module is None:
            return False
        known = _owned[module_name] = _is_own(module_name, getattr(module, "__file__", None))
    return known


_owned: dict[str, bool] = {}


def forget_owners() -> None:
    """It is known better now what is the app's."""
    _owned.clear()


def _is_own(module_name: str, file: object) -> bool:
    if not isinstance(file, str) or module_name.partition(".")[0] == "fastobs":
        return False
    if adopted(file):
        return True
    if not {*Path(file).parts}.isdisjoint(INSTALLED):
        return False
    return not file.startswith((sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))
