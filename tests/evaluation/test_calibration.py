"""Against values by hand, and against simulated forecasters of whom it is known how well they are calibrated."""

import math

import numpy as np
import pytest

from aquarat_core.evaluation import calibration
from aquarat_core.evaluation.statistics import wilson_interval


def test_brier_and_log_loss_by_hand() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.5, 0.5]]
    assert calibration.brier(probabilities, [0, 1]) == pytest.approx(((0.09 + 0.04 + 0.01) + (0.25 + 0.25)) / 2)
    assert calibration.log_loss(probabilities, [0, 1]) == pytest.approx(-(math.log(0.7) + math.log(0.5)) / 2)


def test_the_scores_of_knowing_nothing_and_of_being_surely_wrong() -> None:
    even = [[0.2] * 5] * 7
    assert calibration.brier(even, [0, 1, 2, 3, 4, 0, 1]) == pytest.approx(1 - 1 / 5)
    assert calibration.log_loss(even, [4] * 7) == pytest.approx(math.log(5))
    assert calibration.brier([[1.0, 0.0]], [1]) == 2
    assert 700 < calibration.log_loss([[1.0, 0.0]], [1]) < 710


def test_probabilities_of_choices_are_the_softmax_and_do_not_overflow() -> None:
    (found,) = calibration.choice_probabilities([[-1000.0, -1000.0 + math.log(3)]])
    assert found == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    ("probabilities", "gold", "said"),
    [
        ([[0.5, 0.4]], [0], "question 0"),
        ([[1.5, -0.5]], [0], "no probabilities"),
        ([[math.nan, 1.0]], [0], "no probabilities"),
        ([[0.5, 0.5]], [2], "none of its 2 choices"),
        ([[0.5, 0.5]], [0, 1], "each with its gold"),
        ([], [], "need questions"),
    ],
)
def test_what_is_no_forecast_is_refused(probabilities: list[list[float]], gold: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        calibration.brier(probabilities, gold)


def test_bins_hold_as_many_questions_each_and_have_wilson_bars() -> None:
    confidence = [0.9, 0.1, 0.3, 0.8, 0.2, 0.7]
    low, high = calibration.reliability(confidence, [True, False, True, True, False, False], bins=2)
    assert low == pytest.approx((3, 0.2, 1 / 3, *wilson_interval(1, 3)))
    assert high == pytest.approx((3, 0.8, 2 / 3, *wilson_interval(2, 3)))
    ece = calibration.expected_calibration_error(confidence, [True, False, True, True, False, False], bins=2)
    assert ece == pytest.approx((1 / 3 - 0.2) / 2 + (0.8 - 2 / 3) / 2)


def test_fewer_questions_than_bins() -> None:
    assert [b.n for b in calibration.reliability([0.5, 0.6, 0.7], [True] * 3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="nothing to calibrate"):
        calibration.reliability([], [])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        calibration.reliability([math.nan], [True])
    with pytest.raises(ValueError, match="2 confidences, but 1 answers"):
        calibration.reliability([0.1, 0.2], [True])


def test_the_calibration_error_of_many_questions_is_the_gap_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 0.8, 200_000)
    correct = rng.random(confidence.size) < confidence - 0.1
    assert calibration.expected_calibration_error(confidence.tolist(), correct.tolist()) == pytest.approx(0.1, abs=5e-3)


def test_the_error_of_right_confidences_is_simulated_rightly() -> None:
    """A calibrated forecaster's errors on 254 questions have the mean and the 95th percentile that were foretold."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 0.9, 254)
    found = calibration.ece_if_calibrated(confidence.tolist(), seed=4)
    errors = [
        calibration.expected_calibration_error(confidence.tolist(), (rng.random(254) < confidence).tolist())
        for _ in range(300)
    ]
    assert found.mean == pytest.approx(float(np.mean(errors)), rel=0.05)
    assert 0.9 <= float(np.mean(np.array(errors) <= found.upper)) <= 0.99
    assert found == calibration.ece_if_calibrated(confidence.tolist(), seed=4)


def test_the_error_of_right_confidences_by_theory() -> None:
    """One bin of n answers at confidence p: |accuracy - p| has mean sqrt(2 p (1 - p) / (pi n))."""
    found = calibration.ece_if_calibrated([0.3] * 1000, bins=1, seed=0, resamples=20_000)
    assert found.mean == pytest.approx(math.sqrt(2 * 0.21 / (math.pi * 1000)), rel=0.02)
    assert found.upper == pytest.approx(1.96 * math.sqrt(0.21 / 1000), rel=0.05)
