"""Where numbers are kept, and how they are shown: rows of float64 cells, read by one renderer.

`store` keeps rows, `meters` gives them meaning (counter, gauge, histogram of a catalogue metric),
`render` writes the text formats, `bridge` offers the rows to prometheus_client and takes its metrics.
"""

from __future__ import annotations

from .meters import Meters, Reader, Reading

__all__ = ["Meters", "Reader", "Reading"]
