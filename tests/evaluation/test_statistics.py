"""Values computed by hand or taken from published tables; the AQuA counts are those of its real splits."""

import itertools
import math
import random
from statistics import mean, stdev

import numpy as np
import pytest

from aquarat_core.evaluation import statistics as st


@pytest.mark.parametrize(
    ("correct", "lo", "hi"),
    [(69, 22.07, 32.95), (70, 22.43, 33.36), (63, 19.89, 30.46), (89, 29.4, 41.1), (102, 34.3, 46.3)],
)
def test_wilson_on_aqua_sized_samples(correct: int, lo: float, hi: float) -> None:
    digits = 2 if correct <= 70 else 1
    assert tuple(round(100 * x, digits) for x in st.wilson_interval(correct, 254)) == (lo, hi)


def test_wilson_at_the_ends_stays_inside_the_unit_interval() -> None:
    # With k = 0 the interval is [0, z^2 / (n + z^2)]; z^2 = 3.8415 at 95 %.
    lo, hi = st.wilson_interval(0, 10)
    assert lo == pytest.approx(0, abs=1e-15)
    assert hi == pytest.approx(3.841459 / 13.841459, rel=1e-6)
    assert st.wilson_interval(10, 10) == pytest.approx((1 - hi, 1 - lo))


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_out_of_range_are_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        st.wilson_interval(correct, n)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (5, 6, 1.0),  # one question apart is never evidence
        (40, 41, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_exact_is_twice_the_smaller_binomial_tail(only_first: int, only_second: int, p: float) -> None:
    assert st.mcnemar_exact(only_first, only_second) == p
    assert st.mcnemar_exact(only_second, only_first) == p


def test_mcnemar_keeps_its_precision_far_out_in_the_tail() -> None:
    assert st.mcnemar_exact(0, 1000) == pytest.approx(2.0**-999, rel=1e-12)
    # Large and even counts: within half a percent of the continuity-corrected normal approximation.
    b, c = 900, 1000
    normal = math.erfc((abs(b - c) - 1) / math.sqrt(b + c) / math.sqrt(2))
    assert st.mcnemar_exact(b, c) == pytest.approx(normal, rel=5e-3)


def test_smallest_counts_that_beat_the_baselines_on_254_questions() -> None:
    uniform = [k for k in range(255) if st.binomial_test(k, 254, 0.2) < 0.05]
    always_a = [k for k in range(255) if st.binomial_test(k, 254, 69 / 254) < 0.05]
    either_way = [k for k in range(69, 255) if st.binomial_test(k, 254, 69 / 254, "two-sided") < 0.05]
    assert (uniform[0], always_a[0], either_way[0]) == (62, 82, 84)


def test_binomial_by_hand() -> None:
    assert st.binomial_test(3, 3, 0.2) == pytest.approx(0.008)
    assert st.binomial_test(0, 3, 0.2) == pytest.approx(1.0)
    # n = 3, p = 0.2: pmf .512 .384 .096 .008; outcomes no likelier than two successes are 2 and 3.
    assert st.binomial_test(2, 3, 0.2, "two-sided") == pytest.approx(0.104)
    assert st.binomial_test(5, 10, 0.5, "two-sided") == pytest.approx(1.0)


def test_bootstrap_interval_repeats_and_is_as_wide_as_theory_says() -> None:
    lo, hi = st.paired_bootstrap_interval(100, 200, 1000, seed=7)
    assert (lo, hi) == st.paired_bootstrap_interval(100, 200, 1000, seed=7)
    # Var of one difference: (b + c) / n - ((c - b) / n)^2 = 0.3 - 0.01; 1.96 standard errors of the mean.
    half = 1.96 * math.sqrt(0.29 / 1000)
    assert (lo, hi) == pytest.approx((0.1 - half, 0.1 + half), abs=0.002)


def test_bootstrap_of_no_discordance_is_a_point() -> None:
    assert st.paired_bootstrap_interval(0, 0, 50, seed=1) == (0.0, 0.0)
    with pytest.raises(ValueError, match="do not fit"):
        st.paired_bootstrap_interval(3, 3, 5, seed=1)


def test_best_constant_letter_of_the_aqua_validation_split() -> None:
    golds = "A" * 69 + "B" * 66 + "C" * 43 + "D" * 50 + "E" * 26
    letter, accuracy = st.best_constant_answer(golds, "ABCDE")
    assert (letter, accuracy) == ("A", 69 / 254)
    assert st.best_constant_answer("EEDD", "ABCDE") == ("D", 0.5)
    assert st.best_constant_answer(["7", "18", "18", "7"]) == ("18", 0.5)
    with pytest.raises(ValueError, match="no questions"):
        st.best_constant_answer("", "ABCDE")


def test_answer_counts_and_entropy() -> None:
    assert st.answer_counts(["A", None, "E", "A"], "ABCDE") == {"A": 2, "B": 0, "C": 0, "D": 0, "E": 1}
    assert st.entropy_bits(st.answer_counts("ABCDE", "ABCDE")) == pytest.approx(math.log2(5))
    assert st.entropy_bits(st.answer_counts("AABC", "ABCDE")) == pytest.approx(1.5)
    assert st.entropy_bits(st.answer_counts("AAAA", "ABCDE")) == 0
    assert st.entropy_bits(st.answer_counts([None], "ABCDE")) == 0


def test_wilson_is_the_interval_of_the_formula() -> None:
    """Against Wilson's closed form and the values of Newcombe 1998, "Two-sided confidence intervals", table I."""
    z = 1.959963984540054
    for correct, n in [(1, 7), (69, 254), (1318, 1319), (7000, 14042)]:
        p = correct / n
        center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        expected = ((center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n))
        assert st.wilson_interval(correct, n) == pytest.approx(expected, rel=1e-12)
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (correct, n), interval in published.items():
        assert tuple(round(x, 4) for x in st.wilson_interval(correct, n)) == interval


def test_binomial_tails_are_the_sums_of_the_integers() -> None:
    for k, n in [(40, 100), (9, 10), (254, 254)]:
        exact = sum(math.comb(n, i) * 4 ** (n - i) for i in range(k, n + 1)) / 5**n
        assert st.binomial_test(k, n, 0.2) == pytest.approx(exact, rel=1e-11)


def test_holm_on_the_textbook_example() -> None:
    """Four tests with p = 0.01, 0.04, 0.03, 0.005 (also Wikipedia's example): two stay below 0.05."""
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.9, 0.8]) == [1.0, 1.0]
    assert st.holm([0.02]) == [0.02]
    assert st.holm([]) == []


