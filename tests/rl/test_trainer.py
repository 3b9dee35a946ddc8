"""One step's figures, recomputed from its samples, and a step in which there is nothing to learn."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from aquarat_core.config import RLConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl import trainer
from aquarat_core.rl.objective import kl_k1, kl_k3
from aquarat_core.rl.rollouts import samples
from aquarat_core.rl.scoring import collate, completion_logp
from aquarat_core.rl.trainer import Trainer
from aquarat_core.stages.base import StageContext
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.task import Grade, Reward
from aquarat_core.training.callbacks import TrainingStep
from tests.factories import AQUA, CPU, ONE, examples, odd_lengths, random_model, session, tokenizer

CONFIG = RLConfig(
    steps=4, prompts_per_step=4, group_size=4, max_new_tokens=8, micro_batch_rows=5, temperature=0.8,
    optim={"lr_scale": 1.0, "grad_clip": None},
)  # fmt: skip

FIGURES = {
    "rl/acc", "rl/mean_reward", "rl/reward_std", "rl/parse_rate", "rl/ambiguous_rate", "rl/truncated_rate",
    "rl/stop_token_rate", "rl/repeated_rate", "rl/completion_length_mean", "rl/length_right_mean",
    "rl/given_tokens_mean",
    "rl/solved_none", "rl/solved_some", "rl/solved_all", "rl/zero_variance_groups", "rl/letter_A", "rl/letter_B",
    "rl/letter_C", "rl/letter_D", "rl/letter_E", "rl/grad_norm", "rl/lr_factor", "rl/skipped_steps",
    "rl/silent_steps", "rl/silent",
    "rl/clip_low_rate", "rl/clip_high_rate", "rl/truncated_weights", "rl/sampler_logp_difference",
    "rl/entropy_mean", "rl/kl_sequence_mean", "rl/kl_sequence_k1", "rl/curriculum_seen", "rl/curriculum_useful",
    "rl/refilled_groups", "rl/trained_tokens", "rl/kl_letter_mean", "rl/letter_margin_mean",
    "rl/letter_entropy_mean", "rl/letter_acc", "attn/entropy_mean", "attn/entropy_layer_0",
    "attn/entropy_layer_1", "eval/accuracy", "time/rollout", "time/scoring", "time/update", "time/step",
    "time/eval", "time/probe",
}  # fmt: skip
"""Of a step with the curriculum and an evaluation, where some completions are right."""


@pytest.fixture
def any_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "check_first_batch", lambda figures, config, tasks: None)


def made(paid: Reward[Question] | None = odd_lengths, **changes: Any) -> Trainer[Question]:
    """A run on a reward that random text can earn; with None, on the task's own, which it cannot."""
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    config = RLConfig.model_validate(CONFIG.model_dump() | changes)
    return Trainer(model, tokenizer(), config, ONE, AQUA, examples()[:12], examples()[12:20], paid)


