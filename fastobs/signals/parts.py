"""Where requests' time went, summed by route."""

from __future__ import annotations

from fastobs import catalogue
from fastobs._exchange import Exchange, Finish
from fastobs._parts import OFF, Parts, account
from fastobs.cells import Meters
from fastobs.cells.meters import Counter

__all__ = ["breakdown", "nothing"]

SECTIONS = 50
"""Names that the app may give; more than so many were made from data, and are folded into one."""

OTHER = "_other"


def nothing(exchange: Exchange) -> None:
    """The breakdown is off: of this exchange no part is told."""
    exchange.parts = OFF


def breakdown(meters: Meters) -> Finish:
    """Add up the parts of each exchange that has any, and what is in none of them.

    Args:
        meters: Ours.
    """
    known = set(catalogue.PART)
    most = len(known) + SECTIONS
    # To ask for a row costs more than to add to it.
    rows: dict[tuple[str, str], Counter] = {}

    def finish(exchange: Exchange) -> None:
        if not isinstance(exchange.parts, Parts):
            return
        route = exchange.route
        for part, seconds in account(exchange).items():
            if part not in known:
                if len(known) < most:
                    known.add(part)
                else:
                    part = OTHER  # noqa: PLW2901
                    meters.counter(catalogue.SELF_OVERFLOW, catalogue.HTTP_PART.name).add()
            row = rows.get((route, part))
            if row is None:
                row = rows[route, part] = meters.counter(catalogue.HTTP_PART, route, part)
            row.add(seconds)

    return finish