def test_permutation_test_enumerates_the_signs_of_few_differences() -> None:
    differences = [0.5, -0.25, 1.0, 0.25, 0.75, 0.0]
    kept = [d for d in differences if d]
    sums = [sum(s * d for s, d in zip(signs, kept, strict=True)) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(abs(x) >= sum(kept) - 1e-12 for x in sums) / len(sums)
    assert st.paired_permutation_test(differences, seed=0) == expected


def test_permutation_test_of_darwins_corn() -> None:
    """Fisher 1935, section 21: of the 2^15 sign patterns of Darwin's 15 differences, 863 + 863 are as extreme."""
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert st.paired_permutation_test(darwin, seed=0, resamples=2**15) == pytest.approx(2 * 863 / 2**15)
    assert st.paired_permutation_test(darwin, seed=0) == pytest.approx(0.0527, abs=0.006)


def test_permutation_test_of_single_answers_is_mcnemars() -> None:
    differences = [1.0] * 30 + [-1.0] * 14 + [0.0] * 200
    found = st.paired_permutation_test(differences, seed=1, resamples=100_000)
    assert found == pytest.approx(st.mcnemar_exact(14, 30), rel=0.06)


def test_permutation_test_without_evidence() -> None:
    assert st.paired_permutation_test([0.0] * 10, seed=0) == 1
    assert st.paired_permutation_test([0.0, 0.5], seed=0) == 1
    assert st.paired_permutation_test([1.0] * 100, seed=0, resamples=999) == pytest.approx(2 / 1000)
    with pytest.raises(ValueError, match="no differences"):
        st.paired_permutation_test([], seed=0)


def test_interval_of_a_mean_difference_is_the_one_on_counts_and_as_wide_as_theory_says() -> None:
    single = [-1.0] * 100 + [1.0] * 200 + [0.0] * 700
    assert st.paired_mean_interval(single, seed=7) == st.paired_bootstrap_interval(100, 200, 1000, seed=7)
    rng = random.Random(0)
    means = [rng.gauss(0.05, 0.3) for _ in range(2000)]
    half = 1.96 * stdev(means) / math.sqrt(2000)
    expected = (mean(means) - half, mean(means) + half)
    assert st.paired_mean_interval(means, seed=7) == pytest.approx(expected, abs=0.001)
    assert st.paired_mean_interval([0.25] * 5, seed=7) == (0.25, 0.25)


def test_uniformity_of_the_letters_of_aqua() -> None:
    """The reference values of the real splits: chi2 24.4 with p 7e-5, and 10.1 with p 0.04."""
    validation, test = st.uniformity([69, 66, 43, 50, 26]), st.uniformity([63, 58, 46, 53, 34])
    assert (round(validation.chi2, 1), round(validation.p, 5)) == (24.4, 0.00007)
    assert (round(test.chi2, 1), round(test.p, 2)) == (10.1, 0.04)
    assert validation.cramers_v == pytest.approx(math.sqrt(validation.chi2 / (254 * 4)))
    assert st.uniformity([10, 0, 0]).cramers_v == pytest.approx(1)
    for counts in ([5], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="two or more counts"):
            st.uniformity(counts)


def test_p_is_shown_with_two_digits_and_never_as_zero() -> None:
    assert [st.p_text(p) for p in (1.0, 0.0314, 4.2e-17, 0.0, 1e-301)] == ["1", "0.031", "4.2e-17", *["< 1e-300"] * 2]
    assert st.p_text(0.5, "exact McNemar p") == "exact McNemar p = 0.5"
    assert st.p_text(st.mcnemar_exact(0, 5000), "p") == "p < 1e-300"


def test_cochrans_q_by_hand_and_as_mcnemars_chi_square() -> None:
    # G = 5, 2, 1 and L = 1, 1, 2, 1, 2, 1 of six questions: Q = 2 (3 * 30 - 64) / (3 * 8 - 12).
    rows = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    found = st.cochran_q([list(map(bool, row)) for row in rows])
    assert found.q == pytest.approx(52 / 12) and found.p == pytest.approx(math.exp(-52 / 24))  # 2 degrees of freedom
    # Of two ways it is McNemar's (b - c)^2 / (b + c).
    pairs = [[True, False]] * 12 + [[False, True]] * 4 + [[True, True]] * 9
    assert st.cochran_q(pairs).q == pytest.approx((12 - 4) ** 2 / 16)
    assert st.cochran_q([[True, True], [False, False]]) == (0.0, 1.0)
    for wrong in ([], [[True]], [[True, False], [True]]):
        with pytest.raises(ValueError, match="as many answers each"):
            st.cochran_q(wrong)


def test_cochrans_p_is_even_under_the_null_hypothesis() -> None:
    rng = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(1_000):
        ease = rng.random(100)[:, None]
        found.append(st.cochran_q((rng.random((100, 5)) < ease).tolist()).p)
    for level in (0.05, 0.2, 0.5):
        share = sum(p <= level for p in found) / len(found)
        assert share == pytest.approx(level, abs=5 * (level * (1 - level) / len(found)) ** 0.5)


def test_intervals_change_sign_with_the_sides() -> None:
    rng = np.random.default_rng(3)
    for differences in (
        rng.choice([-0.5, -0.125, 0.0, 0.25, 0.75], size=50).tolist(), [0.5] * 4 + [-0.5] * 4 + [0.0],
        [0.0, 0.0], [0.25],
    ):  # fmt: skip
        lo, hi = st.paired_mean_interval(differences, seed=0)
        assert st.paired_mean_interval([-x for x in reversed(differences)], seed=0) == (-hi, -lo)
    for fell, rose in ((3, 9), (9, 3), (5, 5), (0, 0)):
        lo, hi = st.paired_bootstrap_interval(fell, rose, 60, seed=0)
        assert st.paired_bootstrap_interval(rose, fell, 60, seed=0) == (-hi, -lo)


def test_interval_of_a_centered_mean() -> None:
    # One task of 96 questions with half of them right: p = (48 + 2) / 100, and twice the error above a baseline of 1/2.
    lo, hi = st.centered_mean_interval([(0.5, 96, 0.5)])
    assert (lo, hi) == pytest.approx((-1.96 * 0.1, 1.96 * 0.1), rel=1e-4)
    # The mean of four such tasks has half the error, and a perfect score still has one.
    assert st.centered_mean_interval([(0.5, 96, 0.5)] * 4)[1] == pytest.approx(0.098, rel=1e-4)
    lo, hi = st.centered_mean_interval([(1.0, 11, 0.25)])
    assert lo < 0.9 and hi == 1
    with pytest.raises(ValueError, match="no tasks"):
        st.centered_mean_interval([])
