"""The profiles of the ablations in docs/recipe.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.config import load_profile
from aquarat_core.settings import REPO_ROOT

FOLDER = REPO_ROOT / "docs/examples/ablations"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_ablation_changes_one_stage_of_d12(file: Path) -> None:
    d12, changed = load_profile("d12"), load_profile(str(file))
    assert changed.name == file.stem
    differing = [name for name, section in changed if section != getattr(d12, name)]
    stages = set(differing) - {"name", "description", "depth"}
    assert len(stages) == 1, differing


def test_the_page_lists_them_all() -> None:
    page = (REPO_ROOT / "docs/recipe.md").read_text()
    assert len(FILES) > 10
    assert [file.stem for file in FILES if f"`{file.stem}`" not in page] == []
