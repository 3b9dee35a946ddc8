"""Which questions are drawn: each once an epoch, or by how much they can teach."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from aquarat_core.config import CurriculumConfig
from aquarat_core.rl.curriculum import Curriculum
from tests.factories import ONE

ON = CurriculumConfig(enabled=True)


def test_without_a_curriculum_every_question_comes_once_an_epoch() -> None:
    curriculum = Curriculum([0.2] * 12, 3, CurriculumConfig(), ONE)
    epoch = [i for step in range(3) for i in curriculum.draw(step, 4)]
    assert sorted(epoch) == list(range(12)) != epoch
    curriculum.update({0: 1.0})
    assert curriculum.draw(0, 4) == epoch[:4] and curriculum.metrics() == {}


def test_pass_rates_count_from_chance_on_and_fade() -> None:
    curriculum = Curriculum([0.2] * 5, 3, ON, ONE)
    curriculum.update({0: 1.0, 1: 0.2, 2: 0.6, 3: 0.0})
    assert curriculum.pass_rates_N.tolist() == [1.0, 0.2, 0.6, 0.0, -1.0]
    # Shares of the way from chance to 1: 1, 0, 0.5, below 0, unknown.
    assert curriculum.weights().tolist() == [0.2, 0.2, 1.0, 0.2, 1.0]
    assert curriculum.metrics() == {"rl/curriculum_seen": 4.0, "rl/curriculum_useful": 0.25}
    curriculum.update({0: 0.5})
    assert curriculum.pass_rates_N.tolist() == [0.75, 0.2, 0.6, 0.0, -1.0]
    assert curriculum.weights().tolist() == [1.0, 0.2, 1.0, 0.2, 1.0]


def test_draws_follow_the_weights_without_repeats() -> None:
    curriculum = Curriculum([0.2] * 100, 3, ON, ONE)
    curriculum.update(dict.fromkeys(range(50), 1.0))
    seen: Counter[int] = Counter()
    for step in range(400):
        drawn = curriculum.draw(step, 4)
        assert len(set(drawn)) == 4
        seen.update(drawn)
    easy = sum(seen[i] for i in range(50)) / 1600
    assert easy == pytest.approx(0.2 / 1.2, abs=0.04)
    assert len(seen) > 90


def test_draws_depend_on_seed_step_and_state_alone() -> None:
    first, second, other = (Curriculum([0.2] * 100, seed, ON, ONE) for seed in (3, 3, 4))
    assert first.draw(5, 8) == second.draw(5, 8) != first.draw(6, 8)
    assert first.draw(5, 8) != other.draw(5, 8)
    first.update(dict.fromkeys(first.draw(5, 8), 1.0))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.pass_rates_N, first.pass_rates_N)
    assert [first.draw(n, 8) for n in range(5)] == [second.draw(n, 8) for n in range(5)]


def test_replacements_are_named_by_place_not_by_rank() -> None:
    curriculum = Curriculum([0.2] * 1000, 3, ON, ONE)
    found = [curriculum.replacement(7, 2, r, 16, place) for r in range(2) for place in range(16)]
    assert len(set(found)) == 32
    assert curriculum.replacement(7, 2, 1, 16, 5) == found[21]
    assert found != [curriculum.replacement(8, 2, r, 16, place) for r in range(2) for place in range(16)]


def test_more_questions_a_step_than_there_are_is_the_users_mistake() -> None:
    with pytest.raises(ValueError, match=r"a step asks 5 questions, but there are 3: lower rl_checkpoint\.prompts"):
        Curriculum([0.2] * 3, 1, ON, ONE).draw(0, 5)


def test_each_question_counts_from_its_own_chance_on() -> None:
    curriculum = Curriculum([0.25, 0.0, 0.25, 0.0], 3, ON, ONE)
    curriculum.update({0: 0.25, 1: 0.25, 2: 0.9, 3: 0.9})
    # 0.25 is chance among four choices, and a quarter of the way where answers are open; 0.9 of that way is easy.
    assert curriculum.weights().tolist() == [0.2, 1.0, 1.0, 0.2]
