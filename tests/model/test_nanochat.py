"""A checkpoint of nanochat's form of October 2025 gives the logits that its own definition gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.config import ConfigError
from aquarat_core.model.nanochat import from_nanochat, load_nanochat

CONFIG = {"sequence_len": 32, "vocab_size": 70, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}


def weights(**changes: int) -> dict[str, torch.Tensor]:
    """A state dict by that project's names and shapes; its embedding is bfloat16 where it trained on a GPU."""
    c, generator = CONFIG | changes, torch.Generator().manual_seed(0)
    width, kv = c["n_embd"], c["n_embd"] // c["n_head"] * c["n_kv_head"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    made = {"transformer.wte.weight": torch.randn((c["vocab_size"], width), generator=generator).bfloat16()}
    for i in range(c["n_layer"]):
        shapes = {"attn.c_q": (width, width), "attn.c_k": (kv, width), "attn.c_v": (kv, width)}
        shapes |= {"attn.c_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
        made |= {f"transformer.h.{i}.{name}.weight": random(*shape) for name, shape in shapes.items()}
    return made | {"lm_head.weight": 3 * random(c["vocab_size"], width)}


def logits(state: dict[str, torch.Tensor], ids: list[int]) -> np.ndarray:
    """[T, V] token by token and head by head in float64."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    heads, kv_heads, size = CONFIG["n_head"], CONFIG["n_kv_head"], CONFIG["n_embd"] // CONFIG["n_head"]

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-7)

    def rotated(x: np.ndarray, position: int) -> np.ndarray:
        angle = position / 10_000.0 ** (np.arange(0, size, 2) / size)
        a, b = x[: size // 2], x[size // 2 :]
        return np.concatenate([a * np.cos(angle) + b * np.sin(angle), b * np.cos(angle) - a * np.sin(angle)])

    x = norm(w["transformer.wte.weight"][ids])
    for i in range(CONFIG["n_layer"]):
        of = {name: w[f"transformer.h.{i}.{name}.weight"] for name in ("attn.c_q", "attn.c_k", "attn.c_v")}
        q, k, v = (norm(x) @ matrix.T for matrix in of.values())
        mixed = np.zeros_like(x)
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head // (heads // kv_heads)
            theirs = slice(shared * size, (shared + 1) * size)
            keys = np.stack([norm(rotated(row, t)) for t, row in enumerate(k[:, theirs])])
            for t in range(len(ids)):
                scores = keys[: t + 1] @ norm(rotated(q[t, mine], t)) / np.sqrt(size)
                p = np.exp(scores - scores.max())
                mixed[t, mine] = p / p.sum() @ v[: t + 1, theirs]
        x = x + mixed @ w[f"transformer.h.{i}.attn.c_proj.weight"].T
        up = np.maximum(norm(x) @ w[f"transformer.h.{i}.mlp.c_fc.weight"].T, 0) ** 2
        x = x + up @ w[f"transformer.h.{i}.mlp.c_proj.weight"].T
    return 15 * np.tanh(norm(x) @ w["lm_head.weight"].T / 15)


def test_logits_are_those_of_its_definition(tmp_path: Path) -> None:
    state = weights()
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, tmp_path / "model_000650.pt")
    (tmp_path / "meta_000650.json").write_text(json.dumps({"step": 650, "val_bpb": 0.8, "model_config": CONFIG}))
    model = load_nanochat(tmp_path, 650)
    ids = [(7 * i * i + 3) % 70 for i in range(24)]
    found = model(torch.tensor([ids]))[0].detach().numpy()
    expected = logits(state, ids)
    assert found.shape == expected.shape == (24, 70) and expected.std() > 1
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_of_another_form_are_named() -> None:
    later = weights() | {"transformer.resid_lambdas": torch.ones(2)}
    with pytest.raises(ValueError, match=r"not of nanochat's form of October 2025 with 2 layers: transformer\.resid_l"):
        from_nanochat(later, CONFIG)
    with pytest.raises(ValueError, match=r"wte\.weight is \[80, 64\], where model_config asks for \[70, 64\]"):
        from_nanochat(weights(vocab_size=80), CONFIG)
    with pytest.raises(ValueError, match="n_embd 64 is not a multiple of n_layer 3"):
        from_nanochat(weights(), CONFIG | {"n_layer": 3})
    with pytest.raises(ConfigError, match="n_kv_head 3 does not divide the 4 query heads"):
        from_nanochat(weights(), CONFIG | {"n_kv_head": 3})
