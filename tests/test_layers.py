"""Imports point downwards, and siblings do not touch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastobs"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)

LEAVES = {"errors", "catalogue", "_version"}
"""What everyone may import, and what imports nothing of ours."""


def name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at any depth."""
    found: set[str] = set()
    package = name(path) if path.stem == "__init__" else name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*base, node.module or ""]).strip(".") if node.level else node.module
            found.add(module or "")
            found.update(f"{module}.{alias.name}" for alias in node.names)
    known = {name(other) for other in MODULES}
    return {module for module in found if module in known and module != name(path)}


IMPORTS = {name(path): imported(path) for path in MODULES}


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_nothing_of_ours(leaf: str) -> None:
    """So everyone may import them."""
    assert IMPORTS[f"fastobs.{leaf}"] - {"fastobs"} == set()


@pytest.mark.parametrize("family", ["signals", "probes"])
def test_siblings_do_not_import_each_other(family: str) -> None:
    """A new one is written without reading the others. What a name with an underscore holds is theirs
    in common."""
    prefix = f"fastobs.{family}."
    pairs = {
        (module, other)
        for module, others in IMPORTS.items()
        if module.startswith(prefix)
        for other in others
        if other.startswith(prefix) and not other.removeprefix(prefix).startswith("_")
    }

    assert pairs == set()


def test_only_the_facade_knows_the_composition_root() -> None:
    """Everything else can be put together differently, in a test for instance."""
    users = {module for module, others in IMPORTS.items() if "fastobs._instrument" in others}

    assert users == {"fastobs"}


def test_there_is_no_cycle() -> None:
    """Reading can begin at the bottom."""
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in IMPORTS[module] - {"fastobs"}:
                # A module of a package imports the package; that is no use of it.
                if not module.startswith(f"{other}."):
                    walk(other, (*path, module))
            done.add(module)

    for module in IMPORTS:
        walk(module, ())


def test_tokens_are_made_without_the_profiler() -> None:
    """The commands that make and send them start soon, and need no pyinstrument."""
    needed = {"fastobs.cli.profiling"}
    while more := {other for one in needed for other in IMPORTS[one]} - needed - {"fastobs"}:
        needed |= more
    profiling = {one for one in needed if one.startswith("fastobs.profiling.")}

    assert profiling == {"fastobs.profiling.tokens"}


@pytest.mark.parametrize("folder", ["dashboards", "alerts"])
def test_boards_and_rules_know_the_catalogue_and_promql_only(folder: str) -> None:
    """They are built from what is emitted, not from how."""
    allowed = {"fastobs.catalogue", "fastobs.promql", "fastobs._version"}
    used = {
        module
        for path in (ROOT / folder).glob("*.py")
        for module in imported(path)
        if module.startswith("fastobs.")
    }

    assert used <= allowed
