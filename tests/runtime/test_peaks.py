"""Peaks and memory of GPUs, by the names that tools and clouds give them."""

from __future__ import annotations

import pytest

from aquarat_core.runtime.peaks import MEMORY_BYTES, PEAK_BF16_FLOPS, memory_of, peak_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("H100", "H100"),
        ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100-SXM5-80GB", "H100"),
        ("gpu_8x_h100_sxm5", "H100"),
        ("nvidia-h100-80gb", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("gpu_1x_h100_pcie", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("nvidia-l4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_names_that_are_known(name: str, kind: str) -> None:
    assert peak_of(name) == PEAK_BF16_FLOPS[kind]
    assert memory_of(name) == MEMORY_BYTES.get(kind, MEMORY_BYTES[kind.split()[0]] if " P" in kind else None)


@pytest.mark.parametrize("name", ["H1000", "XH100", "L4000", "A1000", "A100X", "B2000", "abacus", ""])
def test_a_name_that_only_contains_another_is_unknown(name: str) -> None:
    assert peak_of(name) is None and memory_of(name) is None


def test_an_a100_may_be_the_smaller_one() -> None:
    assert memory_of("NVIDIA A100-SXM4-40GB") == 40e9 and memory_of("NVIDIA A100 80GB PCIe") == 80e9
