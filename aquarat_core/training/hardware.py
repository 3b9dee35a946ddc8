"""What the hardware could do at most, for model FLOPs utilisation; sums in the same order each time; and Python's
collector kept out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aquarat_core.config import ConfigError

PEAK_BF16_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 tensor FLOP/s from the makers' data sheets (without sparsity, summing in float32), by a part of the
device's name; the first that fits. Training in 8-bit floats is measured by the same, so that its utilisation says how
much faster than bfloat16 could ever be it is."""


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in bfloat16; None where it is not known, as for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_BF16_FLOPS.items() if part in name), None)


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """With kernels that give the same bits each time, on a GPU. Raises `ConfigError` for an operation that has none.

    Sampling needs none of it: it adds nothing up in a changing order, and torch's other kernels for writing into its
    memory are slower.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    # It would fill whatever memory is taken, lest results depend on what lay there: ours is always written first.
    torch.utils.deterministic.fill_uninitialized_memory = False
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
def collector_paused() -> Iterator[None]:
    """Without Python's cyclic collector, which walks every object: half a second in a large process."""
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
