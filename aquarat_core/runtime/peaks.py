"""Peak FLOP/s of GPUs, by their names. Imports no torch: the control host uses it too."""

from __future__ import annotations

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
"""Dense bfloat16 tensor FLOP/s from the makers' data sheets (without sparsity, accumulating in float32). The keys are
parts of device names; the first match counts. Training in 8-bit floats is measured against the same peak, so a
utilization above 1 means faster than bfloat16 could ever be."""
UTILIZATION = 0.38
"""Share of the bfloat16 peak that training reached for the one model on the one GPU that were measured."""


def peak_of(name: str) -> float | None:
    """The peak in bfloat16 of one GPU with that name; None if unknown."""
    return next((flops for part, flops in PEAK_BF16_FLOPS.items() if part in name), None)