def flat(model: Transformer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_figures_of_a_step_are_those_of_its_samples() -> None:
    run = made()
    run.step(0)  # so that policy and reference differ
    policy = copy.deepcopy(run.policy)
    asked = [run.questions[i] for i in run.curriculum.draw(1, 4)]
    every = samples(run.sampler.collect(asked, 1), CONFIG)
    telling = sorted((s for s in every if s.advantage), key=lambda s: len(s.prompt) + len(s.completion))
    assert 5 < len(telling) <= 16
    batch, second = collate(telling, CPU), collate(telling[5:10], CPU)  # step 1 measures KL on the second of them
    loss, n_tokens = 0.0, sum(len(s.completion) for s in every)
    for s in every:
        alone = collate([s], CPU)
        loss -= s.advantage * completion_logp(policy, alone, 0.8)[0].sum() / n_tokens
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in policy.parameters() if p.numel()]).norm()
    with torch.no_grad():
        entropy, n = completion_logp(policy, batch, 0.8)[1], batch.mask_BN.sum()
        logp, reference = (completion_logp(m, second, 0.8)[0] for m in (policy, run.reference))

    figures, groups = run.step(1)
    assert figures["rl/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert figures["rl/entropy_mean"] == pytest.approx(float((entropy * batch.mask_BN).sum() / n), rel=1e-4)
    assert figures["rl/sampler_logp_difference"] < 1e-4
    for name, estimate in (("mean", kl_k3), ("k1", kl_k1)):
        expected = float((estimate(logp, reference) * second.mask_BN).sum() / second.mask_BN.sum())
        assert figures[f"rl/kl_sequence_{name}"] == pytest.approx(expected, rel=1e-3) and abs(expected) > 1e-4
    assert figures["rl/mean_reward"] == sum(sum(g.rewards) for g in groups) / 16
    assert figures["rl/trained_tokens"] == n_tokens
    assert figures["rl/clip_low_rate"] == figures["rl/clip_high_rate"] == 0.0
    assert not torch.equal(run.policy.head.weight, policy.head.weight)


def test_every_figure_there_should_be() -> None:
    run = made(curriculum={"enabled": True})
    step = TrainingStep(1, 1, run.step(0)[0])
    for callback in run.measurements:
        callback.after_step(step)
    assert set(step.metrics) == FIGURES


def test_dagsters_plots_are_given_every_figure(any_start: None, tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    ctx = StageContext(None, None, {}, tmp_path, tmp_path, send=messages.append)
    run = made(steps=3, eval_every=2, curriculum={"enabled": True})
    run.run(session(run.config, ctx))
    last = messages[-1]
    assert (last["done"], last["total"]) == (3, 3)
    assert list(last["metrics"])[:3] == ["rl/mean_reward", "eval/accuracy", "rl/parse_rate"]
    assert set(last["metrics"]) >= FIGURES, "what step 2 evaluated among them"


def test_a_step_without_differences_leaves_the_policy_alone(any_start: None) -> None:
    run = made(None)
    before = flat(run.policy)
    figures, _ = run.step(0)  # random text: every completion earns nothing
    assert (figures["rl/mean_reward"], figures["rl/solved_none"], figures["rl/grad_norm"]) == (0.0, 1.0, 0.0)
    assert figures["rl/kl_sequence_mean"] == figures["rl/entropy_mean"] == 0.0
    assert torch.equal(before, flat(run.policy))


def test_steps_without_differences_do_not_walk_on_in_the_direction_of_earlier_ones(any_start: None) -> None:
    run = made(optim={"lr_scale": 1.0, "grad_clip": None, "weight_decay": 0.1})
    assert run.step(0)[0]["rl/silent"] == 0.0
    run.sampler.reward = lambda example, completion, ended: Grade(1.0, True, example.reference)
    before, state = flat(run.policy), copy.deepcopy(run.optimizer.sharded.state_dict())
    assert any(float(m["first"].abs().max()) > 0 for name in state["moments"] for m in state["moments"][name].values())
    for step in (1, 2, 3):
        figures, _ = run.step(step)
        assert (figures["rl/grad_norm"], figures["rl/silent"], figures["rl/silent_steps"]) == (0.0, 1.0, step)
    assert torch.equal(before, flat(run.policy))
    after = run.optimizer.sharded.state_dict()
    assert (after["applied"], after["silent"]) == (state["applied"], 3)
    for name, pieces in state["moments"].items():
        for start, tensors in pieces.items():
            for kind, tensor in tensors.items():
                assert torch.equal(tensor, after["moments"][name][start][kind]), name


def test_the_engine_samples_from_the_updated_policy() -> None:
    run = made()
    for step in range(2):
        run.step(step)
        for mine, policy in zip(run.engine.model.parameters(), run.policy.parameters(), strict=True):
            assert torch.equal(mine, policy)


def test_a_second_update_sees_ratios_and_clips_some() -> None:
    run = made(objective={"updates_per_batch": 3, "clip_low": 0.01, "clip_high": 0.01})
    figures, _ = run.step(0)
    assert figures["rl/clip_low_rate"] > 0 and figures["rl/clip_high_rate"] > 0
    assert figures["rl/lr_factor"] < made().step(0)[0]["rl/lr_factor"]  # of update 3 of 12, not of 1 of 4
    assert figures["rl/kl_sequence_mean"] == 0.0  # of the first update


def test_the_first_of_several_updates_is_the_only_one_there_was() -> None:
    constant = {"optim": {"lr_scale": 1.0, "grad_clip": None, "warmdown": 0.0}}
    one, several = made(**constant), made(**constant, objective={"updates_per_batch": 2})
    updates: list[torch.Tensor] = []
    apply = several.optimizer.sharded.step
    several.optimizer.sharded.step = lambda i, *stop: (apply(i, *stop), updates.append(flat(several.policy)))[0]
    one.step(0), several.step(0)
    torch.testing.assert_close(updates[0], flat(one.policy), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(updates[1], updates[0], atol=1e-4)


def test_a_kl_penalty_reaches_groups_that_tell_nothing(any_start: None) -> None:
    run = made(None, objective={"kl": "k3", "kl_weight": 1.0})
    with torch.no_grad():
        for parameter in run.policy.parameters():
            parameter.mul_(1.1)
    run.engine.refresh(run.policy)
    figures, _ = run.step(0)  # nothing is earned, and the policy is pulled back
    assert figures["rl/mean_reward"] == 0.0 and figures["rl/grad_norm"] > 1e-3
    assert figures["rl/kl_sequence_mean"] > 1e-3
