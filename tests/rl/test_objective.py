"""Advantages, losses and estimates, by hand, against their definitions, and their gradients by finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from aquarat_core.config import ObjectiveConfig
from aquarat_core.rl.advantage import group_std, mean_baseline
from aquarat_core.rl.objective import LossInputs, LossOutputs, kl_k1, kl_k3, objective, policy_loss
from aquarat_core.rl.objective.cispo import cispo
from aquarat_core.rl.objective.clipping import ppo_clip
from aquarat_core.rl.objective.importance import truncated_weights
from aquarat_core.rl.objective.ratios import sequence_ratios, token_ratios
from aquarat_core.rl.scoring import Sample, collate, completion_logp
from tests.factories import CPU, random_model

LN2 = math.log(2)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_advantages_are_rewards_less_the_groups_mean() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    expected = [[0.5, -0.5, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [-0.25, 0.75, -0.25, -0.25]]
    assert mean_baseline(rewards).tolist() == expected


def test_equal_rewards_have_no_advantage_whatever_their_mean_rounds_to() -> None:
    assert mean_baseline(torch.full((1, 7), 0.1)).tolist() == [[0.0] * 7]
    assert group_std(torch.full((1, 7), 0.1)).tolist() == [[0.0] * 7]


def test_advantages_over_the_groups_deviation() -> None:
    # Mean 1/2; squares of the differences sum to 1, over 3: deviation 0.57735.
    found = group_std(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))[0].tolist()
    assert found == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-5)


def test_policy_loss_by_hand() -> None:
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]])
    advantages, mask = torch.tensor([[0.75], [-0.25]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # -(0.75 x -3 + -0.25 x -0.5) / 10
    assert float(policy_loss(logp, advantages, mask, 10)) == pytest.approx(0.2125)


def test_losses_add_up_over_micro_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logp, mask = -torch.rand(6, 5, generator=generator), (torch.rand(6, 5, generator=generator) < 0.7).float()
    advantages = torch.randn(6, 1, generator=generator)
    parts = sum(policy_loss(logp[i : i + 2], advantages[i : i + 2], mask[i : i + 2], 17) for i in (0, 2, 4))
    assert float(parts) == pytest.approx(float(policy_loss(logp, advantages, mask, 17)), rel=1e-6)


def test_ratios_by_hand() -> None:
    logp, old = row(-1.0, -1.0, -3.0), row(-1.0 - LN2, -1.0 + LN2, -1.0)
    assert token_ratios(logp, old)[0].tolist() == pytest.approx([2.0, 0.5, math.exp(-2)])
    # Over the first two tokens the logs are ln 2 and -ln 2; over all three their mean is -2/3.
    assert sequence_ratios(logp, old, row(1, 1, 0))[0].tolist() == pytest.approx([1.0] * 3)
    assert sequence_ratios(logp, old, row(1, 1, 1))[0].tolist() == pytest.approx([math.exp(-2 / 3)] * 3)


def test_the_clip_by_hand() -> None:
    ratios, up, down = row(0.5, 1.0, 1.25, 1.5, 5.0), row(2, 2, 2, 2, 2), row(-2, -2, -2, -2, -2)
    found = ppo_clip(ratios, up, 0.2, 0.28)
    assert found.surrogate_BN[0].tolist() == pytest.approx([1.0, 2.0, 2.5, 2.56, 2.56])
    assert found.high_BN[0].tolist() == [False, False, False, True, True] and not found.low_BN.any()
    found = ppo_clip(ratios, down, 0.2, 0.28)
    assert found.surrogate_BN[0].tolist() == pytest.approx([-1.6, -2.0, -2.5, -3.0, -10.0])
    assert found.low_BN[0].tolist() == [True, False, False, False, False] and not found.high_BN.any()
    dual = ppo_clip(ratios, down, 0.2, 0.28, dual=3.0)
    assert dual.surrogate_BN[0].tolist() == pytest.approx([-1.6, -2.0, -2.5, -3.0, -6.0])
    assert dual.high_BN[0].tolist() == [False] * 4 + [True]
    assert torch.equal(
        ppo_clip(ratios, up, 0.2, 0.28, dual=3.0).surrogate_BN, ppo_clip(ratios, up, 0.2, 0.28).surrogate_BN
    )


def test_cispo_by_hand() -> None:
    logp = row(-1.0, -2.0, -3.0).requires_grad_()
    found = cispo(logp, row(0.5, 1.0, 9.0), row(2, 2, -2), 0.2, 5.0)
    assert found.surrogate_BN[0].tolist() == pytest.approx([0.8 * 2 * -1, 2 * -2, 6 * -2 * -3])
    assert (found.low_BN[0].tolist(), found.high_BN[0].tolist()) == ([True, False, False], [False, False, True])
    found.surrogate_BN.sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([1.6, 2.0, -12.0])  # clipped tokens keep a gradient


def test_truncated_weights_by_hand() -> None:
    weights = truncated_weights(row(-1.0, -1.0, -1.0), row(-1.0, -1.0 - LN2, -3.0), 2.5)
    assert weights[0].tolist() == pytest.approx([1.0, 2.0, 2.5])


def test_kl_estimates_by_hand() -> None:
    policy, reference = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -2.0, -1.0])
    # d = 0, -1, 1: e^d - 1 - d
    assert kl_k3(policy, reference).tolist() == pytest.approx([0.0, 0.36787944, 0.71828183], abs=1e-6)
    assert kl_k1(policy, reference).tolist() == [0.0, 1.0, -1.0]


def test_kl_estimates_are_right_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    p, q = (torch.log_softmax(torch.randn(50, generator=generator, dtype=torch.float64), dim=0) for _ in range(2))
    assert (kl_k3(p, q) >= 0).all() and (kl_k3(p, p) == 0).all()
    # Under its own samples the policy's expectation of an estimate is the divergence itself.
    divergence = float((p.exp() * (p - q)).sum())
    for estimate in (kl_k1, kl_k3):
        assert float((p.exp() * estimate(p, q)).sum()) == pytest.approx(divergence, rel=1e-9)


# --- put together ---------------------------------------------------------------------------------------------------

VARIANTS = {
    "on-policy": {},
    "weights": {"truncate_importance": 1.2},
    "k1": {"kl": "k1", "kl_weight": 0.3},
    "k3": {"kl": "k3", "kl_weight": 0.3},
    "ppo": {"updates_per_batch": 2},
    "clip-higher": {"updates_per_batch": 2, "clip_high": 0.6},
    "dual": {"updates_per_batch": 2, "dual_clip": 1.5},
    "gspo": {"updates_per_batch": 2, "ratio": "sequence", "clip_low": 0.05, "clip_high": 0.05},
    "cispo": {"updates_per_batch": 2, "clip": "cispo"},
    "everything": {
        "updates_per_batch": 2, "dual_clip": 3.0, "clip_high": 0.28, "truncate_importance": 1.2, "kl": "k3",
        "kl_weight": 0.1,
    },
}  # fmt: skip


class Toy:
    """Logits of three completions of four tokens over six ids, and what an objective needs beside them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.logits, old, reference, sampler = (
            torch.randn(3, 4, 6, dtype=torch.float64, generator=generator) for _ in range(4)
        )
        self.logits.requires_grad_()
        self.tokens, self.mask = torch.arange(12).view(3, 4) % 6, (torch.arange(12).view(3, 4) % 5 != 0).double()
        self.advantages = torch.tensor([0.75, -0.25, -0.5], dtype=torch.float64)
        near = self.logits.detach()  # ratios on both sides of the clip, none of them far off
        self.old, self.sampler = self.logp(near + 0.3 * old), self.logp(near + 0.3 * sampler)
        self.reference = self.logp(reference)

    def logp(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits, dim=-1).gather(2, self.tokens[..., None]).squeeze(2)

    def loss(self, config: ObjectiveConfig, logp: torch.Tensor) -> LossOutputs:
        old = self.old if config.updates_per_batch > 1 else None
        return objective(LossInputs(logp, self.advantages, self.mask, 9.0, self.sampler, old, self.reference), config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_finite_differences(variant: str) -> None:
    """Differences of the loss in which what counts as a constant is held at its value here."""
    toy, config = Toy(), ObjectiveConfig(**VARIANTS[variant])
    (gradient,) = torch.autograd.grad(toy.loss(config, toy.logp(toy.logits)).loss, toy.logits)
    here, step = toy.logp(toy.logits.detach()), 1e-5

    def held(logp: torch.Tensor) -> float:
        if config.clip == "cispo" and config.updates_per_batch > 1:
            # The weight's ratio is a constant: only log p moves.
            ratios = token_ratios(here, toy.old)
            return float(-(cispo(logp, ratios, toy.advantages[:, None], 0.2, 0.2).surrogate_BN * toy.mask).sum() / 9)
        if config.kl == "k1" or config.truncate_importance is not None:
            x = toy.advantages[:, None].expand_as(logp)
            if config.kl == "k1":
                x = x - config.kl_weight * kl_k1(here, toy.reference)
            if config.truncate_importance is not None:
                trainer = toy.old if config.updates_per_batch > 1 else here
                x = x * truncated_weights(trainer, toy.sampler, config.truncate_importance)
            surrogate = x * logp
            if config.updates_per_batch > 1:
                surrogate = ppo_clip(
                    token_ratios(logp, toy.old), x, 0.2, config.clip_high, config.dual_clip
                ).surrogate_BN
            loss = -(surrogate * toy.mask).sum() / 9
            if config.kl == "k3":
                loss = loss + config.kl_weight * (kl_k3(logp, toy.reference) * toy.mask).sum() / 9
            return float(loss)
        return float(toy.loss(config, logp).loss)

    assert gradient.abs().max() > 1e-3
    for place in itertools.product(range(3), range(4), range(6)):
        moved = toy.logits.detach().clone()
        moved[place] += step
        above = held(toy.logp(moved))
        moved[place] -= 2 * step
        below = held(toy.logp(moved))
        assert float(gradient[place]) == pytest.approx((above - below) / (2 * step), abs=2e-7), place


@pytest.mark.parametrize("variant", ["ppo", "clip-higher", "dual", "gspo", "cispo"])
def test_on_fresh_samples_every_variant_is_the_policy_gradient(variant: str) -> None:
    toy = Toy()
    toy.old = toy.logp(toy.logits.detach())
    plain, ours = (
        torch.autograd.grad(toy.loss(ObjectiveConfig(**VARIANTS[v]), toy.logp(toy.logits)).loss, toy.logits)[0]
        for v in ("on-policy", variant)
    )
    if variant == "gspo":  # within a completion the gradient is shared out, and its sum over tokens is the same
        n = toy.mask.sum(dim=1)
        direct = torch.autograd.grad(
            -(toy.advantages * (toy.logp(toy.logits) * toy.mask).sum(dim=1) / n * n).sum() / 9, toy.logits
        )[0]
        torch.testing.assert_close(ours, direct)
    torch.testing.assert_close(ours, plain)


def test_what_is_clipped_is_counted() -> None:
    toy = Toy()
    ratios, mask = token_ratios(toy.logp(toy.logits.detach()), toy.old), toy.mask.bool()
    negative = (toy.advantages < 0)[:, None]
    out = toy.loss(ObjectiveConfig(**VARIANTS["ppo"]), toy.logp(toy.logits))
    assert int(out.clipped_low) == int(((ratios < 0.8) & negative & mask).sum()) > 0
    assert int(out.clipped_high) == int(((ratios > 1.2) & ~negative & mask).sum())
    out = toy.loss(ObjectiveConfig(**VARIANTS["weights"]), toy.logp(toy.logits))
    weights = (toy.logp(toy.logits.detach()) - toy.sampler).exp()
    assert int(out.truncated) == int(((weights >= 1.2) & mask).sum()) > 0
    assert int(out.clipped_low) == int(out.clipped_high) == 0


@pytest.mark.parametrize("correct", [0, 3])
def test_the_estimator_is_the_policy_gradient_in_expectation(correct: int) -> None:
    """Every group of two one-letter completions over five letters, each weighed by its probability.

    The group's mean contains the sample itself, so the expectation is (1 - 1/G) of the gradient of E[reward].
    """
    model, prompt, temperature = random_model(vocab_size=5, seed=3), [0, 1, 2], 0.7

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.numel()])

    p = torch.softmax(model(torch.tensor([prompt]))[0, -1] / temperature, dim=0)
    exact = gradient(p[correct])
    p = p.detach()

    estimate = torch.zeros_like(exact)
    for pair in itertools.product(range(5), repeat=2):
        rewards = torch.tensor([[float(a == correct) for a in pair]])
        advantages = mean_baseline(rewards)[0].tolist()
        batch = collate([Sample(prompt, [a], [0.0], x) for a, x in zip(pair, advantages, strict=True)], CPU)
        logp, _ = completion_logp(model, batch, temperature)
        inputs = LossInputs(logp, batch.advantages_B, batch.mask_BN, 2.0, batch.sampler_logp_BN)
        estimate -= gradient(objective(inputs, ObjectiveConfig()).loss) * p[pair[0]] * p[pair[1]]
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(estimate, exact / 2, atol=1e-6, rtol=1e-4)
