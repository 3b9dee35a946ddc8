"""A nanochat checkpoint is read as what it is, or refused with what is wrong; `test_golden.py` has its own logits."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.config import ConfigError
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.nanochat import load_nanochat
from aquarat_core.exchange.nanochat.forms import OCTOBER_2025
from aquarat_core.exchange.nanochat.reading import from_nanochat

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
    model, form = load_nanochat(tmp_path, 650)
    assert form == OCTOBER_2025
    ids = [(7 * i * i + 3) % 70 for i in range(24)]
    found = model(torch.tensor([ids]))[0].detach().numpy()
    expected = logits(state, ids)
    assert found.shape == expected.shape == (24, 70) and expected.std() > 1
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def value_embedded(state: dict[str, torch.Tensor], channels: int) -> dict[str, torch.Tensor]:
    """The state with the value embeddings of early 2026, in the last of two layers."""
    gate = {"transformer.h.1.attn.ve_gate.weight": torch.ones(2, channels)}
    return state | gate | {"value_embeds.1.weight": torch.ones(70, 32)}


LAMBDAS = {"resid_lambdas": torch.ones(2), "x0_lambdas": torch.zeros(2)}
SCALARS = LAMBDAS | {"smear_lambda": torch.ones(1), "backout_lambda": torch.ones(1)}
PRESENT = SCALARS | {"smear_gate.weight": torch.ones(1, 24)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(1)}, r"not the weights of a nanochat model: transformer\.wte\.weight is missing"),
        (
            weights() | {"transformer.h.1.attn_norm.weight": torch.ones(64)},
            r"with 2 layers: it has no transformer\.h\.1",
        ),
        (
            {name: tensor for name, tensor in weights().items() if "h.1.mlp" not in name},
            r"of nanochat of October 2025 with 2 layers: .*h\.1\.mlp\.c_fc\.weight, .*c_proj\.weight are missing",
        ),
        (
            value_embedded(weights() | LAMBDAS, 32),
            r"have resid_lambdas, value_embeds but not smear_lambda, backout_lambda: that is none of the forms",
        ),
        (weights() | {"resid_lambdas": torch.ones(2)}, r"of January 2026 with 2 layers: x0_lambdas is missing"),
        (weights() | SCALARS, r"have resid_lambdas, smear_lambda, backout_lambda but not value_embeds"),
        (value_embedded(weights() | SCALARS, 12), r"of nanochat of 2026 with 2 layers: smear_gate\.weight is missing"),
        (value_embedded(weights() | PRESENT, 32), r"ve_gate\.weight is \[2, 32\], but model_config implies \[2, 12\]"),
    ],
)
def test_weights_of_another_form_are_refused(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_nanochat(state, CONFIG)


def test_weights_that_do_not_fit_the_description_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"wte\.weight is \[80, 64\], but model_config implies \[70, 64\]"):
        from_nanochat(weights(vocab_size=80), CONFIG)
    with pytest.raises(WeightsError, match="n_embd 64 is not a multiple of n_head 3"):
        from_nanochat(weights(), CONFIG | {"n_head": 3})
    with pytest.raises(ConfigError, match="n_kv_head 3 does not divide the 4 query heads"):
        from_nanochat(weights(), CONFIG | {"n_kv_head": 3})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rope_base": 100_000}, "model_config has rope_base, which nanochat of October 2025 does not have"),
        ({"window_pattern": "SSSL"}, "window_pattern SSSL, but the weights are those of nanochat of October 2025"),
        ({"window_pattern": "SXL"}, "window_pattern must consist of S and L, not 'SXL'"),
        ({"window_pattern": ["S"]}, "window_pattern must consist of S and L"),
        ({"bigram_value_embeds": False}, "model_config has bigram_value_embeds"),
    ],
)
def test_a_field_that_may_change_the_function_is_never_ignored(more: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_nanochat(weights(), CONFIG | more)


def test_a_pattern_without_windows_says_nothing_new() -> None:
    # nanochat adds it to checkpoints from before there were windows.
    model, _ = from_nanochat(weights(), CONFIG | {"window_pattern": "L"})
    assert model.config.windows == (32, 32)


def saved(folder: Path, state: object, config: object = CONFIG) -> Path:
    torch.save(state, folder / "model_000001.pt")
    (folder / "meta_000001.json").write_text(json.dumps({"model_config": config}))
    return folder


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, weights()) / "model_000001.pt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(
        ValueError, match=r"model_000001.pt does not contain only tensors, so it is not loaded: it is not"
    ):
        load_nanochat(tmp_path, 1)


@pytest.mark.parametrize(
    ("compression", "name", "size", "said"),
    [
        (zipfile.ZIP_DEFLATED, "data.pkl", 1_000, r"its entry 'model/data.pkl' is compressed"),
        (zipfile.ZIP_STORED, "data.pkl", 3 << 20, r"its list of tensors has 3,145,728 bytes"),
        (zipfile.ZIP_DEFLATED, "data/0", 3 << 20, r"its entry 'model/data/0' is compressed"),
    ],
)
def test_a_file_that_would_keep_the_reader_busy_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int, name: str, size: int, said: str
) -> None:
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("it was read"))
    with zipfile.ZipFile(saved(tmp_path, weights()) / "model_000001.pt", "w", compression) as archive:
        archive.writestr(f"model/{name}", b"}" * size)
    with pytest.raises(WeightsError, match=said):
        load_nanochat(tmp_path, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    state = weights()
    state["lm_head.weight"] = state["lm_head.weight"].double()
    state["lm_head.weight"][3, 5] = bad
    with pytest.raises(WeightsError, match=r"lm_head\.weight has numbers that are NaN or infinite"):
        from_nanochat(state, CONFIG)


@pytest.mark.parametrize(("value", "shown"), [("3", '"3"'), (3.0, "3.0"), (True, "true"), (None, "null")])
def test_a_size_of_another_type_is_not_called_missing(value: object, shown: str) -> None:
    with pytest.raises(WeightsError, match=f"model_config: n_layer is {shown}, but sizes must be integers"):
        from_nanochat(weights(), CONFIG | {"n_layer": value})


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
    with pytest.raises(ValueError, match=r"model_config"):
        load_nanochat(saved(tmp_path, weights(), CONFIG | change), 1)


@pytest.mark.parametrize("text", ["[]", '{"model_config": "abc"}', '{"model_config":' + "[" * 100_000, "", "\x00"])
def test_a_description_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (saved(tmp_path, weights()) / "meta_000001.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta_000001.json"):
        load_nanochat(tmp_path, 1)
