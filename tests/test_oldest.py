"""The releases that we claim, and those that the tests run with."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from docs.__main__ import PACKAGES, pins, releases
from fastobs.probes import ADAPTERS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
RUNTIME = dict(each.split(">=") for each in PROJECT["dependencies"])
"""The lowest versions that are declared, by package."""


def test_what_has_an_oldest_release_has_a_newest() -> None:
    """Both files name the same packages, and no oldest release is newer than the newest."""
    oldest, newest = pins("oldest.txt"), pins("newest.txt")

    assert oldest.keys() == newest.keys()
    assert not [name for name in oldest if Version(oldest[name]) > Version(newest[name])]


@pytest.mark.parametrize("package", pins("newest.txt"))
def test_no_release_is_claimed_that_is_newer_than_what_the_tests_run_with(package: str) -> None:
    """The page says only what was tried; a machine may have newer ones, but not be without."""
    assert Version(pins("newest.txt")[package]) <= Version(version(package))


def test_every_library_of_an_adapter_has_versions() -> None:
    """One without would be claimed for any release."""
    assert [row.library for row in ADAPTERS if not releases(row.library)] == []


def test_no_adapter_refuses_a_release_that_is_claimed() -> None:
    """What it refuses is older than what the tests ran with."""
    refusing = {row.library: row.oldest for row in ADAPTERS if row.oldest}

    assert refusing
    assert all(Version(pins("oldest.txt")[name]) >= Version(old) for name, old in refusing.items())


@pytest.mark.parametrize("package", RUNTIME)
def test_what_fastobs_needs_is_tested_from_where_it_is_declared(package: str) -> None:
    """The lower bound in pyproject.toml is the oldest release that the tests ran with."""
    assert Version(pins("oldest.txt")[package]) == Version(RUNTIME[package])


def test_a_library_has_the_versions_of_its_package() -> None:
    """The module's name leads to what pip calls it; nothing is claimed of what has no versions."""
    assert releases("fastapi_cache") == "0.2.2"
    assert releases("redis").startswith(pins("oldest.txt")["redis"] + " to ")
    assert releases("functools") == "Python's own"
    assert releases("no-such-library") == ""
    assert PACKAGES.keys() <= {row.library for row in ADAPTERS}
