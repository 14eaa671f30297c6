"""Optional libraries."""

from __future__ import annotations

import pytest

from fastobs._extras import need
from fastobs.errors import ConfigError, MissingExtra


def test_a_missing_library_is_an_error_that_says_what_to_install() -> None:
    """Asked for and absent: at start-up, not at the first request."""
    with pytest.raises(MissingExtra) as caught, need("traces.server_spans='x'", extra="contrib"):
        import no_such_library  # type: ignore[import-not-found] # noqa: F401

    assert str(caught.value) == (
        "traces.server_spans='x' needs 'no_such_library', which is not installed. "
        "Run: pip install 'fastobs[contrib]'"
    )
    assert isinstance(caught.value, (ConfigError, ImportError))
    assert caught.value.name == "no_such_library"
