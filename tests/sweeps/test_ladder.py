"""The curve through a ladder: found again where it is known, refused where it would mean nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aquarat_core.evaluation.statistics import benjamini_hochberg
from aquarat_pipeline.sweeps.ladder import Curve, Rung, fitted, rung_of
from aquarat_pipeline.sweeps.spec import read_sweep

SIZES = (1e6, 4e6, 16e6, 64e6)
RATIOS = (5.0, 20.0, 80.0)


def rungs(loss, noise: float = 0.0, ratios=RATIOS) -> list[Rung]:
    random = np.random.default_rng(1)
    return [
        Rung(n, int(N), int(N * ratio), loss(N, N * ratio) + noise * random.normal(), 0.3, 1.0, None)
        for n, N in enumerate(SIZES)
        for ratio in ratios
    ]


def hoffmann(N: float, D: float) -> float:
    return 0.7 + 40 / N**0.33 + 90 / D**0.29


def test_the_curve_is_found_again() -> None:
    found = fitted(rungs(hoffmann))
    assert isinstance(found, Curve) and found.rms < 1e-6
    wanted = {"E": 0.7, "A": 40, "a": 0.33, "B": 90, "b": 0.29}
    assert found.parameters == {name: pytest.approx(value, rel=0.01) for name, value in wanted.items()}
    assert "E + A / N^a + B / D^b, with E = 0.7" in found.text()


def test_intervals_hold_the_truth_under_noise() -> None:
    found = fitted(rungs(hoffmann, noise=0.001))
    assert isinstance(found, Curve)
    for name, true in {"E": 0.7, "a": 0.33, "b": 0.29}.items():
        lo, hi = found.intervals[name]
        assert lo < true < hi and lo < found.parameters[name] < hi


def test_size_and_data_that_grow_together_give_a_curve_of_compute() -> None:
    found = fitted(rungs(lambda N, D: 0.7 + 30 / (6 * N * D) ** 0.15, ratios=(20.0,)))
    assert isinstance(found, Curve) and found.form == "E + A / C^a"
    assert found.parameters["a"] == pytest.approx(0.15, rel=0.05)
    assert "several tokens_per_parameter" in found.text()


def test_too_few_points_give_no_curve() -> None:
    found = fitted(rungs(hoffmann)[:3])
    assert isinstance(found, str) and "at least 4 models" in found and "there are 3" in found
    assert isinstance(fitted([]), str)


def test_models_of_the_same_compute_are_no_further_points() -> None:
    found = fitted([*rungs(hoffmann)[:3], *rungs(hoffmann, noise=0.001)[:3]])
    assert isinstance(found, str) and "at least 4 models" in found and "there are 3" in found


@pytest.mark.parametrize(("metrics", "dollars"), [({"ranks": 4.0}, 10.0), ({}, 5.0)])
def test_the_cost_is_of_the_gpus_that_trained_the_model(write, metrics: dict[str, float], dollars: float) -> None:
    (point,) = read_sweep(write("profile: demo\nladder: {depths: [2]}\nmake: [base_checkpoint]\n")).points
    base = SimpleNamespace(manifest=SimpleNamespace(metrics={"seconds": 3600.0, "val_bpb": 1.0, **metrics}))
    assert point.experiment.profile.base_checkpoint.launch.nproc == 2
    assert rung_of(point, {"base_checkpoint": base}, 2.5).dollars == dollars


def test_benjamini_and_hochberg() -> None:
    # The example of their paper (1995, section 4): the four smallest of 15 are findings at 5 %.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590,
         1.0]  # fmt: skip
    adjusted = benjamini_hochberg(p)
    assert sum(value < 0.05 for value in adjusted) == 4
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4) and adjusted[-1] == 1.0
    assert benjamini_hochberg(p[::-1]) == adjusted[::-1] and benjamini_hochberg([]) == []
