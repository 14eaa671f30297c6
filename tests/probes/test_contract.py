"""Every adapter is asked what `tests.probes.contract` asks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from fastobs.probes import ADAPTERS
from tests.probes.contract import subscribed

HERE = Path(__file__).parent


@pytest.mark.parametrize("row", ADAPTERS, ids=lambda row: f"{row.library}{row.module}")
def test_every_row_has_a_class_in_the_contract_suite(row: object) -> None:
    """Who adds a row writes one; see docs/adding-a-probe.md."""
    for path in HERE.glob("test_*.py"):
        import_module(f"tests.probes.{path.stem}")

    assert (row.library, row.module) in subscribed()  # type: ignore[attr-defined]
