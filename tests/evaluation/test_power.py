"""What differences a comparison would find, against simulated comparisons."""

import numpy as np
import pytest

from aquarat_core.evaluation import power
from aquarat_core.evaluation.statistics import mcnemar_exact


@pytest.mark.parametrize(("n", "points"), [(254, 9.6), (508, 6.8), (5000, 2.2), (2617, 3.0)])
def test_minimum_detectable_difference_at_30_percent_discordance(n: int, points: float) -> None:
    assert round(100 * power.minimum_detectable_difference(n, 0.3), 1) == points


@pytest.mark.parametrize(
    ("n", "discordance", "alpha"),
    [(100, 0.1, 0.05), (200, 0.05, 0.05 / 5), (500, 0.3, 0.05 / 5), (300, 0.0, 0.05 / 5), (2000, 0.08, 0.05)],
)
def test_a_detectable_difference_is_found_in_four_of_five_simulated_comparisons(
    n: int, discordance: float, alpha: float
) -> None:
    difference = power.detectable_by_mcnemar(n, discordance, alpha=alpha)
    assert difference is not None
    either = max(discordance, difference)
    outcomes = [(either - difference) / 2, (either + difference) / 2, 1 - either]
    draws = np.random.default_rng(0).multinomial(n, np.clip(outcomes, 0, 1), size=4_000)
    p = {tuple(pair): mcnemar_exact(*pair) for pair in np.unique(draws[:, :2], axis=0).tolist()}
    found = np.mean([p[fell, rose] < alpha and rose > fell for fell, rose in draws[:, :2].tolist()])
    assert found == pytest.approx(0.8, abs=0.02)


def test_five_questions_show_nothing_and_six_only_a_sweep() -> None:
    assert mcnemar_exact(0, 5) == 0.0625 and power.detectable_by_mcnemar(5, 0.0) is None
    found = power.detectable_by_mcnemar(6, 0.0)
    # All six must change, which happens in 80 % of cases at this difference.
    assert found == pytest.approx(0.8 ** (1 / 6), abs=1e-4)


@pytest.mark.parametrize("lines", range(1, 30))
def test_the_fewest_one_sided_flips(lines: int) -> None:
    alpha = 0.05 / lines
    fewest = power.fewest_one_sided(alpha)
    assert mcnemar_exact(0, fewest) < alpha <= mcnemar_exact(0, fewest - 1)


def test_more_lines_can_show_only_larger_differences() -> None:
    one, five = (power.detectable_by_mcnemar(200, 0.1, alpha=alpha) for alpha in (0.05, 0.01))
    assert one is not None and five is not None and one < five < 1.5 * one


@pytest.mark.parametrize(("n", "discordance"), [(0, 0.1), (10, -0.1), (10, 1.1)])
def test_numbers_out_of_range_are_refused(n: int, discordance: float) -> None:
    for function in (power.minimum_detectable_difference, power.detectable_by_mcnemar):
        with pytest.raises(ValueError, match="need n >= 1 and a discordance"):
            function(n, discordance)
