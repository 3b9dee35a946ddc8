"""What is written for nanochat is read back as the same model, and what it cannot represent is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aquarat_core.errors import WeightsError
from aquarat_core.exchange.nanochat import read_nanochat, write_nanochat
from aquarat_core.exchange.tokenizer_files import read_tokenizer
from aquarat_core.settings import REPO_ROOT
from tests.exchange.test_golden import FORMS, GOLDEN
from tests.factories import random_ids, random_model, tokenizer

CLASSIC = {"qk_scale": 1.0}
PRESENT = {"rope_base": 100_000.0, "sequence_len": 256, "short_window": 129}
OPTIONS = dict.fromkeys(("value_embeddings", "residual_lambdas", "smear", "backout"), True)


@pytest.mark.parametrize(
    ("config", "form"),
    [
        (CLASSIC, "nanochat of October 2025"),
        (CLASSIC | {"n_kv_head": 2, "mimetic_init": True}, "nanochat of October 2025"),
        # The windows of 128 tokens are longer than the context.
        (CLASSIC | {"window_pattern": "SL"}, "nanochat of October 2025"),
        (PRESENT | OPTIONS | {"window_pattern": "SSSL"}, "nanochat of 2026"),
        (PRESENT | OPTIONS | {"width": 40, "depth": 3, "n_kv_head": 1}, "nanochat of 2026"),
        (PRESENT, "nanochat of 2026"),
        (PRESENT | {"smear": True, "window_pattern": "SL", "depth": 3}, "nanochat of 2026"),
        (PRESENT | {"residual_lambdas": True}, "nanochat of 2026"),
    ],
)
def test_a_written_model_is_read_back(tmp_path: Path, config: dict[str, Any], form: str) -> None:
    model = random_model(tokenizer().vocab_size, **config)
    assert write_nanochat(tmp_path / "new" / "d2", model, tokenizer(), 650) == form
    opened = read_nanochat(tmp_path / "new" / "d2")
    assert (opened.form, opened.origin["step"]) == (form, 650)
    assert opened.tokenizer.sha256 == tokenizer().sha256
    ids = random_ids(2, model.config.sequence_len, vocab_size=model.vocab_size)
    # Options that the model lacks have values with which they change nothing, not even the last bit.
    torch.testing.assert_close(opened.model(ids), model(ids), atol=0, rtol=0)
    assert opened.model.config.windows == model.config.windows


def test_files_are_those_that_nanochat_reads(tmp_path: Path) -> None:
    model = random_model(tokenizer().vocab_size, **CLASSIC)
    write_nanochat(tmp_path, model, tokenizer(), 20)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model_000020.pt", "meta_000020.json", "tokenizer/tokenizer.tiktoken", "tokenizer/tokenizer.json",
                     "tokenizer/token_bytes.pt"}  # fmt: skip
    state = torch.load(tmp_path / "model_000020.pt", weights_only=True)
    vocab_size = tokenizer().vocab_size
    assert [*state["transformer.wte.weight"].shape] == [vocab_size, 32] and vocab_size % 64
    # A slice of a larger table would bring the whole table along.
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in state.values())
    sizes = {"sequence_len": 64, "vocab_size": vocab_size, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "n_embd": 32}
    assert json.loads((tmp_path / "meta_000020.json").read_text()) == {"step": 20, "model_config": sizes}
    lengths = torch.load(tmp_path / "tokenizer" / "token_bytes.pt", weights_only=True)
    assert lengths.dtype == torch.int32 and lengths.tolist() == tokenizer().token_bytes().tolist()


@pytest.mark.parametrize("name", FORMS)
def test_what_nanochat_wrote_is_written_again_as_it_was(tmp_path: Path, name: str) -> None:
    opened = read_nanochat(GOLDEN / name)
    if name == "january_2026":
        with pytest.raises(WeightsError, match="residual_lambdas is True, not False"):
            write_nanochat(tmp_path, opened.model, opened.tokenizer)
        return
    write_nanochat(tmp_path, opened.model, opened.tokenizer, opened.origin["step"])
    (file,) = (GOLDEN / name).glob("model_*.pt")
    before, after = (torch.load(path, weights_only=True) for path in (file, tmp_path / file.name))
    assert before.keys() == after.keys()
    for tensor, its in before.items():
        torch.testing.assert_close(after[tensor][:300], its[:300].float(), atol=0, rtol=0)
    meta = f"meta_{opened.origin['step']:06d}.json"
    first, second = (json.loads((folder / meta).read_text())["model_config"] for folder in (GOLDEN / name, tmp_path))
    assert first == second
    expected = load_file(GOLDEN / name / "golden.safetensors")
    logits = read_nanochat(tmp_path).model(expected["ids.long"][None])[0]
    torch.testing.assert_close(logits[expected["rows.long"]], expected["float32.long"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        ({}, ["of October 2025: qk_scale is 1.2, not 1.0", "of 2026: rope_base is 10000.0, not 100000.0"]),
        (CLASSIC | {"embedding_taps": 2}, ["embedding_taps is 2, not 0"]),
        (PRESENT | {"embedding_taps": 2}, ["embedding_taps is 2, not 0"]),
        (CLASSIC | {"softcap": 30.0}, ["softcap is 30.0, not 15.0"]),
        (CLASSIC | {"smear": True}, ["smear is True, not False", "of 2026: qk_scale is 1.0, not 1.2"]),
        (
            {"rope_base": 100_000.0, "sequence_len": 256, "window_pattern": "SL", "depth": 3},
            ["a layer sees 128 tokens, but layers with a window see 129 (short_window)"],
        ),
        (CLASSIC | {"short_window": 9, "window_pattern": "SL"}, ["a layer sees 9 tokens, but there are no windows"]),
        (PRESENT | {"width_per_layer": 8}, ["of 2026: the width is 16, not at least 24"]),
    ],
)
def test_what_no_form_can_represent_is_named(tmp_path: Path, config: dict[str, Any], reasons: list[str]) -> None:
    model = random_model(tokenizer().vocab_size, **config)
    with pytest.raises(WeightsError, match="nanochat cannot represent this model") as caught:
        write_nanochat(tmp_path / "new", model, tokenizer())
    for reason in reasons:
        assert reason in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the model has 390 ids, but the tokenizer has"):
        write_nanochat(tmp_path, random_model(390, **CLASSIC), tokenizer())


def test_nothing_half_written_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_nanochat(tmp_path, random_model(tokenizer().vocab_size, **CLASSIC), tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_the_documented_lines_make_the_tokenizer_that_nanochat_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nanochat(tmp_path, random_model(tokenizer().vocab_size, **CLASSIC), tokenizer())
    page = (REPO_ROOT / "docs" / "exchange.md").read_text()
    (lines,) = (part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "pickle.dump" in part)
    monkeypatch.chdir(tmp_path / "tokenizer")
    exec(compile(lines, "docs/exchange.md", "exec"), {})
    read = read_tokenizer(tmp_path / "tokenizer" / "tokenizer.pkl")
    assert (read.special_ids, read.merges) == (tokenizer().special_ids, tokenizer().merges)
