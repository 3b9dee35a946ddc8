"""The schedules of learning rate and momentum, by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from aquarat_core.config import OptimConfig
from aquarat_core.optim.schedule import lr_factor, momentum_at


def factors(steps: int, **config: Any) -> list[float]:
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


def test_a_cosine_tail() -> None:
    # 3/4, 1/2 and 1/4 are left of a linear fall; the cosine has (1 - cos(pi share)) / 2 of them.
    expected = [1, 1, 1, 1, 1, 1, 1, 0.85355339, 0.5, 0.14644661]
    assert factors(10, warmdown=0.3, warmdown_shape="cosine") == pytest.approx(expected)
    tenth = [0.1 + 0.9 * x for x in expected]
    assert factors(10, warmdown=0.3, final_lr=0.1, warmdown_shape="cosine") == pytest.approx(tenth)
    assert factors(1, warmdown=1.0, warmdown_shape="cosine") == [pytest.approx(0.5)]


def test_a_cosine_tail_bends_smoothly_at_both_ends() -> None:
    found = factors(2000, warmdown=0.5, final_lr=0.2, warmdown_shape="cosine")
    line = factors(2000, warmdown=0.5, final_lr=0.2)
    falls = [a - b for a, b in pairwise(found)]
    assert falls[:999] == [0.0] * 999 and all(fall > 0 for fall in falls[999:])
    assert max(falls[999], falls[-1]) < 1e-5 < 7e-4 < line[999] - line[1000]
    assert max(falls) == pytest.approx(0.8 * 3.14159265 / 2 / 1001, rel=1e-4), "the steepest part is in the middle"
    assert found[1500] == pytest.approx(line[1500], abs=1e-3) and 0.2 < found[-1] < 0.2 + 1e-5


def test_momentum_falls_in_the_shape_of_the_rates() -> None:
    def momenta(shape: str) -> list[float]:
        config = OptimConfig(warmdown=0.3, warmdown_shape=shape, momentum=0.9, momentum_last=0.5)
        return [momentum_at(step, 10, config) for step in range(10)]

    assert momenta("linear") == pytest.approx([0.9] * 7 + [0.8, 0.7, 0.6])
    assert momenta("cosine") == pytest.approx([0.9] * 7 + [0.84142136, 0.7, 0.55857864])
