"""Converts nested state to named tensors and JSON, which a checkpoint's files hold, and back. Does not use pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

_TENSOR = "tensor://"


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a nested `state` by path, and `state` with each tensor replaced by a marker with its path.

    Keys must be strings; values must be mappings, tensors or JSON values.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
            return _TENSOR + path
        if isinstance(value, Mapping):
            inner = cast("Mapping[str, Any]", value)
            wrong = f"keys of {path or 'the state'} must be strings"
            assert all(isinstance(key, str) for key in cast("Mapping[object, Any]", inner)), wrong
            return {key: walk(v, f"{path}/{key}" if path else key) for key, v in inner.items()}
        assert not (isinstance(value, str) and value.startswith(_TENSOR)), f"{path} reads like the mark of a tensor"
        return value

    return tensors, walk(state, "")


def unflatten(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Rebuilds the nested state from the output of `flatten`."""
    if isinstance(tree, str) and tree.startswith(_TENSOR):
        return tensors[tree.removeprefix(_TENSOR)]
    if isinstance(tree, Mapping):
        return {key: unflatten(tensors, value) for key, value in cast("Mapping[str, Any]", tree).items()}
    return tree


def merge(a: Any, b: Any) -> Any:
    """Merges two ranks' states: mappings key by key; for other values of one key, which are equal, the second one."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        both = cast("dict[str, Any]", {**a, **b})
        return {key: merge(a[key], b[key]) if key in a and key in b else both[key] for key in both}
    return b


class HostBuffers:
    """Host memory for the tensors of a checkpoint, reused for the next one; pinned for tensors on a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the tensors; valid until the next call."""
        on_gpu = False
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._buffers[name] = buffer
            buffer.copy_(tensor, non_blocking=True)
            on_gpu |= tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        self._buffers = {name: self._buffers[name] for name in tensors}
        return dict(self._buffers)
