"""One step's figures, recomputed from its samples, and a step in which there is nothing to learn."""

from __future__ import annotations

import copy

import pytest
import torch

from aquarat_core.config import RLConfig
from aquarat_core.rl import rollouts
from aquarat_core.rl.objective import kl_k3
from aquarat_core.rl.reward import Verdict
from aquarat_core.rl.rollouts import sample_groups
from aquarat_core.rl.scoring import collate, completion_logp
from aquarat_core.rl.trainer import Trainer
from tests.toys import CPU, ONE, questions, random_model, tokenizer

CONFIG = RLConfig(
    steps=4, prompts_per_step=4, group_size=4, max_new_tokens=8, micro_batch_rows=5, temperature=0.8,
    optim={"lr_scale": 1.0, "grad_clip": None},
)  # fmt: skip


def trainer() -> Trainer:
    return Trainer(random_model(tokenizer().vocab_size, sequence_len=256), tokenizer(), CONFIG, ONE)


def test_the_figures_of_a_step_are_those_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "judge", lambda text, ended, correct: Verdict(correct, float(len(text) % 2)))
    made = trainer()
    made.step(0, questions()[:4])  # so that policy and reference differ
    policy = copy.deepcopy(made.policy)
    samples, tally = sample_groups(made.engine, tokenizer(), questions()[4:8], CONFIG, 1)
    telling = sorted((s for s in samples if s.advantage), key=lambda s: len(s.prompt) + len(s.completion))
    assert 5 < len(telling) <= 16
    batch, second = collate(telling, CPU), collate(telling[5:10], CPU)  # step 1 measures KL on the second of them
    loss = 0.0
    for s in samples:
        alone = collate([s], CPU)
        loss -= s.advantage * completion_logp(policy, alone, 0.8)[0].sum() / tally.tokens
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in policy.parameters() if p.numel()]).norm()
    with torch.no_grad():
        entropy, n = completion_logp(policy, batch, 0.8)[1], batch.mask_BN.sum()
        kl = kl_k3(completion_logp(policy, second, 0.8)[0], completion_logp(made.reference, second, 0.8)[0])

    figures = made.step(1, questions()[4:8])
    assert figures["rl/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert figures["rl/entropy_mean"] == pytest.approx(float((entropy * batch.mask_BN).sum() / n), rel=1e-4)
    assert figures["rl/sampler_logp_difference"] < 1e-4
    expected = float((kl * second.mask_BN).sum() / second.mask_BN.sum())
    assert figures["rl/kl_sequence_mean"] == pytest.approx(expected, rel=1e-3) and expected > 1e-4
    assert figures["rl/reward_mean"] == tally.reward / 16
    assert not torch.equal(made.policy.head.weight, policy.head.weight)


def test_a_step_without_differences_leaves_the_policy_alone() -> None:
    made = trainer()
    before = copy.deepcopy(made.policy)
    figures = made.step(0, questions()[:4])  # random text: every completion earns nothing
    assert (figures["rl/reward_mean"], figures["rl/solved_none"], figures["rl/grad_norm"]) == (0.0, 1.0, 0.0)
    assert figures["rl/kl_sequence_mean"] == figures["rl/entropy_mean"] == 0.0
    for old, new in zip(before.parameters(), made.policy.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_engine_samples_from_the_updated_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "judge", lambda text, ended, correct: Verdict(correct, float(len(text) % 2)))
    made = trainer()
    for step in range(2):
        made.step(step, questions()[:4])
        for mine, policy in zip(made.engine.model.parameters(), made.policy.parameters(), strict=True):
            assert torch.equal(mine, policy)
