"""The whole loop on a task that its reward alone can teach: sampling, judging, gradients and evaluation must agree."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aquarat_core.config import RLConfig
from aquarat_core.evaluation.protocols import accuracy
from aquarat_core.rl.samples import COLUMNS
from aquarat_core.rl.trainer import Trainer
from aquarat_core.rollout.engine import Engine
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.task import Example, Grade, Reward
from aquarat_core.text.chat import stop_tokens
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.tracking.sample_table import SAMPLES_FILE
from tests.factories import AQUA, ONE, context, guesser, reading_examples, reading_tokenizer, session

CONFIG = RLConfig(
    steps=70, prompts_per_step=16, group_size=8, max_new_tokens=8, micro_batch_rows=128, eval_every=35,
    eval_questions=100, optim={"lr_scale": 0.6, "warmdown": 0.5}, seed=3,
)  # fmt: skip
HELD_OUT = reading_examples(100, first=1000)


def trained(
    folder: Path, reward: Reward[Question] | None = None, **changes: Any
) -> tuple[Trainer[Question], dict[str, float], list[dict[str, float]]]:
    config = RLConfig.model_validate(CONFIG.model_dump() | changes)
    policy, tok = copy.deepcopy(guesser()), reading_tokenizer()
    trainer = Trainer(policy, tok, config, ONE, AQUA, reading_examples(320), HELD_OUT, reward)
    log = MetricLog(folder / "metrics.jsonl", None)
    summary = trainer.run(session(config, context(folder), log))
    log.close()
    return trainer, summary, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_guesser_learns_to_read_the_letter_from_its_reward(tmp_path: Path) -> None:
    trainer, summary, rows = trained(tmp_path)
    assert summary["held_out_accuracy_before"] == 0.2  # one letter for all
    assert 0.1 < summary["reward_mean_first"] < 0.3
    assert summary["held_out_accuracy_after"] >= 0.95
    assert summary["reward_mean_last"] > 0.85
    # What was measured is what was trained: a new engine of the same weights answers alike.
    fresh = Engine(trainer.policy, stop_tokens(reading_tokenizer()))
    assert accuracy(fresh, reading_tokenizer(), AQUA, HELD_OUT, 8, ONE) == summary["held_out_accuracy_after"]
    # The reference is still where the policy started.
    for kept, start in zip(trainer.reference.parameters(), guesser().parameters(), strict=True):
        assert torch.equal(kept, start)

    # The probes saw it happen, at a cost that does not matter.
    probed = [row for row in rows if "rl/letter_acc" in row]
    assert [row["step"] for row in probed] == [0, 35, 70]
    assert probed[0]["rl/kl_letter_mean"] == 0.0 and probed[-1]["rl/kl_letter_mean"] > 0.5
    assert probed[0]["rl/letter_acc"] <= 0.3 and probed[-1]["rl/letter_acc"] >= 0.9
    assert probed[-1]["rl/letter_margin_mean"] > probed[0]["rl/letter_margin_mean"] + 1
    assert rows[-1]["time/probe_share"] < 0.05

    table = [json.loads(line) for line in (tmp_path / SAMPLES_FILE).read_text().splitlines()]
    assert [row["step"] for row in table] == [35] * 8 + [70] * 8
    assert all(tuple(row) == COLUMNS and row["reward"] == float(row["parsed"] == row["gold"]) for row in table)


@pytest.mark.slow
def test_rewards_that_know_nothing_teach_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def random_reward(example: Example[Question], completion: str, ended: bool) -> Grade:
        grade = AQUA.grade(example, completion, ended)
        return replace(grade, reward=float(torch.rand((), generator=generator) < 0.2))

    _, summary, _ = trained(tmp_path, random_reward, steps=25)
    assert summary["held_out_accuracy_after"] <= 0.4
