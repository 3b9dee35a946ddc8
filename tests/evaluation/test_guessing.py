"""The test of several answers against guessing: by hand, and under a null hypothesis that is true."""

import random

import pytest

from aquarat_core.evaluation.guessing import Answered, p_above_guessing
from aquarat_core.evaluation.statistics import binomial_test


def test_single_answers_have_the_binomial_p() -> None:
    asked = [Answered(["A"], "A" if i < 9 else "B", 5) for i in range(25)]
    assert p_above_guessing(asked, seed=0, resamples=100_000) == pytest.approx(binomial_test(9, 25, 0.2), abs=0.003)


def test_answers_that_all_agree_count_as_one() -> None:
    once = [Answered(["A"], "A" if i < 9 else "B", 5) for i in range(25)]
    often = [Answered(["A"] * 8, *q[1:]) for q in once]
    assert p_above_guessing(often, seed=0) == p_above_guessing(once, seed=0)


def test_two_questions_by_hand() -> None:
    # The draws are (2/2 or 0 of the first) and (1/2, 1/2 or 0 of the second, which has three options).
    asked = [Answered(["A", "A"], "A", 2), Answered(["A", None], "A", 3)]
    # At least 1.5: the first right (1/2) and the second's one answer right (1/3).
    assert p_above_guessing(asked, seed=0, resamples=60_000) == pytest.approx(1 / 6, abs=0.005)
    assert p_above_guessing([Answered([None], "A", 5)] * 10, seed=0) == 1


def test_p_is_even_if_nothing_is_known() -> None:
    rng = random.Random(1)
    found: list[float] = []
    for seed in range(300):
        asked: list[Answered] = []
        for _ in range(40):
            favorite = rng.randrange(5)  # a question's samples agree most of the time
            answers = [favorite if rng.random() < 0.8 else rng.randrange(5) for _ in range(4)]
            asked.append(Answered(answers, rng.randrange(5), 5))
        found.append(p_above_guessing(asked, seed=seed, resamples=500))
    # Five standard errors of a share of 300.
    for level in (0.05, 0.2, 0.5):
        share = sum(p <= level for p in found) / len(found)
        assert share == pytest.approx(level, abs=5 * (level * (1 - level) / len(found)) ** 0.5)


def test_more_answers_than_options_are_refused() -> None:
    for asked in ([], [Answered([], "A", 2)], [Answered(["B", "C"], "A", 2)]):
        with pytest.raises(ValueError, match=r"no questions|answers name"):
            p_above_guessing(asked, seed=0)
