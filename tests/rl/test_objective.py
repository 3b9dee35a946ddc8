"""Advantages, policy loss and KL estimate, by hand and against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from aquarat_core.rl.advantage import centred
from aquarat_core.rl.objective import kl_k3, policy_loss
from aquarat_core.rl.scoring import Sample, collate, completion_logp
from tests.toys import CPU, random_model


def test_advantages_are_rewards_less_the_groups_mean() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    expected = [[0.5, -0.5, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [-0.25, 0.75, -0.25, -0.25]]
    assert centred(rewards).tolist() == expected


def test_policy_loss_by_hand() -> None:
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]])
    advantages, mask = torch.tensor([0.75, -0.25]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # -(0.75 x -3 + -0.25 x -0.5) / 10
    assert float(policy_loss(logp, advantages, mask, 10)) == pytest.approx(0.2125)


def test_policy_loss_adds_up_over_micro_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logp, mask = -torch.rand(6, 5, generator=generator), (torch.rand(6, 5, generator=generator) < 0.7).float()
    advantages = torch.randn(6, generator=generator)
    parts = sum(policy_loss(logp[i : i + 2], advantages[i : i + 2], mask[i : i + 2], 17) for i in (0, 2, 4))
    assert float(parts) == pytest.approx(float(policy_loss(logp, advantages, mask, 17)), rel=1e-6)


def test_policy_loss_gradient_is_the_finite_difference() -> None:
    logits = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    tokens, mask = torch.arange(12).view(3, 4) % 6, (torch.arange(12).view(3, 4) % 5 != 0).double()
    advantages = torch.tensor([0.75, -0.25, -0.5], dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        logp = torch.log_softmax(x, dim=-1).gather(2, tokens[..., None]).squeeze(2)
        return policy_loss(logp, advantages, mask, 9)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_kl_estimate_by_hand() -> None:
    policy, reference = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -2.0, -1.0])
    # d = 0, -1, 1: e^d - 1 - d
    expected = [0.0, 0.36787944, 0.71828183]
    assert kl_k3(policy, reference).tolist() == pytest.approx(expected, abs=1e-6)


def test_kl_estimate_is_never_negative_and_right_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    p, q = (torch.log_softmax(torch.randn(50, generator=generator, dtype=torch.float64), dim=0) for _ in range(2))
    assert (kl_k3(p, q) >= 0).all() and (kl_k3(p, p) == 0).all()
    # Under its own samples the policy's expectation of the estimate is the divergence itself.
    assert float((p.exp() * kl_k3(p, q)).sum()) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-9)


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
        advantages = centred(rewards)[0].tolist()
        batch = collate([Sample(prompt, [a], [0.0], x) for a, x in zip(pair, advantages, strict=True)], CPU)
        logp, _ = completion_logp(model, batch, temperature)
        loss = policy_loss(logp, batch.advantages_B, batch.mask_BN, n_tokens=2)
        estimate -= gradient(loss) * p[pair[0]] * p[pair[1]]
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(estimate, exact / 2, atol=1e-6, rtol=1e-4)
