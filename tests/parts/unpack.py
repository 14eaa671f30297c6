"""Programs of Debian's newest suite, unpacked into a folder of ours; the system stays as it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .programs import UNPACKED

__all__ = ["can_unpack", "unpack"]

SUITE = "sid"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = re.compile(r"^'(?P<archive>\S+/debian)/?/dists/[\w-]+/InRelease'", re.MULTILINE)
"""How apt names the release file of Debian's own archive, among those of the machine's sources."""


def can_unpack() -> bool:
    """Whether this machine has the tools; being root is not needed."""
    return all(map(shutil.which, ("apt-get", "dpkg-deb")))


def unpack(packages: Sequence[str], *, into: Path = UNPACKED) -> None:
    """Bring packages of the suite without installing them; says on stderr why it could not.

    Apt reads one source of ours, made from the machine's own with another suite, and keeps its
    lists and its files in a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="fastobs-apt-", ignore_cleanup_errors=True) as name:
        try:
            _download(packages, Path(name))
            into.mkdir(parents=True, exist_ok=True)
            for package in Path(name).glob("*.deb"):
                _said(["dpkg-deb", "--extract", str(package), str(into)], Path(name))
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            said = getattr(error, "stdout", None) or ""
            print(f"Debian {SUITE} could not be unpacked: {error}\n{said}", file=sys.stderr)


def archive(uris: str) -> str:
    """Where Debian is, by what ``apt-get update --print-uris`` says.

    Raises:
        LookupError: None of the machine's sources is Debian's archive.
    """
    if found := RELEASE.search(uris):
        return found["archive"]
    msg = "No source of this machine's apt is Debian's archive."
    raise LookupError(msg)


def _download(packages: Sequence[str], folder: Path) -> None:
    where = archive(_said(["apt-get", "update", "--print-uris"], folder))
    signed = f" [signed-by={KEYS}]" if KEYS.exists() else ""
    source = folder / "sources.list"
    source.write_text(f"deb{signed} {where} {SUITE} main\n")
    for part in ("lists", "cache"):
        (folder / part).mkdir()
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        # Apt's own user may not write into our folder.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    ours = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _said(["apt-get", *ours, "update"], folder)
    _said(["apt-get", *ours, "download", *packages], folder)


def _said(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        check=True,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.stdout
