"""The releases that we claim, and those that the tests run with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.version import Version

from docs.__main__ import PACKAGES, pins, releases
from fastobs.probes import ADAPTERS


def test_what_has_an_oldest_release_has_a_newest() -> None:
    """Both files name the same packages, and no oldest release is newer than the newest."""
    oldest, newest = pins("oldest.txt"), pins("newest.txt")

    assert oldest.keys() == newest.keys()
    assert not [name for name in oldest if Version(oldest[name]) > Version(newest[name])]


@pytest.mark.parametrize("package", pins("newest.txt"))
def test_no_release_is_claimed_that_is_newer_than_what_the_tests_run_with(package: str) -> None:
    """The page says only what was tried; a machine may have newer ones."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")

    assert Version(pins("newest.txt")[package]) <= Version(installed)


def test_a_library_has_the_versions_of_its_package() -> None:
    """The module's name leads to what pip calls it; nothing is claimed of what has no versions."""
    assert releases("fastapi_cache") == "0.2.2"
    assert releases("redis").startswith(pins("oldest.txt")["redis"] + " to ")
    assert releases("functools") == "Python's own"
    assert releases("no-such-library") == ""
    assert PACKAGES.keys() <= {row.library for row in ADAPTERS}
