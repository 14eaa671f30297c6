"""A service to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parts import Server, serve

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shop of these tests, behind uvicorn, with a token for profiles."""
    env = {
        "FASTOBS_PROFILES_TOKEN": TOKEN,
        "FASTOBS_PROFILES_DIRECTORY": str(tmp_path_factory.mktemp("profiles") / "kept"),
        "FASTOBS_PROFILES_PER_MINUTE": "1000",
    }
    with serve("tests.cli.shop:app", env=env) as server:
        yield server
