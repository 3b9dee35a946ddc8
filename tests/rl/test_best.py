"""Which policy of a run is published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aquarat_core.rl import trainer
from aquarat_core.rl.best import BestPolicy
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tracking.metrics import MetricLog
from tests.factories import context, random_model, session
from tests.rl.test_trainer import any_start, flat, made  # noqa: F401


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ((0.2, 0.5, 0.3, 0.5, 0.4), 3),  # of equals the latest
        ((0.2, 0.8, 0.77, 0.75), 2),  # one standard error of 0.8 on 100 questions is 0.04
        ((0.9, 0.87, 0.84), 1),  # measured from the highest, not from the one before
        ((1.0, 0.99), 0),
        ((0.0, 0.0), 1),
    ],
)
def test_the_latest_within_a_standard_error_of_the_highest_wins(accuracies: tuple[float, ...], chosen: int) -> None:
    model = random_model(40)
    best = BestPolicy(model, 100)
    kept = {}
    for step, accuracy in enumerate(accuracies):
        with torch.no_grad():
            model.head.weight.fill_(step)
        kept[step] = flat(model)
        best.watch(step, accuracy)
    assert (best.step, best.accuracy) == (chosen, accuracies[chosen])
    best.restore()
    assert torch.equal(flat(model), kept[chosen])


def test_a_restart_goes_on_with_what_was_kept() -> None:
    model, other = random_model(40, seed=1), random_model(40, seed=2)
    before = BestPolicy(model, 100)
    before.watch(6, 0.62)
    before.watch(7, 0.58)
    after = BestPolicy(other, 100)
    after.load_state_dict(before.state_dict())
    after.watch(9, 0.56)
    after.restore()
    assert after.step == 7 and torch.equal(flat(other), flat(model))


@pytest.mark.usefixtures("any_start")
@pytest.mark.parametrize(("publish", "index", "step"), [("best", 1, 2), ("last", 2, 2)])
def test_the_run_leaves_the_policy_that_the_config_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: str, index: int, step: int
) -> None:
    accuracies, seen = iter((0.1, 0.9, 0.3)), []

    def measured(run: Trainer) -> dict[str, float]:
        seen.append(flat(run.policy))
        return {"eval/accuracy": next(accuracies)}

    monkeypatch.setattr(trainer.Trainer, "_accuracies", measured)
    run, log = made(eval_every=2, publish=publish), MetricLog(tmp_path / "metrics.jsonl", None)
    summary = run.run(session(run.config, context(tmp_path), log))
    log.close()
    assert torch.equal(flat(run.policy), seen[index]) and not torch.equal(seen[1], seen[2])
    assert summary["best_step"] == step and summary["held_out_accuracy_best"] == 0.9
    assert summary["held_out_accuracy_after"] == 0.3


@pytest.mark.usefixtures("any_start")
@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_a_bonus_for_form_is_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str], bonus: float) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl", None)
    run = made(steps=1, reward={"format_bonus": bonus})
    run.run(session(run.config, context(tmp_path), log))
    log.close()
    assert ("warning: 0.1 is paid for every well-formed answer" in capfd.readouterr().err) == bool(bonus)
