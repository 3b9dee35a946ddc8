"""The trapezoid of the learning rate, by hand."""

from __future__ import annotations

import pytest

from aquarat_core.config import OptimConfig
from aquarat_core.optim.schedule import lr_factor


def factors(steps: int, **config: float) -> list[float]:
    return [lr_factor(step, steps, OptimConfig(**config)) for step in range(steps)]


def test_warm_up_plateau_and_warm_down() -> None:
    # 2 of 10 steps up, 3 down to a tenth: 3/4, 1/2, 1/4 of the way from 0.1 to 1.
    expected = [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.775, 0.55, 0.325]
    assert factors(10, warmup=0.2, warmdown=0.3, final_lr=0.1) == pytest.approx(expected)


def test_all_the_way_down() -> None:
    assert factors(4, warmdown=1.0) == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_constant_without_either() -> None:
    assert factors(5, warmdown=0.0) == [1.0] * 5


def test_a_single_step_is_not_wasted() -> None:
    assert factors(1, warmup=1.0, warmdown=0.0) == [0.5]
    assert factors(1, warmdown=1.0) == [0.5]
