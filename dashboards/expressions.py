"""Every query of every board, ready for a real Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastobs.promql import WINDOW

from .boards import boards
from .kit import Board, Chart

__all__ = ["Expression", "expressions", "plain"]

VARIABLE = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A query without Grafana's variables.

    Attributes:
        legend: Grafana's template; every ``{{label}}`` in it must be a label of the result.
        maybe_empty: Why there may be no data; empty if there must be some.
        exemplar: Traces are expected behind it.
        instant: Asked for one moment, not for a range.
    """

    board: str
    panel: str
    ref: str
    expr: str
    legend: str
    maybe_empty: str
    exemplar: bool
    instant: bool


def expressions(window: str = "1m") -> Iterator[Expression]:
    """The queries of all panels, everything chosen in every variable.

    Args:
        window: Instead of ``$__rate_interval``; at least four scrapes.
    """
    for board in boards():
        everything = {variable.name: variable.all_value for variable in board.templating.list}
        for chart in _charts(board):
            for target in chart.targets:
                yield Expression(
                    board=board.uid,
                    panel=chart.title,
                    ref=target.refId,
                    expr=plain(target.expr, window, everything),
                    legend=target.legendFormat,
                    maybe_empty=target.maybe_empty,
                    exemplar=target.exemplar,
                    instant=target.instant,
                )


def plain(expression: str, window: str, values: Mapping[str, str]) -> str:
    """The expression with the window and the values of Grafana's variables filled in."""
    return VARIABLE.sub(lambda found: values[found[1]], expression.replace(WINDOW, window))


def _charts(board: Board) -> Iterator[Chart]:
    return (panel for panel in board.panels if isinstance(panel, Chart))
