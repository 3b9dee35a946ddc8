"""transformers computes what we compute: logits, greedy text with its cache, padded batches, and all the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aquarat_core.exchange.huggingface import read_huggingface, write_huggingface
from aquarat_core.exchange.huggingface.tensors import shared_tensors
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.text.chat import stop_tokens
from tests.exchange.huggingface.examples import EVERYTHING, NATIVE, PLAIN, REMOTE, load_model
from tests.factories import random_ids, random_model, tokenizer

pytestmark = pytest.mark.slow

V = tokenizer().vocab_size
LENGTHS = (1, 3, 20, 150)
"""Tokens of the prompts; the longer ones are longer than the short window."""
BUDGET = 24
TOLERANCE = 1e-4
LOOKING_BACK = ("taps", "smear", "everything with taps", "everything with smear")


def made(name: str) -> Transformer:
    return random_model(V, **(NATIVE | REMOTE)[name])


def released(name: str, folder: Path) -> tuple[Transformer, Any]:
    """Our model, and that of transformers from the folder that we wrote."""
    model = made(name)
    written = write_huggingface(folder, model, tokenizer(), BUDGET)
    assert written.remote_code == (name in REMOTE)
    return model, load_model(folder, written.remote_code)


def prompts() -> list[list[int]]:
    # No special tokens: rows end at one.
    return [random_ids(n, vocab_size=V - 9, seed=n).tolist() for n in LENGTHS]


def greedy(model: Transformer, asked: list[list[int]]) -> list[list[int]]:
    engine = Engine(model, stop_tokens(tokenizer()))
    completions = engine.generate(asked, [[0]] * len(asked), BUDGET, temperature=0.0)
    return [c.tokens for (c,) in completions]


def generated(model: Any, ids: torch.Tensor, **how: Any) -> list[list[int]]:
    """The new tokens of each row by the release's own defaults, without the padding after its last one."""
    new = model.generate(ids, **how)[:, ids.size(1) :].tolist()
    ends = [next((i for i, token in enumerate(row) if token in stop_tokens(tokenizer())), BUDGET) for row in new]
    return [row[: end + 1] for row, end in zip(new, ends, strict=True)]


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and attention mask [B, T]; the padding is a token that matters if it is not masked."""
    T = max(map(len, rows))
    ids, seen = torch.full((len(rows), T), 5), torch.zeros((len(rows), T), dtype=torch.long)
    for i, row in enumerate(rows):
        there = slice(T - len(row), T) if left else slice(len(row))
        ids[i, there], seen[i, there] = torch.tensor(row), 1
    return ids, seen


@pytest.mark.parametrize("name", [*NATIVE, *REMOTE])
@torch.no_grad()
def test_logits_are_ours_and_so_is_greedy_text(name: str, tmp_path: Path) -> None:
    model, theirs = released(name, tmp_path / "release")
    expected = greedy(model, prompts())
    for ids, tokens in zip(prompts(), expected, strict=True):
        given = torch.tensor([ids])
        ours = model(given)
        assert ours.std() > 1
        torch.testing.assert_close(theirs(given).logits, ours, atol=TOLERANCE, rtol=0)
        assert generated(theirs, given) == [tokens]


@pytest.mark.parametrize("name", [*NATIVE, *REMOTE])
@torch.no_grad()
def test_rows_of_different_lengths_do_not_change_each_other(name: str, tmp_path: Path) -> None:
    model, theirs = released(name, tmp_path / "release")
    ids, seen = padded(prompts(), left=True)
    assert generated(theirs, ids, attention_mask=seen) == greedy(model, prompts())
    for left in (True, False):
        ids, seen = padded(prompts(), left)
        logits = theirs(ids, attention_mask=seen).logits
        for row, there, prompt in zip(logits, seen.bool(), prompts(), strict=True):
            torch.testing.assert_close(row[there], model(torch.tensor([prompt]))[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["windows", "everything with taps", "everything with smear"])
@torch.no_grad()
def test_eager_attention_steps_and_prefixes_give_the_same_logits(name: str, tmp_path: Path) -> None:
    model, _ = released(name, tmp_path / "release")
    depth = model.config.depth
    theirs = load_model(tmp_path / "release", True, attn_implementation="eager")
    ids = torch.tensor([prompts()[-1]])
    expected = model(ids)
    out = theirs(ids, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(out.logits, expected, atol=TOLERANCE, rtol=0)
    assert len(out.attentions) == depth and len(out.hidden_states) == depth + 1
    cache, start = None, 0
    for n in (1, 2, 40, 1, 1, 30, 75):
        out = theirs(ids[:, start : start + n], cache=cache, use_cache=True)
        torch.testing.assert_close(out.logits, expected[:, start : start + n], atol=TOLERANCE, rtol=0)
        cache, start = out.cache, start + n
    again = theirs(ids[:, start - 1 : start], past_key_values=theirs(ids[:, : start - 1], use_cache=True).cache)
    torch.testing.assert_close(again.logits, expected[:, start - 1 : start], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["windows", "everything with taps", "everything with smear"])
@torch.no_grad()
def test_other_caches_and_beams_change_nothing(name: str, tmp_path: Path) -> None:
    _, theirs = released(name, tmp_path / "release")
    ids, seen = padded(prompts(), left=True)
    expected = generated(theirs, ids, attention_mask=seen, use_cache=False)
    assert generated(theirs, ids, attention_mask=seen, cache_implementation="static") == expected
    beams = [generated(theirs, ids, attention_mask=seen, num_beams=3, use_cache=cached) for cached in (True, False)]
    assert beams[0] == beams[1] != expected


@pytest.mark.parametrize("name", LOOKING_BACK)
@torch.no_grad()
def test_documents_packed_into_a_row_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    model, theirs = released(name, tmp_path / "release")
    ids = torch.tensor([[i for prompt in prompts() for i in prompt]])
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    logits = theirs(ids, position_ids=positions, use_cache=False).logits[0].split(LENGTHS)
    for found, prompt in zip(logits, prompts(), strict=True):
        torch.testing.assert_close(found, model(torch.tensor([prompt]))[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["everything with taps", "everything with smear"])
@torch.no_grad()
def test_it_runs_in_bfloat16_and_without_its_head(name: str, tmp_path: Path) -> None:
    import transformers

    model, theirs = released(name, tmp_path / "release")
    ids = torch.tensor([prompts()[-1]])
    small = load_model(tmp_path / "release", True, dtype=torch.bfloat16)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    logits = small(ids).logits
    assert logits.dtype == torch.float32 and 0.001 < (logits - model(ids)).abs().mean() < 0.2
    body = transformers.AutoModel.from_pretrained(tmp_path / "release", trust_remote_code=True).eval()
    assert torch.equal(body(ids, return_dict=False)[0], theirs.model(ids).last_hidden_state)


@pytest.mark.parametrize("name", LOOKING_BACK)
@torch.no_grad()
def test_what_cannot_work_with_previous_embeddings_is_refused(name: str, tmp_path: Path) -> None:
    import transformers

    _, theirs = released(name, tmp_path / "release")
    ids = torch.tensor([prompts()[1]])
    with pytest.raises(ValueError, match=r"DynamicCache\(config=model.config\)"):
        theirs(ids, cache=transformers.DynamicCache())
    with pytest.raises(ValueError, match="2D attention_mask"):
        theirs(ids, attention_mask=torch.ones(1, 1, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        theirs()
    theirs.config._attn_implementation_internal = "vllm"
    with pytest.raises(ValueError, match="vLLM puts the new tokens of all sequences into one row"):
        theirs(ids)


@torch.no_grad()
def test_value_embeddings_need_ids(tmp_path: Path) -> None:
    _, theirs = released("value embeddings", tmp_path / "release")
    with pytest.raises(ValueError, match="needs input_ids"):
        theirs(inputs_embeds=torch.zeros(1, 3, 48))


def test_fine_tuning_has_gradients_for_every_weight_and_the_same_loss(tmp_path: Path) -> None:
    model, theirs = released("everything with smear", tmp_path / "release")
    ids = torch.tensor([prompts()[2]])
    theirs.train()
    loss = theirs(ids, labels=ids).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in theirs.parameters())
    torch.testing.assert_close(loss, model.loss_sum(ids[:, :-1], ids[:, 1:]) / (ids.size(1) - 1), atol=1e-5, rtol=0)


# --- and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NATIVE, *REMOTE])
@torch.no_grad()
def test_what_is_read_back_has_the_same_weights(name: str, tmp_path: Path) -> None:
    model = made(name)
    write_huggingface(tmp_path, model, tokenizer(), BUDGET)
    back, its_tokenizer, form = read_huggingface(tmp_path)
    assert form == ("transformers NanoChat" if name in NATIVE else "aquarat for transformers")
    assert back.config.windows == model.config.windows and back.vocab_size == model.vocab_size
    expected, found = shared_tensors(model), shared_tensors(back)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[n], found[n]) for n in expected)
    assert all(p.dtype == torch.float32 for p in back.parameters())
    ids = torch.tensor([prompts()[-1]])
    assert torch.equal(back(ids), model(ids))
    assert its_tokenizer.sha256 == tokenizer().sha256


@pytest.mark.parametrize("name", ["grouped", "everything with taps", "everything with smear"])
@torch.no_grad()
def test_what_transformers_saves_is_read(name: str, tmp_path: Path) -> None:
    model, theirs = released(name, tmp_path / "release")
    theirs.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    shutil.copy(tmp_path / "release/tokenizer.json", tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 2
    back, _, _ = read_huggingface(tmp_path / "saved")
    ids = torch.tensor([prompts()[-1]])
    assert torch.equal(back(ids), model(ids))
    assert load_model(tmp_path / "saved", name in REMOTE)(ids).logits.shape == (1, LENGTHS[-1], V)


@torch.no_grad()
def test_weights_of_16_bits_become_master_weights(tmp_path: Path) -> None:
    model, theirs = released("everything with smear", tmp_path / "release")
    for dtype in (torch.bfloat16, torch.float16):
        folder = tmp_path / str(dtype)
        theirs.to(dtype).save_pretrained(folder)
        shutil.copy(tmp_path / "release/tokenizer.json", folder)
        back, _, _ = read_huggingface(folder)
        for name, tensor in shared_tensors(back).items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, shared_tensors(model)[name], rtol=2**-8, atol=1e-6)


@torch.no_grad()
def test_a_model_of_transformers_own_class_is_read(tmp_path: Path) -> None:
    """Made by the library, with its own defaults where its config leaves entries out."""
    import transformers

    config = transformers.NanoChatConfig(
        vocab_size=V, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 20_000.0},
    )  # fmt: skip
    theirs = transformers.NanoChatForCausalLM(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    theirs.save_pretrained(tmp_path)
    write_huggingface(tmp_path / "other", random_model(V, **PLAIN), tokenizer(), BUDGET)
    shutil.copy(tmp_path / "other/tokenizer.json", tmp_path)
    ids = torch.tensor([prompts()[-1]])
    back, _, _ = read_huggingface(tmp_path)
    torch.testing.assert_close(back(ids), theirs(ids).logits, atol=TOLERANCE, rtol=0)
    described = json.loads((tmp_path / "config.json").read_text())
    kept = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sparse = {name: described[name] for name in kept} | {"num_key_value_heads": 2, "rope_theta": 20_000.0}
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    again, _, _ = read_huggingface(tmp_path)
    assert torch.equal(again(ids), back(ids)) and again.config.sequence_len == 2048


def test_a_large_release_is_in_shards_that_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquarat_core.artifacts.weights.SHARD_BYTES", 20_000)
    _, theirs = released("everything with taps", tmp_path / "release")
    assert len(list((tmp_path / "release").glob("model-*-of-*.safetensors"))) > 2
    assert theirs.config.sliding_window == EVERYTHING["short_window"]
