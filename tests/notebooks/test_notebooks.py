"""The notebooks run as a reader runs them, in a kernel, on a small store."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from aquarat_core.model.checkpoint import save_checkpoint
from tests.evaluation.conftest import Chain
from tests.factories import random_model, tokenizer
from tests.patience import limit

pytestmark = pytest.mark.slow

NOTEBOOK = "notebooks/checkpoint.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def published(chain: Chain) -> None:
    """The reports of SFT and RL on the same questions, and an RL checkpoint that can be loaded."""
    chain.train("sft")
    chain.evaluate("sft", chain.answers(chain.asked, 0.4))
    tokenizer().save(chain.scratch / "tokenizer.json")
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    save_checkpoint(chain.folders("rl_checkpoint")[0], model, chain.scratch / "tokenizer.json")
    chain.checkpoints["rl"] = chain.publish(
        "rl_checkpoint", "checkpoint", {}, (chain.checkpoints["sft"],), records={"metrics.jsonl": chain.curve("rl")}
    )
    chain.evaluate("rl", chain.answers(chain.asked, 0.6), "sft")


def test_no_outputs_are_kept(root: Path) -> None:
    """They would be those of one person's store."""
    kept = nbformat.read(root / NOTEBOOK, as_version=4)
    assert outputs(kept) == [] and all(cell.get("execution_count") is None for cell in kept.cells)


def test_the_checkpoint_s_notebook_runs(
    root: Path, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(chain)
    monkeypatch.setenv("AQUARAT_STORE", chain.store.uri)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    NotebookClient(notebook, km=kernel, timeout=round(limit(120))).execute()

    made = outputs(notebook)
    assert [output for output in made if output.output_type == "stream" and output.name == "stderr"] == []
    shown = [output.data for output in made if "data" in output]
    assert "'unit', 2, device(type='cpu')" in shown[0]["text/plain"]
    question = next(output.text for output in made if output.output_type == "stream")
    assert question.startswith("What is ")
    assert "log-probability" in shown[1]["text/html"]
    counts = shown[2]["text/html"]
    assert "correct_sft" in counts and "correct_rl" in counts
    assert base64.b64decode(shown[3]["image/png"]).startswith(b"\x89PNG")
