"""A checkpoint comes back bit for bit, and one that mixes two runs does not come back at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aquarat_core.artifacts import weights
from aquarat_core.config import ConfigError, TokenizerConfig
from aquarat_core.model.checkpoint import CONFIG, load_checkpoint, save_checkpoint
from aquarat_core.text.tokenizer import TOKENIZER_FILE, train_tokenizer
from tests.factories import CPU, random_ids, random_model, tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer().save(tmp_path / "trained.json")
    made = tmp_path / "checkpoint"
    made.mkdir()
    save_checkpoint(made, random_model(tokenizer().vocab_size, n_kv_head=2), tmp_path / "trained.json")
    return made


def test_weights_config_and_tokenizer_come_back(folder: Path) -> None:
    saved, (loaded, tok) = (
        random_model(tokenizer().vocab_size, n_kv_head=2),
        load_checkpoint(folder, CPU, torch.float32),
    )
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", CONFIG, TOKENIZER_FILE}
    assert loaded.config == saved.config and loaded.vocab_size == saved.vocab_size == 400
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) and tensor.dtype == torch.float32
    ids = random_ids(2, 20)
    assert torch.equal(loaded(ids), saved(ids))
    assert tok.encode("How many apples?") == tokenizer().encode("How many apples?")


def test_saving_what_was_loaded_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    model, _ = load_checkpoint(folder, CPU, torch.bfloat16)
    again = tmp_path / "again"
    again.mkdir()
    save_checkpoint(again, model, folder / TOKENIZER_FILE)
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_a_large_model_is_saved_and_loaded_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", 20_000)
    tokenizer().save(tmp_path / "trained.json")
    made, model = tmp_path / "checkpoint", random_model(tokenizer().vocab_size)
    made.mkdir()
    save_checkpoint(made, model, tmp_path / "trained.json")
    shards = sorted(p.name for p in made.glob("*.safetensors"))
    # 448 x 32 float32 of embedding and of head are larger than a shard, and have one each.
    assert len(shards) == 9 and shards[0] == "model-00001-of-00009.safetensors"
    assert all(p.stat().st_size < 20_000 + 1_000 or p.stat().st_size > 448 * 32 * 4 for p in made.glob("*.safetensors"))
    loaded, _ = load_checkpoint(made, CPU, torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_weights_of_another_form_are_refused(folder: Path) -> None:
    described = json.loads((folder / CONFIG).read_text())
    described["model"]["backout"] = True
    (folder / CONFIG).write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"written by another version of the model \(backout_lambda differ\)"):
        load_checkpoint(folder, CPU, torch.float32)


def test_the_tokenizer_of_another_run_is_refused(folder: Path) -> None:
    train_tokenizer(iter(["Some other text, and more of it than that."]), TokenizerConfig(vocab_size=300)).save(
        folder / TOKENIZER_FILE
    )
    with pytest.raises(ValueError, match=r"the model has 400 ids, but its tokenizer has \d+: .* mixes two runs"):
        load_checkpoint(folder, CPU, torch.float32)


def test_a_config_of_a_later_version_is_refused_by_field(folder: Path) -> None:
    described = json.loads((folder / CONFIG).read_text())
    described["model"]["experts"] = 8
    (folder / CONFIG).write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="experts: unknown field"):
        load_checkpoint(folder, CPU, torch.float32)
