"""What is newer than the installed Debian comes beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import parts
from tests.parts import install, programs, unpack

NEWER = [part for part in programs.PARTS if part.unpacked]

URIS = """\
'http://one.example/debian-security/dists/bookworm-security/InRelease' x 0
'http://one.example/debian/dists/bookworm/InRelease' x 0
'http://one.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0
"""


def test_the_archive_is_the_one_that_the_machine_uses():
    """Its security updates and what others publish do not have the newest suite."""
    assert unpack.archive(URIS) == "http://one.example/debian"


def test_a_machine_without_debians_archive_is_told_so():
    """Ubuntu's archive has no such suite."""
    with pytest.raises(LookupError, match="No source of this machine's apt"):
        unpack.archive("'http://one.example/ubuntu/dists/noble/InRelease' x 0")


def test_what_cannot_be_unpacked_is_said_in_the_programs_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Nothing is raised: the part is missing then, like one that was never asked for."""
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho the network is down\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    unpack.unpack(["prometheus"], into=tmp_path / "parts")

    assert "the network is down" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("part", NEWER, ids=lambda part: part.name)
def test_a_newer_part_is_not_asked_of_the_installed_debian(
    part: programs.Part, capsys: pytest.CaptureFixture[str]
):
    """`apt-get install` would bring the old one."""
    install.explain([part], strict=False)
    [line] = capsys.readouterr().err.splitlines()

    assert "`make parts`" in line
    assert "apt-get install" not in line


@pytest.mark.integration
def test_the_newer_prometheus_has_another_major_version():
    """What is proved on both is proved on two."""
    versions = {
        program: parts.promtool("--version", program=program).split()[2].split(".")[0]
        for program in ("promtool", "promtool-3")
    }

    assert versions["promtool-3"] == "3"
