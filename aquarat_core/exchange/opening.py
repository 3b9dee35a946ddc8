"""Opens a checkpoint folder of any program that is known here, by what is in it.

`model_*.pt` or `meta_*.json` is nanochat's; `config.json` with a `model_type` is Hugging Face's, and with a `model` and
a `vocab_size` ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch

from aquarat_core.artifacts.weights import weight_files
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.json_files import json_value
from aquarat_core.exchange.nanochat import read_nanochat, saved_steps
from aquarat_core.exchange.opened import Opened, origin_of
from aquarat_core.model.checkpoint import CONFIG, load_checkpoint, read_description
from aquarat_core.text.tokenizer import TOKENIZER_FILE

OURS = "aquarat"


def open_folder(folder: Path, step: int | None = None, tokenizer: Path | None = None) -> Opened:
    """The checkpoint in the folder, with its tokenizer.

    `step` selects one of nanochat's checkpoints, and `tokenizer` is the file of its vocabulary; both have defaults
    (`read_nanochat`). Raises `WeightsError` or `TokenizerError`, which say what is wrong, where, and what to do.
    """
    if not os.path.isdir(folder):  # False for paths that are too long, too
        raise WeightsError(f"{folder} is not a folder: give the folder that holds the checkpoint")
    if saved_steps(folder) or any(folder.glob("meta_*.json")):
        return read_nanochat(folder, step, tokenizer)
    config = _config(folder)
    if step is not None or tokenizer is not None:
        given = [option for option, value in (("--step", step), ("--tokenizer", tokenizer)) if value is not None]
        raise WeightsError(
            f"{folder} holds one checkpoint with its tokenizer: neither can be chosen, so leave out "
            f"{' and '.join(given)}"
        )
    if "model_type" in config:
        from aquarat_core.exchange.huggingface import read_huggingface

        model, own, form = read_huggingface(folder)
    else:
        form, (model, own) = OURS, load_checkpoint(folder, torch.device("cpu"), torch.float32)
    read = [folder / CONFIG, *weight_files(folder)]
    return Opened(model, own, form, origin_of(form, None, read, folder / TOKENIZER_FILE))


def check_config(folder: Path) -> None:
    """Raises `WeightsError` unless the folder's `config.json` describes a model that is read. Needs no weights."""
    if "model_type" in _config(folder):
        from aquarat_core.exchange.huggingface.parsing import parse_config

        parse_config(folder / CONFIG)
    else:
        read_description(folder / CONFIG)


def _config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder of Hugging Face's or ours. Raises `WeightsError` if there is no such file."""
    path = folder / CONFIG
    if not path.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/*") if path.name == CONFIG or _is_nanochat(path))
        raise WeightsError(
            f"there is no checkpoint in {folder}: nanochat's has model_STEP.pt and meta_STEP.json, Hugging Face's and "
            f"aquarat's have a {CONFIG}" + (f". There is one in {folder / inside[0]}" if inside else "")
        )
    config = json_value(path)
    if isinstance(config, dict) and ("model_type" in config or {"model", "vocab_size"} <= config.keys()):
        return cast("dict[str, Any]", config)
    raise WeightsError(f"{path} has neither a model_type (Hugging Face) nor a model and a vocab_size (aquarat)")


def _is_nanochat(path: Path) -> bool:
    return path.name.startswith("model_") and path.suffix == ".pt"
