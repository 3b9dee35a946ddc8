"""Typed versions of torch functions whose stubs lack types."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def vector_norm(x: Tensor, dim: int | tuple[int, int] | None = None, keepdim: bool = False) -> Tensor:
    """The square root of the sum of squares of `x`, over the dimensions `dim` or over all."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("Tensor", norm)


def entropy_terms(p: Tensor) -> Tensor:
    """-p ln p of each probability, in nats; 0 where p is 0."""
    return cast("Tensor", torch.special.entr(p))  # pyright: ignore[reportUnknownMemberType]


def to_list(x: Tensor) -> list[Any]:
    """`x` as numbers on the host, nested in as many lists as it has dimensions, but at least one."""
    return cast("list[Any]", x.tolist())  # pyright: ignore[reportUnknownMemberType]
