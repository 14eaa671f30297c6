"""What teaches fastobs a library: one adapter each, found by the module it is for.

A family (pools, caches, limits, runtime) is a question, with its series, panels, alerts and runbook;
an adapter answers it for one library. A new library is one file here, one test, and one row in
`ADAPTERS`.
"""

from __future__ import annotations

from fastobs.cells import Meters
from fastobs.config import Settings


class Probes:
    """The adapters of this process."""

    def __init__(self, meters: Meters) -> None:
        self.meters = meters

    def attach(self, settings: Settings) -> None: ...
    def detach(self) -> None: ...
    def status(self) -> str:
        return ""
