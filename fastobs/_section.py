"""`section`: a part of a request's time that the app names itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, ParamSpec, TypeVar, cast

from ._contain import contain
from ._exchange import CURRENT
from ._parts import enter, leave

__all__ = ["section"]

P = ParamSpec("P")
R = TypeVar("R")

running = CURRENT.get
"""The request that is under way."""


class section:  # noqa: N801 - it reads like the verb that it is
    """Give a piece of code its own part in the time breakdown of requests.

    A context manager (``with`` or ``async with``) and a decorator (``def`` or ``async def``). What
    has a part of its own, like a query, is not counted again for the section around it. Outside a
    request nothing is measured.

    Args:
        name: What the part is called; one of few, never made from data.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        try:
            if (exchange := running()) is not None:
                enter(exchange, self.name, perf_counter())
        except Exception as error:
            contain("section", error)

    def __exit__(
        self, kind: object = None, raised: object = None, traceback: object = None
    ) -> None:
        try:
            if (exchange := running()) is not None:
                leave(exchange, self.name, perf_counter())
        except Exception as error:
            contain("section", error)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", awaited)

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return called
