"""`aquarat import nanochat`: a checkpoint of October 2025 becomes an artifact that can be asked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.cli import main
from aquarat_core.exchange.nanochat import load_nanochat
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.text.formats import save_hugging_face, save_tiktoken
from tests.exchange.test_nanochat import CONFIG, weights
from tests.factories import CPU, tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 20 and 650 in nanochat's form, and the vocabulary in three."""
    made = tmp_path / "d2"
    made.mkdir()
    vocab_size = tokenizer().vocab_size
    for step in (20, 650):
        torch.save(weights(vocab_size=vocab_size), made / f"model_{step:06d}.pt")
        meta = {"step": step, "model_config": CONFIG | {"vocab_size": vocab_size}}
        (made / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    tokenizer().save(made / "tokenizer.json")
    save_tiktoken(tokenizer(), made / "ranks.tiktoken")
    save_hugging_face(tokenizer(), made / "hf.json")
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--store", f"file://{tmp_path}/store"])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    "vocabulary",
    [
        ("tokenizer.json",),
        ("ranks.tiktoken", "--tokenizer-format", "tiktoken"),
        ("hf.json", "--tokenizer-format", "hugging-face"),
    ],
)
def test_what_is_imported_is_the_model_and_can_be_asked(
    folder: Path, run: Run, tmp_path: Path, vocabulary: tuple[str, ...]
) -> None:
    file, *form = vocabulary
    code, said, _ = run("import", "nanochat", folder, "--tokenizer", folder / file, *form, "--json")
    assert code == 0 and json.loads(said)["step"] == 650
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").resolve("nanochat_checkpoint")
    assert (artifact.sha256, artifact.manifest.kind) == (json.loads(said)["manifest_sha256"], "checkpoint")
    assert artifact.manifest.config["imported_from"] == "nanochat"
    model, its_tokenizer = load_checkpoint(artifact.directory(), CPU, torch.float32)
    ids = torch.tensor([its_tokenizer.encode("What is 12 + 7?")])
    assert ids.tolist() == [list(tokenizer().encode("What is 12 + 7?"))]
    assert its_tokenizer.special_ids == tokenizer().special_ids
    torch.testing.assert_close(model(ids), load_nanochat(folder, 650)(ids), atol=0, rtol=0)
    code, said, _ = run("ask", "nanochat_checkpoint", "12 + 7", "--plain", "--max-new-tokens", "3", "--json")
    assert code == 0 and json.loads(said)["answers"][0]["tokens"] >= 1


def test_a_step_and_a_name_can_be_chosen(folder: Path, run: Run) -> None:
    chosen = ("--tokenizer", folder / "tokenizer.json", "--step", 20, "--name", "old")
    code, said, _ = run("import", "nanochat", folder, *chosen)
    assert code == 0 and said.startswith("old ") and "step 20, now in file://" in said


def refused(run: Run, folder: Path, *more: object, tokenizer_file: str = "tokenizer.json") -> str:
    code, said, error = run("import", "nanochat", folder, "--tokenizer", folder / tokenizer_file, *more)
    assert (code, said) == (2, "")
    return error


def test_what_cannot_be_imported_is_said_and_leaves_nothing(folder: Path, run: Run, tmp_path: Path) -> None:
    assert "rl_checkpoint is the name of a stage" in refused(run, folder, "--name", "rl_checkpoint")
    assert "meta_000021.json" in refused(run, folder, "--step", 21)
    assert "there is no model_STEP.pt" in refused(run, tmp_path, tokenizer_file="d2/tokenizer.json")
    (folder / "tokenizer.pkl").write_bytes(b"")
    assert "can run code when it is read" in refused(run, folder, tokenizer_file="tokenizer.pkl")
    torch.save(weights(vocab_size=390), folder / "model_000700.pt")
    (folder / "meta_000700.json").write_text(json.dumps({"model_config": CONFIG | {"vocab_size": 390}}))
    assert "the model has 390 ids" in refused(run, folder)
    (folder / "meta_000700.json").write_text(json.dumps({"model_config": {"n_layer": 2}}))
    assert "lacks n_head, n_kv_head, n_embd" in refused(run, folder)
    (folder / "meta_000700.json").write_text("{}")
    assert "has no model_config" in refused(run, folder)
    assert not (tmp_path / "store" / "manifests").exists()


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    folder: Path, run: Run, tmp_path: Path, legacy: bool
) -> None:
    sprung, file = tmp_path / "sprung", folder / "model_000650.pt"
    state = weights() | {"more": Trap(sprung)}
    if legacy:
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file)
    assert "does not contain only tensors, so it is not loaded" in refused(run, folder)
    assert not sprung.exists()
