"""Imports between training and the rooms around it go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "aquarat_core"
MAY_IMPORT = {
    "runtime": {"artifacts", "config", "settings", "errors"},
    "checkpointing": {"artifacts", "config", "runtime", "errors"},
    "tracking": {"checkpointing", "config", "plain_text", "errors"},
}
"""Rooms below training, and all that they may import."""
WITHOUT_TRAINING = ("artifacts", "config", "data", "evaluation", "model", "optim", "rollout", "tasks", "text")


def imported_rooms(room: str) -> set[str]:
    """Rooms of aquarat_core that a room imports, inside functions too."""
    found: set[str] = set()
    for path in (CORE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("aquarat_core.")}
    return found - {room}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_what_training_stands_on_imports_nothing_above_it(room: str) -> None:
    assert imported_rooms(room) <= MAY_IMPORT[room]


@pytest.mark.parametrize("room", WITHOUT_TRAINING)
def test_a_checkpoint_is_read_scored_and_sampled_without_training(room: str) -> None:
    assert "training" not in imported_rooms(room)
