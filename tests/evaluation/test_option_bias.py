"""Values worked out by hand."""

import random

import pytest

from aquarat_core.evaluation import option_bias
from aquarat_core.evaluation.statistics import uniformity, wilson_interval


def test_accuracy_by_place() -> None:
    found = option_bias.accuracy_by_place([0, 0, 0, 2, 2], [True, True, False, False, False])
    assert found == [
        (0, 3, 2, 2 / 3, *wilson_interval(2, 3)),
        (2, 2, 0, 0.0, *wilson_interval(0, 2)),
    ]
    with pytest.raises(ValueError, match="shorter"):
        option_bias.accuracy_by_place([0, 1], [True])


def test_consistency_counts_questions_answered_alike_by_content() -> None:
    found = option_bias.consistency(
        [["12", "12", "12"], ["12", "12", "7"], ["1", "2", "3"], [None, None, None], ["5", "5", None]]
    )
    assert (found.n, found.same, found.share) == (5, 1, 0.2)
    assert (found.lo, found.hi) == wilson_interval(1, 5)
    # Pairs that agree: 3 of 3, 1 of 3, none, none (no answer agrees with nothing), 1 of 3.
    assert found.agreement == pytest.approx((1 + 1 / 3 + 0 + 0 + 1 / 3) / 5)


def test_consistency_needs_rotations() -> None:
    for contents in ([], [["12"]]):
        with pytest.raises(ValueError, match="two or more rotations"):
            option_bias.consistency(contents)


def test_a_model_that_always_gives_one_place_has_the_largest_bias() -> None:
    found = option_bias.place_bias([[1] * 5] * 6, 5, seed=0)
    assert found is not None
    assert (found.counts, found.unparsed, found.cramers_v) == ((0, 30, 0, 0, 0), 0, 1.0)
    # (30 - 6)^2 / 6 + 4 * 6
    assert found.chi2 == pytest.approx(120)
    # Six questions whose places all fall together by chance: (1/5)^5.
    assert found.p == pytest.approx(5**-5, abs=0.001)


def test_a_model_that_follows_content_has_none() -> None:
    found = option_bias.place_bias([[(2 + r) % 5 for r in range(5)]] * 4 + [[None]], 5, seed=0)
    assert found is not None
    assert found == ((4, 4, 4, 4, 4), 1, 0.0, 0.0, 1.0)


def test_answers_that_do_not_parse_have_no_bias_to_measure() -> None:
    assert option_bias.place_bias([[None, None]], 5, seed=0) is None
    with pytest.raises(ValueError, match=r"between 0 and 4, got \[5\]"):
        option_bias.place_bias([[5]], 5, seed=0)


def consistent(rng: random.Random, strays: float, favorite: int | None = None) -> list[int]:
    """Places answered under five rotations by a model that follows content but for a share of strays."""
    content = rng.randrange(5)
    return [
        (content + r) % 5 if rng.random() >= strays else rng.randrange(5) if favorite is None else favorite
        for r in range(5)
    ]


def test_a_preference_of_few_answers_is_seen_among_consistent_ones() -> None:
    """Chi-square's own p, whose unit is the answer, sees none, because consistent answers must be even."""
    rng = random.Random(0)
    answered = [consistent(rng, 0.06, favorite=0) for _ in range(100)]
    found = option_bias.place_bias(answered, 5, seed=0)
    assert found is not None
    assert uniformity(found.counts).p > 0.05 and found.p < 0.001
    assert option_bias.place_bias(answered, 5, seed=0) == found


@pytest.mark.parametrize("strays", [0.1, 0.5, 1.0])
def test_p_is_even_for_models_without_a_preference(strays: float) -> None:
    rng = random.Random(2)
    found: list[float] = []
    for seed in range(300):
        bias = option_bias.place_bias([consistent(rng, strays) for _ in range(60)], 5, seed=seed, resamples=500)
        assert bias is not None
        found.append(bias.p)
    for level in (0.05, 0.2, 0.5):
        share = sum(p <= level for p in found) / len(found)
        assert share == pytest.approx(level, abs=5 * (level * (1 - level) / len(found)) ** 0.5)
