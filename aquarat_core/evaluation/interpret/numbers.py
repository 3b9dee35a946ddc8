"""Tensors as numbers that JSON can hold."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from aquarat_core.model.typed_torch import to_list

DIGITS = 6
"""Decimals that are kept: a file of them stays small, and none of the figures is known better."""


class NotFiniteError(ArithmeticError):
    """A model whose weights have run away gives numbers that mean nothing."""


def rounded(x: Tensor, digits: int = DIGITS) -> list[Any]:
    """`x` in nested lists, rounded. Raises `NotFiniteError` for a value that is not a finite number."""
    if not bool(x.isfinite().all()):
        raise NotFiniteError("the model computes values that are not finite numbers")
    return _round(to_list(x.double().cpu()), digits)


def _round(values: list[Any], digits: int) -> list[Any]:
    return [_round(cast("list[Any]", v), digits) if isinstance(v, list) else round(v, digits) for v in values]
