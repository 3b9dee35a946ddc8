"""A sweep over real stages: a model is trained twice, everything before it once, and the two are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweeps.conftest import Sweeper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_two_trained_models_share_their_data_and_are_compared(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lr.yaml").write_text(
        f"profile: {Path(__file__).with_name('smallest.yaml')}\n"
        "fields: {base_checkpoint.steps: [2, 3]}\n"
        "make: [base_eval_report]\n"
    )
    sweeper = Sweeper(root, tmp_path)
    sweeper.definitions = "aquarat_pipeline.definitions"
    out = sweeper.sweep("--json")
    assert out.returncode == 0, out.stderr
    assert sweeper.made() == {
        "aqua_dataset": 1, "chat_datasets": 1, "pretrain_text": 1, "tokenizer": 1, "pretrain_tokens": 1,
        "base_checkpoint": 2, "base_eval_report": 2,
    }  # fmt: skip
    points = json.loads(out.stdout)["points"].values()
    assert len({point["made"]["pretrain_tokens"] for point in points}) == 1
    assert len({point["made"]["base_checkpoint"] for point in points}) == 2
    out = sweeper.sweep("--report", "--json")
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout)
    (line,) = report["compared"]
    assert line["settings"] == {"base_checkpoint.steps": "3"} and line["n"] == 40
    assert line["test"] == "exact McNemar" and line["p_corrected"] == line["p"]
    text = sweeper.sweep("--report").stdout
    assert "The reference is base_checkpoint.steps=2" in text and "by the method of Holm" in text
