"""Accounts of connection pools."""

from __future__ import annotations

from collections.abc import Callable

from fastobs import catalogue
from fastobs.cells import Meters
from fastobs.probes._pools import Account

Read = Callable[..., dict[tuple[str, ...], float]]


def test_connections_that_are_opened_before_there_is_a_name_are_counted(
    meters: Meters, read: Read
) -> None:
    """As soon as there is one; what cannot be known has no series."""
    account = Account(lambda: None, meters, described="driver:host/db", own="own")
    account.opened(0.25)
    account.name_it(account.wanted, {catalogue.POOL_CREATE, catalogue.POOL_LEAKED})
    account.opened(0.25)

    hidden = Account(lambda: None, meters, described="hidden")
    hidden.name_it(hidden.wanted, set())
    hidden.opened(0.25)
    hidden.waited(0.25)

    assert read(catalogue.POOL_CREATE) == {("own",): 2}
    assert read(catalogue.POOL_LEAKED) == {("own", ""): 0}
    assert read(catalogue.POOL_WAIT) == read(catalogue.POOL_TIMEOUTS) == {}
