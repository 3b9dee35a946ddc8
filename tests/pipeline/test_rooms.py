"""Which rooms of the pipeline import which: an arrow that points up makes a circle, and is named."""

from __future__ import annotations

import ast
from pathlib import Path

ORDER = ("hosts", "jobs", "assets", "runs", "cli")
"""Each may import those before it."""


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at its top or inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_rooms_import_only_what_is_below_them(root: Path) -> None:
    upward = [
        f"{path.relative_to(root)} imports {module}"
        for room in ORDER
        for path in (root / "aquarat_pipeline" / room).rglob("*.py")
        for module in imported(path)
        for above in ORDER[ORDER.index(room) + 1 :]
        if f"{module}.".startswith(f"aquarat_pipeline.{above}.")
    ]
    assert upward == []


def test_nothing_imports_the_old_name_of_the_rooms(root: Path) -> None:
    users = [
        str(path.relative_to(root))
        for path in (root / "aquarat_pipeline").rglob("*.py")
        if any(module.startswith("aquarat_pipeline.launching") for module in imported(path))
    ]
    assert users == []
