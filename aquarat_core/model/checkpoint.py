"""Checkpoint folders: `model.safetensors` or its shards, `config.json` and the tokenizer used in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from aquarat_core.artifacts.weights import load_sharded, save_sharded
from aquarat_core.config import ModelConfig, validate
from aquarat_core.errors import WeightsError
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

CONFIG = "config.json"


def save_checkpoint(directory: Path, model: Transformer, tokenizer_file: Path) -> None:
    """Write float32 master weights, model config and tokenizer: everything needed to run the model elsewhere."""
    save_sharded(directory, model.state_dict())
    described = {"model": model.config.model_dump(), "vocab_size": model.vocab_size}
    (directory / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    shutil.copyfile(tokenizer_file, directory / TOKENIZER_FILE)


def read_description(path: Path) -> tuple[ModelConfig, int]:
    """The model's config and its number of token ids. Raises `WeightsError` for a file that does not say both."""
    try:
        described = json.loads(path.read_text())
        fields, vocab_size = described["model"], described["vocab_size"]
    except (KeyError, TypeError, ValueError):
        raise WeightsError(
            f"{path} does not describe a model of aquarat: make or import the checkpoint again"
        ) from None
    if type(vocab_size) is not int:
        raise WeightsError(
            f"{path} gives {vocab_size!r} as the number of token ids: make or import the checkpoint again"
        )
    return validate(ModelConfig, fields, f"{path}"), vocab_size


def load_checkpoint(directory: Path, device: torch.device, compute_dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a checkpoint folder. Raises `WeightsError` if one is missing or they do not match."""
    for name in (CONFIG, TOKENIZER_FILE):
        if not (directory / name).is_file():
            raise WeightsError(f"the checkpoint in {directory} has no {name}: make or import it again, with {name}")
    config, vocab_size = read_description(directory / CONFIG)
    tokenizer = Tokenizer.load(directory / TOKENIZER_FILE)
    if tokenizer.vocab_size != vocab_size:
        raise WeightsError(
            f"the model has {vocab_size} ids, but its tokenizer has {tokenizer.vocab_size}: {directory} mixes two runs"
        )
    model = Transformer(config, vocab_size, compute_dtype)
    weights = load_sharded(directory)
    if differing := sorted(set(weights) ^ set(model.state_dict())):
        raise WeightsError(
            f"the weights in {directory} were written by another version of the model ({', '.join(differing[:3])} "
            "differ): materialize the checkpoint again"
        )
    model.load_state_dict(weights)
    return model.to(device), tokenizer
