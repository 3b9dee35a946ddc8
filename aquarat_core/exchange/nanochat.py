"""Loads checkpoints of nanochat (github.com/karpathy/nanochat) as of October 2025, the basic form of our model.

Their models use none of our options and do not scale normalized queries and keys. A checkpoint is `model_000650.pt`, a
dict of tensors, and `meta_000650.json`, whose `model_config` describes it. The `.pt` file is a torch pickle; it is read
with `weights_only`, which creates nothing but tensors. nanochat's tokenizer is a pickle of code and is not read: import
its vocabulary as tiktoken ranks or Hugging Face JSON (`text.formats`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig, validate
from aquarat_core.errors import WeightsError
from aquarat_core.model.transformer import Transformer
from aquarat_core.plain_text import first_line

FIELDS = ("n_layer", "n_head", "n_kv_head", "n_embd", "sequence_len", "vocab_size")
"""Fields of a `model_config` that must be integers."""
MAX_META_BYTES = 1 << 20
_TABLES = {"embedding.weight": "transformer.wte.weight", "head.weight": "lm_head.weight"}
_MATRICES = {
    "attention.q": "attn.c_q", "attention.k": "attn.c_k", "attention.v": "attn.c_v", "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip


def load_nanochat(directory: Path, step: int, compute_dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that nanochat saved in `directory` at `step`, with float32 master weights on the CPU.

    Raises `WeightsError` if a file is missing, contains more than tensors or has another format, and if the two files
    do not match.
    """
    file, meta = directory / f"model_{step:06d}.pt", directory / f"meta_{step:06d}.json"
    for path in (file, meta):
        if not path.is_file():
            raise WeightsError(f"{path} is missing: a checkpoint is the two files model_{step:06d}.pt and {meta.name}")
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as e:
        # A damaged file makes torch's reader raise almost any exception.
        reason = first_line(e)
        raise WeightsError(f"{file} does not contain only tensors, so it is not loaded ({reason})") from None
    try:
        described = dict(json.loads(meta.read_bytes()[:MAX_META_BYTES])["model_config"])
        missing = [field for field in FIELDS if type(described.get(field)) is not int]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise WeightsError(f"{meta} has no model_config: it was not written by nanochat") from None
    if missing or not isinstance(weights, Mapping):
        raise WeightsError(f"{meta} lacks {', '.join(missing)}" if missing else f"{file} does not contain a state dict")
    # `from_nanochat` checks the names and that the values are tensors.
    return from_nanochat(cast("Mapping[str, Tensor]", weights), described, compute_dtype)


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in `directory`, in ascending order."""
    found = (re.fullmatch(r"model_(\d+)\.pt", path.name) for path in directory.glob("model_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def from_nanochat(
    weights: Mapping[str, Tensor], described: Mapping[str, Any], compute_dtype: torch.dtype = torch.float32
) -> Transformer:
    """The model of a state dict and its `model_config`. Raises `WeightsError` if they do not match."""
    config = _config(described)
    given = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    names = _TABLES | {
        f"blocks.{i}.{ours}.weight": f"transformer.h.{i}.{theirs}.weight"
        for i in range(config.depth)
        for ours, theirs in _MATRICES.items()
    }
    if differing := sorted(given.keys() ^ set(names.values())):
        raise WeightsError(
            f"these are not the weights of a nanochat model of October 2025 with {config.depth} layers: "
            f"{', '.join(differing[:3])} differ"
        )
    for name, tensor in given.items():
        _check_tensor(name, tensor)
    tables = [described["vocab_size"], described["n_embd"]]
    for name in _TABLES.values():
        # Checked before the model is allocated: its size follows from the description alone.
        if [*given[name].shape] != tables:
            raise WeightsError(f"{name} is {[*given[name].shape]}, but model_config implies {tables}")
    model = Transformer(config, described["vocab_size"], compute_dtype)
    ours = model.state_dict()
    for name, theirs in names.items():
        # Our tables are padded; nanochat's are not.
        target = ours[name][: described["vocab_size"]] if name in _TABLES else ours[name]
        if target.shape != given[theirs].shape:
            raise WeightsError(f"{theirs} is {[*given[theirs].shape]}, but model_config implies {[*target.shape]}")
        ours[name].zero_()
        target.copy_(given[theirs])
    return model


def _check_tensor(name: str, tensor: Any) -> None:
    """Raises `WeightsError` unless it is a dense tensor of real numbers that is stored completely in the file."""
    plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.is_floating_point()
    if not plain or tensor.is_meta or tensor.is_quantized:
        raise WeightsError(f"{name} is not an array of real numbers")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise WeightsError(f"{name} claims more numbers than the file contains")


def _config(described: Mapping[str, Any]) -> ModelConfig:
    if small := [field for field in FIELDS if described[field] < 1]:
        raise WeightsError(f"model_config: {', '.join(small)} must be at least 1")
    width, rest = divmod(described["n_embd"], described["n_layer"])
    head_size, rest_of_head = divmod(described["n_embd"], described["n_head"])
    if rest or rest_of_head:
        raise WeightsError(
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
