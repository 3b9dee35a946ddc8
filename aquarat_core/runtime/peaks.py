"""Peak FLOP/s of GPUs, by their names. Imports no torch: the control host uses it too."""

from __future__ import annotations

import re

PEAK_BF16_FLOPS = {
    "GB200": 2500e12,
    "GH200": 989e12,
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
"""Dense bfloat16 tensor FLOP/s from the makers' data sheets (without sparsity, accumulating in float32). The keys are
parts of device names, each a word or several ("NVIDIA H100 80GB HBM3", "gpu_1x_h100_pcie"); the first match counts.
Training in 8-bit floats is measured against the same peak, so a
utilization above 1 means faster than bfloat16 could ever be."""
UTILIZATION = 0.38
"""Share of the bfloat16 peak that training reached for the one model on the one GPU that were measured."""


MEMORY_BYTES = {
    "GB200": 186e9,
    "GH200": 96e9,
    "B200": 180e9,
    "H200": 141e9,
    "H100 NVL": 94e9,
    "H100": 80e9,
    "H800": 80e9,
    "H20": 96e9,
    "A100 40GB": 40e9,
    "A100": 80e9,
    "A800": 80e9,
    "L40S": 48e9,
    "L40": 48e9,
    "L4": 24e9,
    "A10G": 24e9,
    "RTX 4090": 24e9,
}
"""Memory by the same names, from the same sheets; for an A100 that of the larger kind, unless its name says 40GB, and
for a GH200 that of the smaller one."""


def peak_of(name: str) -> float | None:
    """The peak in bfloat16 of one GPU with that name, in either case; None if unknown."""
    return _first(PEAK_BF16_FLOPS, name)


def memory_of(name: str) -> float | None:
    """Bytes of memory of one GPU with that name, in either case; None if unknown."""
    if "a100" in name.lower() and "40gb" in name.lower():
        name = "A100 40GB"
    return _first(MEMORY_BYTES, name)


def _first(table: dict[str, float], name: str) -> float | None:
    return next((value for part, value in table.items() if _has(name, part)), None)


def _has(name: str, part: str) -> bool:
    """Whether `part` is in `name` as words of its own, so that an H1000 is no H100."""
    words = r"[ _-]".join(map(re.escape, part.split()))
    return re.search(rf"(?<![a-z0-9]){words}(?![a-z0-9])", name, re.IGNORECASE) is not None
