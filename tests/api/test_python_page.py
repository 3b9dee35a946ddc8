"""The examples of docs/python.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.model.checkpoint import save_checkpoint
from tests.factories import random_model, tokenizer


@pytest.fixture
def checkpoint(store_uri: str, tmp_path: Path) -> None:
    """A random `rl_checkpoint` in the store."""
    (tmp_path / "made").mkdir()
    tokenizer().save(tmp_path / "tokenizer.json")
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    save_checkpoint(tmp_path / "made", model, tmp_path / "tokenizer.json")
    ArtifactStore.open(store_uri).publish(
        asset="rl_checkpoint", kind="checkpoint", directory=tmp_path / "made", config={}, profile="test", run_id="r",
        parents=[], metrics={}, code=CodeVersion(version="1" * 64), seeds={},
    )  # fmt: skip


def test_the_examples_run_one_after_the_other(checkpoint: None, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (root / "docs" / "python.md").read_text()
    examples = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.MULTILINE)
    examples = [example for example in examples if "pip install" not in example]
    assert len(examples) == 7
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(re.sub(r"^    ", "", example, flags=re.MULTILINE), "docs/python.md", "exec"), names)
    assert isinstance(names["answer"], str) and len(names["several"]) == 8
    assert "\n" not in names["line"].text and names["right"] != names["wrong"]
    assert capsys.readouterr().out.count("\n") >= 2
