"""Values worked out by hand."""

import pytest

from aquarat_core.evaluation import option_bias
from aquarat_core.evaluation.statistics import wilson_interval


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
    found = option_bias.place_bias([1] * 30, 5)
    assert found is not None
    assert (found.counts, found.unparsed, found.cramers_v) == ((0, 30, 0, 0, 0), 0, 1.0)
    # (30 - 6)^2 / 6 + 4 * 6
    assert found.chi2 == pytest.approx(120)


def test_a_model_that_follows_content_has_none() -> None:
    found = option_bias.place_bias([(2 + r) % 5 for r in range(5)] * 4 + [None], 5)
    assert found is not None
    assert found == ((4, 4, 4, 4, 4), 1, 0.0, 1.0, 0.0)


def test_answers_that_do_not_parse_have_no_bias_to_measure() -> None:
    assert option_bias.place_bias([None, None], 5) is None
    with pytest.raises(ValueError, match=r"between 0 and 4, got \[5\]"):
        option_bias.place_bias([5], 5)
