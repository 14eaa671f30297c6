"""The command as a whole: its help, and what it says when it cannot work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.running import ROOT, Done, complaint, fastobs, process
from tests.parts import PATIENCE

COMMANDS = [
    ["dashboards", "export"],
    ["alerts", "export"],
    ["alerts", "thresholds"],
    ["monitor", "export"],
    ["token"],
    ["profile"],
    ["top"],
    ["diff"],
    ["doctor"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example(words):
    """The line that is copied from the help works."""
    done = fastobs(*words, "--help")

    assert done.returncode == 0
    assert f"Example: fastobs {' '.join(words)}" in done.stdout


def test_the_command_is_a_module_too():
    """Where scripts are not on the path."""
    done = process("--help")

    assert done.returncode == 0
    assert "profile" in done.stdout


def test_what_was_typed_wrong_ends_with_2():
    """Scripts tell a wrong call from a failure."""
    done = fastobs("tokens")

    assert done.returncode == 2
    assert "No such command 'tokens'" in done.stderr


def test_without_its_libraries_the_command_says_what_to_install():
    """The service does not need them, so they may be missing."""
    code = "import sys; sys.modules['typer'] = None; from fastobs.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    said = complaint(Done(done.returncode, done.stdout, done.stderr))
    assert said == (
        "The command line needs 'typer', which is not installed. Run: pip install 'fastobs[cli]'"
    )


def test_the_token_stands_alone_on_a_line_that_can_be_kept():
    """Appending the output to a file of variables is enough; words for people are on stderr."""
    one, two = fastobs("token"), fastobs("token", "--for", "metrics")

    name, _, value = one.stdout.strip().partition("=")
    assert (name, len(value)) == ("FASTOBS_PROFILES_TOKEN", 43)
    assert two.stdout.startswith("FASTOBS_METRICS_TOKEN=")
    assert value not in two.stdout
    assert "only once" in one.stderr
