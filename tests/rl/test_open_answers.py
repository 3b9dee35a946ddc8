"""RL, evaluation and mixtures on a task without choices: the protocol is all that they know."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from aquarat_core.config import ConfigError, MixtureEntry, RLConfig
from aquarat_core.conversation import Conversation, assistant_message, user_message
from aquarat_core.evaluation.protocols import answer, fitting
from aquarat_core.evaluation.summary import summarize
from aquarat_core.rl.rollouts import RolloutCollector
from aquarat_core.rl.samples import sample_rows
from aquarat_core.rl.tally import all_reduce, count
from aquarat_core.rl.tally import summarize as step_metrics
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tasks.gsm8k import Gsm8kTask, to_example
from aquarat_core.tasks.mixture import TaskExamples, mix
from aquarat_core.tasks.task import Example, Grade
from aquarat_core.training.callbacks import TrainingStep
from tests.factories import ONE, random_model, tokenizer
from tests.rl.scripted import Scripted
from tests.rl.test_trainer import CONFIG, FIGURES

TASK = Gsm8kTask()
EXAMPLES = [
    to_example(Conversation(f"q{i}", [user_message(f"What is {i} + 2?"), assistant_message(f"{i + 2}.\n#### {i + 2}")]))
    for i in range(20)
]
OF_LETTERS = {name for name in FIGURES if "letter" in name or name.startswith("attn/")}


def test_a_step_has_every_metric_but_those_of_letters() -> None:
    def odd_lengths(example: Example[Decimal], completion: str, ended: bool) -> Grade:
        return Grade(float(len(completion) % 2), True, example.reference, {"ambiguous": 0.0})

    config = CONFIG.model_copy(update={"curriculum": CONFIG.curriculum.model_copy(update={"enabled": True})})
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    run = Trainer(model, tokenizer(), config, ONE, TASK, EXAMPLES[:12], EXAMPLES[12:], odd_lengths)
    metrics, groups = run.step(0)
    assert metrics["rl/grad_norm"] > 0
    step = TrainingStep(1, 1, dict(metrics))
    for callback in run.measurements:
        callback.after_step(step)
    assert set(step.metrics) == FIGURES - OF_LETTERS
    assert run.alarms.watch(metrics)[0] == 0
    assert {row["gold"] for row in sample_rows(1, groups)} <= {e.reference for e in EXAMPLES}


def test_completions_are_graded_by_the_task() -> None:
    config = RLConfig(group_size=4, max_new_tokens=12)
    texts = [["2.\n#### 2", "#### 2.0", "#### 3\n#### 2", "#### 2~"], ["#### 3", "#### 4", "3", "#### 3 apples"]]
    groups = RolloutCollector(Scripted(texts), tokenizer(), config, TASK).collect(EXAMPLES[:2], 0)
    assert [group.rewards for group in groups] == [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert [grade.answer for grade in groups[1].grades] == ["3", "4", None, None]
    metrics = step_metrics(all_reduce(count(groups), TASK, ONE))
    assert (metrics["rl/acc"], metrics["rl/parse_rate"], metrics["rl/ambiguous_rate"]) == (3 / 8, 4 / 8, 1 / 8)
    assert not [name for name in metrics if "letter" in name]


@pytest.mark.parametrize(
    "reward", [{"kind": "probability"}, {"kind": "forced_letter"}, {"control": "constant"}, {"control": "random"}]
)
def test_rewards_that_need_letters_are_refused(reward: dict[str, str]) -> None:
    config = RLConfig(reward=reward)
    with pytest.raises(ConfigError, match=r"answers of the task 'gsm8k' are open.* need a choice among letters"):
        RolloutCollector(Scripted([]), tokenizer(), config, TASK)


def test_an_evaluation_has_baselines_without_chance() -> None:
    engine = Scripted([["#### 2"], ["#### 99"], ["no idea"]])
    engine.model = random_model(tokenizer().vocab_size, sequence_len=256)
    records = answer(engine, tokenizer(), TASK, EXAMPLES[:3], 12)
    found = [(r.gold, r.parsed, r.correct) for r in records]
    assert found == [("2", "2", True), ("3", "99", False), ("4", None, False)]
    summary = summarize(records, "2", chance=0.0, categories=TASK.categories)
    assert (summary["accuracy"], summary["majority"]["accuracy"], summary["letters"]) == (1 / 3, 1 / 3, {})
    assert fitting(EXAMPLES, tokenizer(), 12, 256) == EXAMPLES
    assert fitting(EXAMPLES, tokenizer(), 250, 256) == []


def test_a_mixture_takes_its_examples_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TASK), "iterate", lambda self, path, split: iter(EXAMPLES))
    source = TaskExamples(TASK, Path, "train")
    mixture = mix([MixtureEntry(name="gsm8k", permutations=3, repeat=2)], {"gsm8k": source}, seed=1)
    assert sorted(mixture.order.tolist()) == sorted(2 * list(range(len(EXAMPLES))))
    said = [part.messages(i)[-1]["content"] for part in mixture.turns() for i in range(len(part))]
    assert said == [e.target for e in EXAMPLES]
