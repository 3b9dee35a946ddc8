"""Checkpoints of nanochat (github.com/karpathy/nanochat) as of October 2025, which is the classic form of our model.

All options are off there, and normalised queries and keys are not scaled. A checkpoint is `model_000650.pt`, a dict of
tensors, and `meta_000650.json`, whose `model_config` describes it. The file is a pickle of torch's; it is read with
`weights_only`, which makes tensors and nothing else of it. Its tokenizer is a pickle of code and is not read at all:
bring the vocabulary as tiktoken ranks or Hugging Face JSON (`text.formats`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig, validate
from aquarat_core.model.transformer import Transformer

_TABLES = {"embedding.weight": "transformer.wte.weight", "head.weight": "lm_head.weight"}
_MATRICES = {
    "attention.q": "attn.c_q", "attention.k": "attn.c_k", "attention.v": "attn.c_v", "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip


def load_nanochat(directory: Path, step: int, compute_dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that nanochat saved in `directory` at `step`, with float32 masters on the CPU.

    Raises `ValueError` where it is of another form or the two files do not belong together.
    """
    weights = torch.load(directory / f"model_{step:06d}.pt", map_location="cpu", weights_only=True, mmap=True)
    described = json.loads((directory / f"meta_{step:06d}.json").read_text())["model_config"]
    return from_nanochat(weights, described, compute_dtype)


def from_nanochat(
    weights: Mapping[str, Tensor], described: Mapping[str, Any], compute_dtype: torch.dtype = torch.float32
) -> Transformer:
    """The model of a state dict and its `model_config`. Raises `ValueError` naming what does not fit."""
    model = Transformer(_config(described), described["vocab_size"], compute_dtype)
    given = {name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    names = _TABLES | {
        f"blocks.{i}.{ours}.weight": f"transformer.h.{i}.{theirs}.weight"
        for i in range(model.config.depth)
        for ours, theirs in _MATRICES.items()
    }
    if differing := sorted(given.keys() ^ set(names.values())):
        raise ValueError(
            f"these weights are not of nanochat's form of October 2025 with {model.config.depth} layers: "
            f"{', '.join(differing[:3])} differ"
        )
    ours = model.state_dict()
    for name, theirs in names.items():
        # Our tables are padded, theirs are not.
        target = ours[name][: described["vocab_size"]] if name in _TABLES else ours[name]
        if target.shape != given[theirs].shape:
            raise ValueError(f"{theirs} is {[*given[theirs].shape]}, where model_config asks for {[*target.shape]}")
        ours[name].zero_()
        target.copy_(given[theirs])
    return model


def _config(described: Mapping[str, Any]) -> ModelConfig:
    width, rest = divmod(described["n_embd"], described["n_layer"])
    head_size, rest_of_head = divmod(described["n_embd"], described["n_head"])
    if rest or rest_of_head:
        raise ValueError(
            f"n_embd {described['n_embd']} is not a multiple of n_layer {described['n_layer']} and n_head "
            f"{described['n_head']}"
        )
    fields = {
        "depth": described["n_layer"],
        "width_per_layer": width,
        "head_size": head_size,
        "n_kv_head": described["n_kv_head"],
        "sequence_len": described["sequence_len"],
        "qk_scale": 1.0,
        "rope_base": 10_000.0,
        "softcap": 15.0,
    }
    return validate(ModelConfig, fields, "model_config")
