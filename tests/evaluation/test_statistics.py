"""Values computed by hand or taken from published tables; the AQuA counts are those of its real splits."""

import math

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


@pytest.mark.parametrize(("n", "points"), [(254, 9.6), (508, 6.8), (5000, 2.2), (2617, 3.0)])
def test_minimum_detectable_difference_at_30_percent_discordance(n: int, points: float) -> None:
    assert round(100 * st.minimum_detectable_difference(n, 0.3), 1) == points


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
