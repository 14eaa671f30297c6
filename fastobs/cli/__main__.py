"""`python -m fastobs.cli`: the same as `fastobs`, where scripts are not on the path."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
