"""What nanochat's own code computed for its checkpoints is what is computed here after reading them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aquarat_core.exchange.nanochat import read_nanochat
from aquarat_core.exchange.opened import Opened

GOLDEN = Path(__file__).parent / "golden"
FORMS = {
    "october_2025": "nanochat of October 2025",
    "december_2025": "nanochat of October 2025",
    "january_2026": "nanochat of January 2026",
    "march_2026": "nanochat of 2026",
    "march_2026_odd_width": "nanochat of 2026",
}
BFLOAT16_TABLES = 0.2
"""Maximum difference of logits to nanochat with rotary tables that are rounded to bfloat16, as on GPUs."""
Golden = tuple[Opened, dict[str, torch.Tensor]]


@pytest.fixture(params=FORMS)
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    opened = read_nanochat(folder)
    assert opened.form == FORMS[request.param]
    return opened, load_file(folder / "golden.safetensors")


@pytest.mark.parametrize("prompt", ["text", "unicode", "chat", "long"])
def test_logits_and_greedy_texts_are_its_own(golden: Golden, prompt: str) -> None:
    opened, expected = golden
    ids, rows, greedy = (expected[f"{kind}.{prompt}"] for kind in ("ids", "rows", "greedy"))
    written = ids.tolist()
    with torch.no_grad():
        logits = opened.model(ids[None])[0]
        for _ in greedy:
            written.append(int(opened.model(torch.tensor([written]))[0, -1].argmax()))
    assert logits.std() > 1, "otherwise everything would agree"
    torch.testing.assert_close(logits[rows], expected[f"float32.{prompt}"], atol=1e-4, rtol=0)
    assert written[len(ids) :] == greedy.tolist()
    if (rounded := expected.get(f"bfloat16.{prompt}")) is not None:
        assert 1e-4 < (logits[rows] - rounded).abs().max() < BFLOAT16_TABLES


def test_windows_are_one_token_longer_than_their_number(golden: Golden) -> None:
    windows = {"october": {512}, "december": {512}, "january": {257, 512}, "march": {129, 512}}
    opened, _ = golden
    month = next(name for name, form in FORMS.items() if form == opened.form).partition("_")[0]
    assert set(opened.model.config.windows) == windows[month]


def test_the_tokenizer_is_found_where_nanochat_keeps_it_and_gives_its_ids(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "tokenizer", tmp_path / "tokenizer")
    shutil.copytree(GOLDEN / "march_2026", tmp_path / "chatsft_checkpoints" / "d3")
    opened = read_nanochat(tmp_path / "chatsft_checkpoints" / "d3")
    assert opened.origin["tokenizer"].keys() == {"tokenizer.pkl"} and opened.origin["step"] == 653
    expected = load_file(GOLDEN / "march_2026" / "golden.safetensors")
    texts = json.loads((GOLDEN / "prompts.json").read_text())
    for prompt in ("text", "unicode", "long"):
        ids = [opened.tokenizer.special("<|bos|>"), *opened.tokenizer.encode(texts[prompt])]
        assert ids[:400] == expected[f"ids.{prompt}"].tolist()


def test_a_checkpoint_of_the_aqua_rat_fork_is_read(tmp_path: Path) -> None:
    """Its meta file has only `model_config`, and the names may be those of a compiled model."""
    folder, source = tmp_path / "chatrl_checkpoints" / "d3", GOLDEN / "october_2025"
    folder.mkdir(parents=True)
    state = torch.load(source / "model_000650.pt", weights_only=True)
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, folder / "model_001560.pt")
    config = json.loads((source / "meta_000650.json").read_text())["model_config"]
    (folder / "meta_001560.json").write_text(json.dumps({"model_config": config}))
    opened = read_nanochat(folder, tokenizer=GOLDEN / "tokenizer" / "tokenizer.pkl")
    expected = load_file(source / "golden.safetensors")
    logits = opened.model(expected["ids.chat"][None])[0]
    torch.testing.assert_close(logits[expected["rows.chat"]], expected["float32.chat"], atol=1e-4, rtol=0)
