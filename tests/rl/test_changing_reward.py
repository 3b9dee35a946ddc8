"""A reward that changes within a run: which step pays what, and what shows it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from aquarat_core.config import RewardConfig, RLConfig
from aquarat_core.rl.reward import RewardSchedule
from aquarat_core.rl.rollouts import Group, RolloutCollector
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.task import Example
from aquarat_core.tracking.metrics import MetricLog
from tests.factories import AQUA, ONE, context, guesser, random_model, reading_examples, reading_tokenizer, session
from tests.factories import tokenizer as plain_tokenizer
from tests.rl.scripted import Scripted
from tests.rl.test_rollouts import FIXED

BOTH = {"kind": "probability", "exact_after": 0.34, "format_bonus": 0.1, "format_bonus_until": 0.9}


def schedule(steps: int = 6, **reward: Any) -> RewardSchedule:
    return RewardSchedule(RewardConfig(**reward), steps)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"exact_after": 0.3}, "exact_after 0.3 would do nothing, because the kind 'answer' is exact in all steps"),
        ({"format_bonus_until": 0.9}, "format_bonus_until 0.9 would do nothing, because no bonus is paid"),
        ({"kind": "probability", "exact_after": 0.0}, "greater than 0"),
        ({"kind": "probability", "exact_after": 1.0}, "less than 1"),
        ({"format_bonus": 0.1, "format_bonus_until": 1.0}, "less than 1"),
    ],
)
def test_a_change_that_would_do_nothing_is_refused(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardConfig(**reward)


def test_the_kind_depends_on_the_step_alone() -> None:
    changing = schedule(steps=10, kind="forced_letter", exact_after=0.34)
    assert [changing.kind(step) for step in range(10)] == ["forced_letter"] * 3 + ["answer"] * 7
    assert [bool(changing.after_step(step, 0.5)) for step in range(10)] == [False] * 2 + [True] + [False] * 7
    assert changing.metrics(2, 0.7) == {} and changing.metrics(3, 0.7) == {"rl/exact_reward": 0.7}
    fixed = schedule(steps=10, kind="forced_letter")
    assert {fixed.kind(step) for step in range(10)} == {"forced_letter"}
    assert not fixed.changes and fixed.metrics(9, 0.7) == {} and fixed.summary() == {}


def test_a_bonus_ends_after_the_first_step_in_form_and_stays_ended() -> None:
    changing = schedule(format_bonus=0.1, format_bonus_until=0.9)
    paid, said = list[float](), list[str]()
    for step, parse_rate in enumerate((0.5, 0.9, 0.91, 0.2, 1.0, 0.3)):
        paid.append(changing.metrics(step, 0.0)["rl/format_bonus"])
        said += changing.after_step(step, parse_rate)
    assert paid == [0.1, 0.1, 0.1, 0.0, 0.0, 0.0], "0.9 is not above 0.9"
    (text,) = said
    assert text.startswith("91.0% of the completions were well-formed, more than 90.0%: from here on no bonus")
    assert changing.summary() == {"steps_with_format_bonus": 3}
    resumed = schedule(format_bonus=0.1, format_bonus_until=0.9)
    assert resumed.bonus(5) == 0.1 and resumed.summary() == {"steps_with_format_bonus": 6}
    resumed.load_state_dict(json.loads(json.dumps(changing.state_dict())))
    assert [resumed.bonus(step) for step in range(6)] == paid and resumed.after_step(5, 1.0) == []


def test_controls_pay_neither_and_so_change_nothing() -> None:
    assert schedule(**BOTH).changes and not schedule(**BOTH, control="random").changes


def test_completions_are_paid_by_the_step_that_they_are_sampled_for() -> None:
    """Whenever they are sampled, and those that replace a group as well."""
    config = RLConfig.model_validate({
        "steps": 6, "group_size": 4, "max_new_tokens": 12, "dynamic_sampling_rounds": 1, "reward": BOTH
    })  # fmt: skip
    engine = Scripted([["Answer: B", "Answer: A", "B", "Answer: B~"]])
    engine.model = random_model(plain_tokenizer().vocab_size, sequence_len=256)
    collector = RolloutCollector(engine, plain_tokenizer(), config, AQUA)

    def earned(step: int) -> list[float]:
        (group,) = collector.collect([FIXED], step)
        return group.rewards

    probable = earned(1)
    assert 0.1 < probable[0] < 1.1 and 0.1 < probable[1] < 1.1 and probable[2:] == [0.0, 0.0]
    assert earned(2) == [1.1, 0.1, 0.0, 0.0]
    collector.schedule.after_step(3, 0.95)
    assert earned(4) == [1.0, 0.0, 0.0, 0.0] and earned(3) == [1.1, 0.1, 0.0, 0.0]
    assert earned(0) == pytest.approx(probable, rel=1e-6)

    def replacement(round_: int, i: int) -> Example[Question]:
        return FIXED

    (silent,) = collector.collect([FIXED], 4)
    silent = Group(silent.example, silent.prompt, silent.completions, silent.texts, silent.grades, [0.0] * 4)
    for step, rewards in ((3, [1.1, 0.1, 0.0, 0.0]), (4, [1.0, 0.0, 0.0, 0.0])):
        ((group,), drawn) = collector.resample_zero_variance([silent], step, replacement)
        assert (group.rewards, drawn) == (rewards, 1)


def test_a_run_shows_what_each_step_paid(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = RLConfig.model_validate({
        "steps": 6, "prompts_per_step": 8, "group_size": 4, "max_new_tokens": 8, "eval_every": 6, "eval_questions": 10,
        "optim": {"lr_scale": 0.1}, "reward": BOTH, "curriculum": {"enabled": True}, "seed": 3,
    })  # fmt: skip
    questions, held_out = reading_examples(40), reading_examples(10, first=1000)
    run = Trainer(copy.deepcopy(guesser()), reading_tokenizer(), config, ONE, AQUA, questions, held_out)
    log = MetricLog(tmp_path / "metrics.jsonl", None)
    summary = run.run(session(config, context(tmp_path), log))
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:]
    assert ["rl/exact_reward" in row for row in rows] == [False] * 2 + [True] * 4
    ended = next(i for i, row in enumerate(rows) if row["rl/parse_rate"] > 0.9) + 1
    assert 0 < ended < 6, "it ends within the run"
    assert [row["rl/format_bonus"] for row in rows] == [0.1] * ended + [0.0] * (6 - ended)
    for row in rows[2:]:
        exact = row["rl/acc"] + row["rl/format_bonus"] * row["rl/parse_rate"]
        assert row["rl/exact_reward"] == row["rl/mean_reward"] == pytest.approx(exact)
    assert summary["steps_before_exact_reward"] == 2 and summary["steps_with_format_bonus"] == ended
    rates = run.curriculum.pass_rates_N
    seen = rates[rates >= 0]
    assert torch.equal(seen * 32, (seen * 32).round()), "pass rates are means of shares of right answers, never rewards"
    said = capfd.readouterr().err
    assert said.count("step 2: the reward is exact from here on (rl_checkpoint.reward.exact_after)") == 1
    assert said.count(f"step {ended}: ") >= 1 and said.count("from here on no bonus is paid") == 1
