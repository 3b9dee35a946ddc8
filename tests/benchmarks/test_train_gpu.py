"""The bench of training on a GPU, in a size for a CPU; without a GPU its rows say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import train_gpu


def test_its_runs_measure_every_step_but_the_first_and_the_last(tmp_path: Path) -> None:
    small = {"depth": 1, "width_per_layer": 16, "head_size": 8, "n_kv_head": None, "sequence_len": 16}
    work = {"profile": "d12", "float8": False, "out": str(tmp_path / "out"), "device": "cpu", "vocab_size": 100}
    train_gpu.worker(work | {"model": small | dict.fromkeys(("value_embeddings", "smear"), False)})
    found = json.loads((tmp_path / "out").read_text())
    assert len(found["tokens"]) == len(found["mfu"]) == train_gpu.STEPS - train_gpu.WARM - 1
    assert min(found["tokens"]) > 100 and found["first"] > 0


def test_without_a_gpu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = train_gpu.run()
    assert [(r.name, r.value, r.reason) for r in rows] == [
        (f"GPU/{name}/mfu", None, "no GPU is at hand") for name in ("d12", "d20")
    ]
