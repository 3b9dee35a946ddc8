"""A checkpoint of any program, read into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aquarat_core.artifacts import digest_file
from aquarat_core.errors import WeightsError
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with float32 master weights on the CPU, and the tokenizer that it was trained with."""

    model: Transformer
    tokenizer: Tokenizer
    form: str
    """Which program wrote it, and when if the form changed."""
    origin: dict[str, Any]
    """JSON facts for the manifest: `form`, `step` (null if there is none), `weights` and `tokenizer`: the SHA-256 of
    each file that was read, by its name. `weights` has the files that decide the function, the config among them."""


def origin_of(form: str, step: int | None, weights: Iterable[Path], tokenizer: Path) -> dict[str, Any]:
    """The facts of `Opened.origin`. Paths are reduced to names: where a user keeps files is nobody's business."""
    return {
        "form": form,
        "step": step,
        "weights": {path.name: digest_file(path).sha256 for path in sorted(weights)},
        "tokenizer": {tokenizer.name: digest_file(tokenizer).sha256},
    }


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises `WeightsError` if a number is NaN or infinite; without a copy of the tensor, unlike `isfinite`."""
    low, high = tensor.aminmax()
    # A NaN anywhere is the smallest and the largest.
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise WeightsError(f"{name} has numbers that are NaN or infinite: the checkpoint is damaged or diverged")
