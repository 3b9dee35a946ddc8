"""Reads a folder in transformers' form back into our model: our releases, and anyone's NanoChat model.

Everything that could make the result another function than the one in the folder is refused by name: entries of the
config, tensors, shapes and types. Code in the folder is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from aquarat_core.artifacts.weights import open_shards
from aquarat_core.config import ModelConfig
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.huggingface.parsing import parse_config
from aquarat_core.exchange.huggingface.tensors import padding_rows, shared_tensors
from aquarat_core.exchange.opened import check_finite
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.formats import load_hugging_face
from aquarat_core.text.tokenizer import Tokenizer, TokenizerError

TYPES = ("F32", "BF16", "F16")
"""Types of weights that are read, by safetensors' names; all become float32."""
MAX_NAMED = 3


def read_huggingface(folder: Path) -> tuple[Transformer, Tokenizer, str]:
    """The model with float32 master weights on the CPU, its tokenizer, and the name of the form.

    Raises `WeightsError` or `TokenizerError` saying what is missing or not understood.
    """
    config, vocab_size, form = parse_config(folder / "config.json")
    tokenizer = _tokenizer(folder)
    if tokenizer.vocab_size != vocab_size:
        raise WeightsError(
            f"the model in {folder} has {vocab_size} ids, but its tokenizer has {tokenizer.vocab_size}: tokenizer.json "
            "is of another model"
        )
    _check_tensors(folder, _shapes_of(config, vocab_size))
    model = Transformer(config, vocab_size)
    views = shared_tensors(model)
    for shard in open_shards(folder):
        for name in shard.keys():  # noqa: SIM118  (not a dict)
            views[name].copy_(shard.get_tensor(name))
            check_finite(name, views[name])
    for rows in padding_rows(model):
        rows.zero_()
    return model, tokenizer, form


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"{folder} has no tokenizer.json, without which its ids mean nothing: add the model's own")
    return load_hugging_face(path)


def _shapes_of(config: ModelConfig, vocab_size: int) -> dict[str, list[int]]:
    """The tensors that the model consists of, without allocating them."""
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    return {name: list(tensor.shape) for name, tensor in shared_tensors(model).items()}


def _check_tensors(folder: Path, expected: Mapping[str, list[int]]) -> None:
    """Raises `WeightsError` unless the folder has exactly these tensors, in shape and in a type that is read."""
    stored = [(folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")]
    if all(stored):
        raise WeightsError(f"{folder} has model.safetensors and an index of other shards: delete what is out of date")
    if not any(stored):
        raise WeightsError(
            f"{folder} has no model.safetensors: only weights in safetensors files are read. transformers converts "
            "others: from_pretrained, then save_pretrained"
        )
    found: dict[str, list[int]] = {}
    try:
        for shard in open_shards(folder):
            for name in shard.keys():  # noqa: SIM118  (not a dict)
                tensor = shard.get_slice(name)
                if tensor.get_dtype() not in TYPES:
                    raise WeightsError(
                        f"{folder}: {name} is stored as {tensor.get_dtype()}; {', '.join(TYPES)} are understood"
                    )
                found[name] = tensor.get_shape()
    except FileNotFoundError as e:
        raise WeightsError(f"{folder} lacks a file that its index names: {e}") from None
    for what, names in (("lacks", expected.keys() - found.keys()), ("also has", found.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            raise WeightsError(
                f"the weights in {folder} do not fit its config.json, which {what} "
                f"{', '.join(sorted(names)[:MAX_NAMED])}{more}"
            )
    for name, shape in expected.items():
        if found[name] != shape:
            raise WeightsError(f"{folder}: {name} is {found[name]}, but config.json implies {shape}")
