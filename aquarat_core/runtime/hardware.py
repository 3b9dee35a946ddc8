"""The device's peak FLOP/s for model FLOPs utilization, deterministic sums, and pausing garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

import torch

from aquarat_core.config import ConfigError
from aquarat_core.runtime.peaks import peak_of


def peak_flops(device: torch.device) -> float | None:
    """The device's peak FLOP/s in bfloat16; None if unknown, as for CPUs."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Generator[None]:
    """Use GPU kernels that give the same bits each time. Raises `ConfigError` for an operation that has none.

    Sampling does not need this: its sums have a fixed order, and torch's deterministic kernels for indexed writes are
    slower.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    # Skip filling uninitialized memory: it is always written before it is read.
    # A property of the module that type checkers do not see.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except RuntimeError as e:
        if "use_deterministic_algorithms" not in str(e):
            raise
        reason = str(e).splitlines()[0].partition(", but you set")[0]
        raise ConfigError(f"sums cannot repeat on this GPU ({reason}): set launch.deterministic to false") from None
    finally:
        torch.use_deterministic_algorithms(was)


@contextmanager
def gc_disabled() -> Generator[None]:
    """Disable Python's cyclic garbage collector, which walks every object: half a second in a large process."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
