"""A checkpoint of nanochat's form of October 2025 gives the logits that its own definition gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.config import ConfigError
from aquarat_core.exchange.nanochat import from_nanochat, load_nanochat

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
    with pytest.raises(
        ValueError, match=r"not the weights of a nanochat model of October 2025 with 2 layers: transformer\.resid_l"
    ):
        from_nanochat(later, CONFIG)
    with pytest.raises(ValueError, match=r"wte\.weight is \[80, 64\], but model_config implies \[70, 64\]"):
        from_nanochat(weights(vocab_size=80), CONFIG)
    with pytest.raises(ValueError, match="n_embd 64 is not a multiple of n_layer 3"):
        from_nanochat(weights(), CONFIG | {"n_layer": 3})
    with pytest.raises(ConfigError, match="n_kv_head 3 does not divide the 4 query heads"):
        from_nanochat(weights(), CONFIG | {"n_kv_head": 3})


def saved(folder: Path, state: object, config: object = CONFIG) -> Path:
    torch.save(state, folder / "model_000001.pt")
    (folder / "meta_000001.json").write_text(json.dumps({"model_config": config}))
    return folder


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, weights()) / "model_000001.pt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"model_000001.pt does not contain only tensors, so it is not loaded"):
        load_nanochat(tmp_path, 1)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(70, 64, dtype=torch.complex64), "is not an array of real numbers"),
        (torch.zeros(70, 64, dtype=torch.int64), "is not an array of real numbers"),
        (torch.zeros(70, 64).to_sparse(), "is not an array of real numbers"),
        (torch.zeros(70, 64, device="meta"), "is not an array of real numbers"),
        ([1.0], "is not an array of real numbers"),
        (torch.zeros(1).expand(70, 64), "claims more numbers than the file contains"),
        (torch.zeros(70, 63), r"is \[70, 63\], but model_config implies \[70, 64\]"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, tensor: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_nanochat(saved(tmp_path, weights() | {"lm_head.weight": tensor}), 1)


@pytest.mark.parametrize(
    "change",
    [{"n_layer": 0}, {"n_head": 0}, {"n_embd": -64}, {"n_layer": True}, {"n_layer": 10**9, "n_embd": 10**9},
     {"vocab_size": 10**12}, {"sequence_len": 10**12}, {"n_kv_head": 0}, {"n_layer": 1.5}],
    ids=str,
)  # fmt: skip
def test_a_description_that_fits_no_weights_is_refused_before_a_model_is_built(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match=r"model_config|lacks n_layer"):
        load_nanochat(saved(tmp_path, weights(), CONFIG | change), 1)


@pytest.mark.parametrize("text", ["[]", '{"model_config": "abc"}', '{"model_config":' + "[" * 100_000, "", "\x00"])
def test_a_description_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (saved(tmp_path, weights()) / "meta_000001.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta_000001.json"):
        load_nanochat(tmp_path, 1)
