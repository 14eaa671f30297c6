"""The route of a request as it was declared, read from what routing left behind in the scope."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from starlette.routing import BaseRoute, Host, Mount, Route
from starlette.types import ASGIApp, Scope

__all__ = ["Routes", "declared"]

SEGMENT, SEGMENTS = "[^/]+", ".+"
"""What a parameter may be."""

ANY, END = object(), object()
"""In a tree of templates: any segment, and what ends here."""


class Routes:
    """Finds the template of the route that served a request, without matching the path again.

    Most requests are answered from the scope alone. Where that is not enough (mounts, and plain
    Starlette routes inside FastAPI) a table of the application's routes is, keyed by the identity
    of what routing selected. A look at the path needs only a route that is mounted in several places,
    and what a middleware answered before routing: that is counted for the route that was asked for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._table: dict[int, list[tuple[Any, str]]] = {}
        self._size = -1
        self._tree = _Tree(())

    def template(self, scope: Scope) -> str:
        """The full declared template with router prefixes and mounts; empty when nothing matched.

        The proxy's own prefix (``root_path``) is not part of it: it is where the app is deployed,
        not what it declares.
        """
        route = scope.get("route")
        fastapi = scope.get("fastapi")
        # FastAPI >= 0.137 keeps the prefixes of include_router() off the route itself.
        included = fastapi.get("effective_route_context") if fastapi else None
        if included is not None and (route is None or included.original_route is route):
            leaf = included
        else:
            leaf = route
        # Starlette sets app_root_path when a request goes through a mount, and only then.
        if "app_root_path" not in scope and leaf is not None:
            return _path(leaf) if leaf is included else leaf.path_format
        return self._look_up(scope, leaf)

    def _look_up(self, scope: Scope, leaf: Any) -> str:
        if (included := leaf) is not None and isinstance(_original(included), (Mount, Host)):
            leaf = None
        selected = scope.get("endpoint") if leaf is None else leaf
        if selected is None:
            return self._asked_for(scope)
        found = self._table.get(id(selected))
        if found is None:
            self._learn()
            found = self._table.get(id(selected), [])
        if len(found) == 1:
            return found[0][1]
        # A mounted app was reached, and none of its routes: a middleware of its own may have answered.
        return _first_match(found, scope) if found else self._by_path(scope)

    def _asked_for(self, scope: Scope) -> str:
        """The template that the path would have led to; empty if routing has looked, and found none."""
        return "" if "router" in scope else self._by_path(scope)

    def _by_path(self, scope: Scope) -> str:
        routes = getattr(self._app, "routes", ())
        if len(routes) != self._tree.size:
            self._tree = _Tree(routes)
        return self._tree.find(_path_of(scope))

    def _learn(self) -> None:
        # Routes are only ever added. Walking the tree is repeated when one was, not for each miss.
        entries = list(declared(getattr(self._app, "routes", ())))
        if len(entries) == self._size:
            return
        table: dict[int, list[tuple[Any, str]]] = {}
        for selected, template in entries:
            known = table.setdefault(id(selected), [])
            if template not in (other for _, other in known):
                # The object is kept, so that its id cannot pass to another one.
                known.append((selected, template))
        self._table, self._size = table, len(entries)


def declared(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[Any, str]]:
    """Everything that routing can select, with its full template."""
    for route in _contexts(routes):
        original = _original(route)
        if isinstance(original, Mount):
            inner = getattr(original.app, "routes", None) or original.routes
            if inner:
                yield from declared(inner, prefix + _mount_path(route))
            else:
                # An ASGI app that we cannot look into: static files, another framework.
                yield original.app, prefix + _path(route)
        elif isinstance(original, Host):
            yield from declared(original.routes, prefix)
        elif (path := _path(route)) or hasattr(original, "endpoint"):
            yield route, prefix + path
            yield original, prefix + path
            if isinstance(original, Route):
                yield original.endpoint, prefix + path


def _contexts(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    for route in routes:
        # FastAPI >= 0.137: an included router has no path of its own, but contexts that do.
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            yield from contexts()


def _original(route: Any) -> Any:
    return getattr(route, "original_route", route)


def _path(route: Any) -> str:
    starlette = getattr(route, "starlette_route", None)
    return getattr(starlette or route, "path_format", "") or ""


def _mount_path(route: Any) -> str:
    return _path(route).removesuffix("/{path}")


def _path_of(scope: Scope) -> str:
    """What is routed, without the proxy's prefix."""
    proxy: str = scope.get("app_root_path", scope.get("root_path", ""))
    path: str = scope["path"]
    return path.removeprefix(proxy)


def _first_match(candidates: list[tuple[Any, str]], scope: Scope) -> str:
    """Of several places where a route is mounted, the one that the request came through."""
    path = _path_of(scope)
    for parameter in (SEGMENT, SEGMENTS):
        for _, template in candidates:
            if _pattern(template, parameter).fullmatch(path):
                return template
    return candidates[0][1]


class _Tree:
    """Templates by the segments of their paths: routing looks at every route, which is too much here.

    Routes of hosts are left out: whose host was asked is not looked at.

    Attributes:
        size: How many routes it was made of; they are only ever added.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.size = len(routes)
        self._root: dict[object, Any] = {}
        # Those whose parameters are several segments, or parts of one: rank, template, what it begins
        # with, and what its parameters are.
        self._others: list[tuple[int, str, str, str]] = []
        spans: dict[str, bool] = {}
        for selected, template in declared(one for one in routes if not isinstance(one, Host)):
            # What comes first knows the kinds of its parameters.
            if template not in spans:
                spans[template] = _spans(selected, template)
        for rank, (template, several) in enumerate(spans.items()):
            self._add(rank, template, several=several)

    def _add(self, rank: int, template: str, *, several: bool) -> None:
        segments = template.split("/")
        if several or any("{" in part and not _is_parameter(part) for part in segments):
            beginning = template.partition("{")[0]
            self._others.append((rank, template, beginning, SEGMENTS if several else SEGMENT))
            return
        node = self._root
        for part in segments:
            node = node.setdefault(ANY if _is_parameter(part) else part, {})
        node.setdefault(END, (rank, template))

    def find(self, path: str) -> str:
        """The template of the first route that this path fits; empty if there is none."""
        nodes = [self._root]
        for part in path.split("/"):
            keys = (part, ANY) if part else (part,)
            nodes = [node[key] for node in nodes for key in keys if key in node]
        found = min((node[END] for node in nodes if END in node), default=(self.size, ""))
        for rank, template, beginning, parameter in self._others:
            if (
                (rank < found[0] or not found[1])
                and path.startswith(beginning)
                and _pattern(template, parameter).fullmatch(path)
            ):
                return template
        return found[1]


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{") and segment.find("}") == len(segment) - 1


def _spans(selected: Any, template: str) -> bool:
    """Whether a parameter may be several segments."""
    convertors = getattr(selected, "param_convertors", None)
    if convertors is None:
        # Of a mounted app everything below it.
        return template.endswith("/{path}")
    return any(re.fullmatch(one.regex, "a/b") for one in convertors.values())


@lru_cache(maxsize=1024)
def _pattern(template: str, parameter: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{[^}]*\\}", parameter, re.escape(template)))
