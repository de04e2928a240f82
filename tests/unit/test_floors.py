"""The floors of the house: what may import what, and how files look from outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import ROOT

PACKAGE = ROOT / "actguard"
FILES = sorted(PACKAGE.rglob("*.py"))
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

LAZY = {
    "actguard/__init__.py": "the public names are loaded when they are used",
}
"""Files of ours that may import our own modules inside a function, and why."""


@pytest.mark.skipif(not LINT_IMPORTS.exists(), reason="import-linter is not installed")
def test_a_file_imports_lower_floors_only() -> None:
    done = subprocess.run(
        [str(LINT_IMPORTS), "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def imports_in_functions(tree: ast.AST) -> Iterator[str]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    yield f"{node.module}"
                elif isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_own_modules_are_imported_at_the_top(path: Path) -> None:
    if str(path.relative_to(ROOT)) in LAZY:
        return
    inside = [name for name in imports_in_functions(ast.parse(path.read_text("utf-8"))) if name.startswith("actguard")]
    assert inside == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_and_postpones_annotations(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree)
    if len(tree.body) > 1:
        assert "from __future__ import annotations" in path.read_text("utf-8")


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()
