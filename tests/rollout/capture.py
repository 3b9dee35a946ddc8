"""What CUDA graph capture asks of a step, asked on a CPU: a mode that refuses what a capture refuses, and writes down
everything that a step does with which memory, so that two steps of one kind can be compared.

Of a captured step a replay repeats the same kernels with the same numbers on the same addresses. So whatever a step is
given from outside must lie where it lay, all shapes, strides and numbers must be those of the recording, and nothing
may come from the host meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

REFUSED = (
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "repeat_interleave", "bincount", "lift_fresh", "lift_fresh_copy", "_pin_memory",
    "multinomial",
)  # fmt: skip
"""Operations that wait for the device, have shapes that depend on values, bring data from the host, or draw from a
generator."""


class Refused(RuntimeError):
    """The step did what a capture does not allow."""


class Capture(TorchDispatchMode):
    """While it is on, everything that is done is checked and written to `trace`."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device, self.trace = device, []
        self._made: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []
        """Keeps what the step makes, so that no address is given out twice."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split("::")[1].split(".")[0]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if name in REFUSED:
            raise Refused(f"{name} within a step")
        if name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:]):
            raise Refused(f"{name} by a mask within a step: its shape depends on values")
        given = tree_map(self._described, (args, kwargs))
        out = func(*args, **kwargs)
        results = [x for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]
        if foreign := {str(t.device) for t in [*tensors, *results] if t.device.type != self.device}:
            raise Refused(f"{name} touches {foreign}")
        known = {self._address(t) for t in tensors}
        for tensor in results:
            if self._address(tensor) not in known:
                self._made.setdefault(self._address(tensor), len(self._made))
                self._alive.append(tensor)
        self.trace.append((name, given, tree_map(self._described, out)))
        return out

    def _described(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return repr(x)
        address = self._address(x)
        where = ("made", self._made[address]) if address in self._made else ("given", address)
        return (*where, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype)

    @staticmethod
    def _address(x: torch.Tensor) -> int:
        storage = x.untyped_storage()
        return storage._cdata if x.device.type == "cuda" else storage.data_ptr()


class Recording:
    """A graph capture for CPUs: a replay does the step again and raises unless it is exactly the recorded one."""

    def __init__(self) -> None:
        self.warmed, self.recorded, self.replayed = 0, 0, 0

    def warmup(self, run: Callable[[], None]) -> None:
        self.warmed += 1
        run()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        recorded: list[Any] = []

        def replay() -> None:
            self.replayed += 1
            with Capture() as capture:
                run()
            if not recorded:  # recording runs nothing: the first replay is what the others are compared with
                recorded.extend(capture.trace)
            if capture.trace != recorded:
                first = next((pair for pair in zip(recorded, capture.trace, strict=False) if pair[0] != pair[1]), None)
                raise AssertionError(f"a replay would not do what this step does: {first}")

        return replay
