"""RL on several tasks at once: whose questions a step asks, and what is measured of each."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.config import ConfigError, CurriculumConfig, RLConfig, RLTask
from aquarat_core.errors import StageError
from aquarat_core.rl.alarms import Monitors
from aquarat_core.rl.curriculum import Curriculum, CurriculumMixture
from aquarat_core.rl.preflight import check_first_batch, check_reward
from aquarat_core.rl.rollouts import RolloutCollector
from aquarat_core.rl.tally import step_metrics
from aquarat_core.rl.task_mixture import Member, TaskMixture, part_of, parts_of, shares
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tasks.task import Example, Grade
from aquarat_core.training.callbacks import TrainingStep
from tests.factories import AQUA, ONE, examples, random_model, tokenizer
from tests.rl.scripted import Scripted
from tests.rl.test_open_answers import EXAMPLES as NUMBERS
from tests.rl.test_open_answers import TASK as GSM8K
from tests.rl.test_trainer import CONFIG

BOTH = TaskMixture({"aqua": AQUA, "gsm8k": GSM8K})
LETTERED = [BOTH.member("aqua", e) for e in examples()[:20]]
NUMBERED = [BOTH.member("gsm8k", e) for e in NUMBERS]
TASKS = (RLTask(name="aqua", weight=3), RLTask(name="gsm8k", weight=1))


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ([1, 1], 16, [8, 8]), ([3, 1], 16, [12, 4]), ([1, 1, 1], 16, [6, 5, 5]), ([1, 1000], 16, [1, 15]),
        ([5], 16, [16]), ([2, 1, 1], 3, [1, 1, 1]), ([0.5, 0.25, 0.25], 8, [4, 2, 2]), ([1, 1, 1000], 4, [1, 1, 2]),
    ],
)  # fmt: skip
def test_a_steps_questions_are_shared_out_by_weight(weights: list[float], count: int, expected: list[int]) -> None:
    assert shares(weights, count) == expected


def test_a_member_is_asked_of_its_own_task() -> None:
    letter, number = LETTERED[0], NUMBERED[0]
    assert (letter.id, number.id) == (f"aqua/{examples()[0].id}", "gsm8k/q0")
    assert BOTH.grade(letter, f"Answer: {letter.reference}", True).correct
    assert BOTH.grade(number, "#### 2", True).correct
    assert not BOTH.grade(number, "Answer: 2", True).correct
    assert (BOTH.chance(letter), BOTH.chance(number)) == (0.2, 0.0)
    shown = BOTH.shown(letter, 3)
    assert shown.answer.task == "aqua"
    assert shown.choices == AQUA.shown(examples()[0], 3).choices
    assert [part.name for part in parts_of(BOTH)] == ["aqua", "gsm8k"]
    assert [part.suffix for part in parts_of(AQUA)] == [""]
    assert part_of(parts_of(BOTH), number).task is GSM8K


def test_the_reward_of_each_member_is_checked_like_its_own_tasks() -> None:
    check_reward(BOTH, LETTERED, tokenizer())
    check_reward(BOTH, NUMBERED, tokenizer())


def test_a_steps_metrics_are_of_all_and_of_each_task() -> None:
    config = RLConfig(group_size=4, max_new_tokens=12, tasks=TASKS)
    letter = LETTERED[0]
    right = f"Answer: {letter.reference}"
    wrong = f"Answer: {'B' if letter.reference != 'B' else 'C'}"
    texts = [[right, wrong, wrong, "Answer"], ["#### 2", "#### 2", "#### 2", "#### 2"]]
    collector = RolloutCollector(Scripted(texts), tokenizer(), config, Unmoved({"aqua": AQUA, "gsm8k": GSM8K}))
    metrics = step_metrics(collector.collect([letter, NUMBERED[0]], 0), BOTH, ONE)
    assert (metrics["rl/acc"], metrics["rl/acc/aqua"], metrics["rl/acc/gsm8k"]) == (5 / 8, 1 / 4, 1.0)
    assert (metrics["rl/parse_rate/aqua"], metrics["rl/parse_rate/gsm8k"]) == (3 / 4, 1.0)
    assert (metrics["rl/zero_variance_groups/aqua"], metrics["rl/zero_variance_groups/gsm8k"]) == (0.0, 1.0)
    assert metrics[f"rl/letter_{letter.reference}/aqua"] == pytest.approx(1 / 3)
    assert not [name for name in metrics if name.startswith("rl/letter") and not name.endswith("/aqua")]


class Unmoved(TaskMixture):
    """Shows options in their own order, so that a test knows the letters."""

    def shown(self, example: Example[Member], seed: int) -> Example[Member]:
        return example


def test_a_run_learns_from_both_and_measures_each() -> None:
    def odd_lengths(example: Example[Any], completion: str, ended: bool) -> Grade:
        return Grade(float(len(completion) % 2), len(completion) % 2 == 1, example.reference, {"ambiguous": 0.0})

    config = RLConfig.model_validate(
        {**CONFIG.model_dump(), "tasks": TASKS, "prompts_per_step": 8, "curriculum": {"enabled": True}}
    )
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    train, held_out = [*LETTERED[:12], *NUMBERED[:12]], [*LETTERED[12:], *NUMBERED[12:]]
    run = Trainer(model, tokenizer(), config, ONE, BOTH, train, held_out, odd_lengths)
    metrics, groups = run.step(0)
    assert [group.example.answer.task for group in groups] == ["aqua"] * 6 + ["gsm8k"] * 2
    step = TrainingStep(1, 1, dict(metrics))
    for callback in run.measurements:
        callback.after_step(step)
    assert {
        "eval/accuracy",
        "eval/accuracy/aqua",
        "eval/accuracy/gsm8k",
        "rl/kl_letter_mean/aqua",
    } <= step.metrics.keys()
    assert "rl/kl_letter_mean/gsm8k" not in step.metrics
    assert (metrics["rl/curriculum_seen/aqua"], metrics["rl/curriculum_seen/gsm8k"]) == (6, 2)
    assert metrics["rl/grad_norm"] > 0


def test_the_first_batch_of_each_task_is_checked() -> None:
    good = {"rl/parse_rate": 1.0, "rl/mean_reward": 0.5, "rl/zero_variance_groups": 0.1, "rl/truncated_rate": 0.0}
    figures = {f"{name}/{task}": value for name, value in good.items() for task in ("aqua", "gsm8k")}
    check_first_batch(figures, RLConfig(), ["aqua", "gsm8k"])
    with pytest.raises(StageError, match="task gsm8k: only 10% of the first completions"):
        check_first_batch({**figures, "rl/parse_rate/gsm8k": 0.1}, RLConfig(), ["aqua", "gsm8k"])


def test_what_needs_letters_is_refused_where_one_task_has_none() -> None:
    config = RLConfig.model_validate({"tasks": TASKS, "reward": {"kind": "probability"}})
    with pytest.raises(ConfigError, match="the answers of the task 'gsm8k' are open"):
        RolloutCollector(Scripted([]), tokenizer(), config, BOTH)


def test_an_alarm_names_the_task_whose_answers_collapse() -> None:
    alarms = Monitors({"/aqua": "ABCDE", "/other": "AB"})
    figures = {"rl/parse_rate": 1.0, "rl/acc": 0.3, "rl/silent": 0.0}
    figures |= {f"rl/letter_{x}/aqua": 0.2 for x in "ABCDE"} | {"rl/letter_A/other": 0.9, "rl/letter_B/other": 0.1}
    count, (text,) = alarms.watch(figures)
    assert count == 1
    assert "90% of the answers to other are A (bound 75%)" in text


def curricula(enabled: bool = True) -> CurriculumMixture:
    config = CurriculumConfig(enabled=enabled)
    return CurriculumMixture(
        {"/a": Curriculum([0.2] * 10, 1, config, ONE), "/b": Curriculum([0.0] * 6, 1, config, ONE)}, [3, 2]
    )


@pytest.mark.parametrize("enabled", [True, False])
def test_a_mixture_draws_each_tasks_share(enabled: bool) -> None:
    drawn = [curricula(enabled).draw(step, 5) for step in range(4)]
    assert all([i < 10 for i in indices] == [True] * 3 + [False] * 2 for indices in drawn)
    assert all(10 <= i < 16 for indices in drawn for i in indices[3:])


def test_a_mixture_replaces_a_question_by_one_of_its_task() -> None:
    mixture = curricula()
    assert all(mixture.replacement(2, 1, 0, 5, place) < 10 for place in range(3))
    assert all(10 <= mixture.replacement(2, 1, 0, 5, place) < 16 for place in (3, 4))


def test_a_mixture_remembers_pass_rates_over_a_restart() -> None:
    first, second = curricula(), curricula()
    first.update({0: 1.0, 12: 0.5})
    second.load_state_dict(first.state_dict())
    assert second.curricula["/a"].pass_rates_N[0] == 1.0
    assert second.curricula["/b"].pass_rates_N[2] == 0.5
    assert first.metrics() == second.metrics()
    assert first.metrics()["rl/curriculum_seen/b"] == 1
