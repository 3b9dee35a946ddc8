"""Against enumeration of all subsets, the direct formula of the clustered error, and values worked out by hand."""

import itertools
import math
import random

import numpy as np
import pytest

from aquarat_core.evaluation import sampling
from aquarat_core.evaluation.statistics import wilson_interval


def drawn(questions: int, samples: int, seed: int = 0) -> list[list[bool]]:
    rng = random.Random(seed)
    return [[rng.random() < ease for _ in range(samples)] for ease in (rng.random() for _ in range(questions))]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(k: int) -> None:
    correct = drawn(20, 5)
    subsets = [any(chosen) for row in correct for chosen in itertools.combinations(row, k)]
    found = sampling.pass_at_k([sum(row) for row in correct], 5, k)
    assert found.value == pytest.approx(sum(subsets) / len(subsets), rel=1e-12)


def test_pass_at_k_is_the_stable_product_of_the_paper() -> None:
    """Chen et al. 2021, figure 3: 1 - prod(1 - k / i for i in n - c + 1 .. n), for n = 200 as they have it."""
    for c in (0, 1, 7, 100, 199, 200):
        product = 1 - np.prod(1 - 100 / np.arange(200 - c + 1, 201)) if 200 - c >= 100 else 1.0
        assert sampling.pass_at_k([c], 200, 100).value == pytest.approx(float(product), abs=1e-12)


def test_pass_at_one_is_the_mean_and_pass_at_n_is_any() -> None:
    correct = drawn(50, 4)
    counts = [sum(row) for row in correct]
    assert sampling.pass_at_k(counts, 4, 1) == pytest.approx(sampling.mean_at_n(correct))
    assert sampling.pass_at_k(counts, 4, 4).value == sum(map(any, correct)) / 50


def test_k_and_counts_out_of_range_are_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="between 1 and the 4 samples"):
            sampling.pass_at_k([2], 4, k)
    with pytest.raises(ValueError, match=r"between 0 and 4, got 2\.\.5"):
        sampling.pass_at_k([2, 5], 4, 1)
    with pytest.raises(ValueError, match=r"same number of samples.*\[1, 2\]"):
        sampling.mean_at_n([[True], [True, False]])
    with pytest.raises(ValueError, match="at least one"):
        sampling.mean_at_n([[], []])


def test_the_guess_line_of_pass_at_k() -> None:
    assert sampling.pass_at_k_of_chance([0.2], 5) == pytest.approx(1 - 0.8**5)
    assert sampling.pass_at_k_of_chance([0.25, 0.0], 2) == pytest.approx((1 - 0.75**2) / 2)


def test_the_clustered_error_is_the_one_of_the_formula() -> None:
    """Miller 2024, equation 4: the sum over pairs of answers of one question, here with its factor Q / (Q - 1)."""
    correct = np.array(drawn(30, 6, seed=2), dtype=float)
    centered = correct - correct.mean()
    total = sum(centered[q, i] * centered[q, j] for q in range(30) for i in range(6) for j in range(6))
    found = sampling.mean_at_n(correct.astype(bool).tolist())
    assert found.value == pytest.approx(correct.mean())
    assert found.se == pytest.approx(math.sqrt(total) / correct.size * math.sqrt(30 / 29))
    naive = math.sqrt(correct.mean() * (1 - correct.mean()) / correct.size)
    assert found.se > 1.5 * naive, "samples of one question are alike, which the naive error does not see"


def test_single_samples_have_wilsons_interval() -> None:
    correct = [[i < 69] for i in range(254)]
    found = sampling.mean_at_n(correct)
    # The standard error divides by Q - 1, so it stands for one question fewer.
    assert (found.lo, found.hi) == pytest.approx(wilson_interval(69, 254), abs=2e-4)
    assert sampling.mean_at_n([[False] * 3] * 20)[2:] == pytest.approx(wilson_interval(0, 20))
    assert sampling.mean_at_n([[True] * 3] * 20)[2:] == pytest.approx(wilson_interval(20, 20))


def test_means_that_lie_close_together_are_no_more_than_their_answers() -> None:
    # 20 questions, 4 samples each, of which 2 are right but once 3: far more even than 80 independent answers.
    right = [[True, True, i == 0, False] for i in range(20)]
    assert sampling.mean_at_n(right)[2:] == pytest.approx(wilson_interval(41, 80))
    few = sampling.majority_at_k([["A", "A", "B", "C" if i else "B"] for i in range(20)], ["A"] * 20, 4)
    assert few.hi - few.lo > 0.05


def test_one_question_counts_as_one_answer() -> None:
    assert sampling.mean_at_n([[True, True]])[2:] == pytest.approx(wilson_interval(1, 1))


def test_the_clustered_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Questions of very different difficulty, 4 samples each; the mean difficulty is 0.3."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        ease = rng.beta(0.6, 1.4, 100)
        found = sampling.mean_at_n((rng.random((100, 4)) < ease[:, None]).tolist())
        covered += found.lo <= 0.3 <= found.hi
    assert 0.92 <= covered / 400 <= 0.98


def brute_force(answers: list[str | None], gold: str, k: int) -> float:
    shares = []
    for chosen in itertools.combinations(answers, k):
        votes = [a for a in chosen if a is not None]
        top = max((votes.count(a) for a in votes), default=0)
        winners = {a for a in votes if votes.count(a) == top}
        shares.append(1 / len(winners) if gold in winners else 0.0)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8])
def test_majority_at_k_is_the_mean_over_all_subsets_with_ties_shared(k: int) -> None:
    rng = random.Random(k)
    answers = [[rng.choice([*"AABC", None]) for _ in range(8)] for _ in range(25)]
    expected = sum(brute_force(row, "A", k) for row in answers) / 25
    assert sampling.majority_at_k(answers, ["A"] * 25, k).value == pytest.approx(expected, rel=1e-12)


def test_majorities_by_hand() -> None:
    def one(answers: list[str | None], k: int) -> float:
        return sampling.majority_at_k([answers], ["A"], k).value

    assert one(["A", "A", "B"], 3) == 1
    assert one(["A", "B", None], 3) == 0.5
    assert one(["A", "B", "C"], 3) == pytest.approx(1 / 3)
    assert one([None, None, None], 3) == 0
    assert one(["A", None, None], 1) == pytest.approx(1 / 3)
    assert one(["B", "B", "A"], 3) == 0


def test_majority_of_many_samples_is_quick_and_lifts_a_small_lead() -> None:
    answers = [["A"] * 30 + ["B"] * 20 + ["C"] * 14 for _ in range(3)]
    assert sampling.majority_at_k(answers, ["A"] * 3, 1).value == pytest.approx(30 / 64)
    assert sampling.majority_at_k(answers, ["A"] * 3, 33).value > 0.9
