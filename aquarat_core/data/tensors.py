"""Arrays as tensors, on the device where they are used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; a copy to a GPU goes through pinned memory and does not block the host."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def from_numpy(array: np.ndarray) -> Tensor:
    """`torch.from_numpy`, with a typed parameter."""
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]
