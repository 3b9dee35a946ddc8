"""The trainer's log-probabilities against the sampler's, token by token."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.rl.scoring import Sample, collate, completion_logp
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from tests.factories import CPU, random_ids, random_model

STOP = 7


def sampled(dtype: torch.dtype, temperature: float, taps: int = 0) -> tuple[torch.nn.Module, list[Sample]]:
    model = random_model(vocab_size=40, seed=5, dtype=dtype, embedding_taps=taps)
    prompts = [random_ids(n, vocab_size=40, seed=n).tolist() for n in (9, 3, 17, 1)]
    keys = [[row_key(p, s) for s in range(5)] for p in range(4)]
    groups = Engine(model, [STOP]).generate(prompts, keys, 30, temperature)
    return model, [
        Sample(p, c.tokens, c.logprobs, float(i)) for p, g in zip(prompts, groups, strict=True) for i, c in enumerate(g)
    ]


def test_collated_completions_know_where_they_were_said() -> None:
    batch = collate([Sample([5, 6, 7], [8, 9], [-1.0, -2.0], 0.5), Sample([1], [2, 3, 4], [-3.0] * 3, -0.5)], CPU)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]]
    assert batch.completion_BN.tolist() == [[8, 9, 0], [2, 3, 4]]
    assert batch.positions_BN.tolist() == [[2, 3, 0], [0, 1, 2]]
    assert batch.mask_BN.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.sampler_logp_BN.tolist() == [[-1, -2, 0], [-3, -3, -3]]
    assert batch.advantages_B.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_float32_both_say_the_same(temperature: float) -> None:
    model, samples = sampled(torch.float32, temperature)
    batch = collate(samples, CPU)
    with torch.no_grad():
        logp, _ = completion_logp(model, batch, temperature)
    assert {len(s.completion) for s in samples} > {30}
    assert float(((logp - batch.sampler_logp_BN).abs() * batch.mask_BN).max()) < 1e-4


@pytest.mark.parametrize("taps", [0, 2])
def test_in_bfloat16_they_differ_by_rounding_alone(taps: int) -> None:
    model, samples = sampled(torch.bfloat16, 1.0, taps)
    batch = collate(samples, CPU)
    with torch.no_grad():
        logp, _ = completion_logp(model, batch, 1.0)
    gap = (logp - batch.sampler_logp_BN).abs() * batch.mask_BN
    assert float(gap.sum() / batch.mask_BN.sum()) < 0.01


def test_against_one_full_forward_pass_for_each() -> None:
    model, samples = sampled(torch.float32, 1.0)
    with torch.no_grad():
        logp, entropy = completion_logp(model, collate(samples, CPU), 0.5)
        for row, s in enumerate(samples[:6]):
            logits = model(torch.tensor([[*s.prompt, *s.completion]]))[0, len(s.prompt) - 1 : -1]
            every = torch.log_softmax(logits / 0.5, dim=1)
            n = len(s.completion)
            torch.testing.assert_close(logp[row, :n], every[range(n), s.completion], atol=1e-4, rtol=0)
            torch.testing.assert_close(entropy[row, :n], -(every.exp() * every).sum(1), atol=1e-4, rtol=0)
