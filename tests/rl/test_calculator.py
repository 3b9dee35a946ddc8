"""RL with the calculator: what it says is read, and nothing is learned or counted from it."""

from __future__ import annotations

import copy

import pytest
import torch

from aquarat_core.config import ObjectiveConfig, RLConfig
from aquarat_core.evaluation.protocols import answer
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.objective import LossInputs, objective
from aquarat_core.rl.reward import overlong_penalty
from aquarat_core.rl.rollouts import Group, samples
from aquarat_core.rl.scoring import Sample, collate, completion_logp
from aquarat_core.rl.tally import count
from aquarat_core.rl.trainer import Trainer
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.tools import calculator
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.task import Grade
from aquarat_core.text.chat import render_prompt
from tests.factories import AQUA, CPU, ONE, calling_model, examples, odd_lengths, random_model, tokenizer
from tests.rollout.test_tools import DONE, END, OUT, START, says

CONFIG = RLConfig(
    steps=4, prompts_per_step=4, group_size=4, max_new_tokens=16, micro_batch_rows=5, calculator=True,
    optim={"lr_scale": 1.0, "grad_clip": None},
)  # fmt: skip
BY_HAND = [
    Sample([3, 4], [10, 11, 12, 13, 14], [-1.0, -2.0, 0.0, 0.0, -1.5], 0.75, (2, 3)),
    Sample([5], [20, 21, 22], [-1.0, -1.0, -1.0], -0.25),
]
CHOSEN = [(0, 0), (0, 1), (0, 4), (1, 0), (1, 1), (1, 2)]
"""Sample and place of each token that the policy chose."""


def made(config: RLConfig = CONFIG) -> Trainer[Question]:
    train, held_out = examples()[:12], examples()[12:20]
    return Trainer(calling_model(), tokenizer(), config, ONE, AQUA, train, held_out, odd_lengths)


def logp_by_hand(model: Transformer, row: int, place: int) -> torch.Tensor:
    """Of one token, from a forward pass of its own over all that stands before it, the tool's words among it."""
    s = BY_HAND[row]
    logits = model(torch.tensor([[*s.prompt, *s.completion[:place]]]))[0, -1]
    return torch.log_softmax(logits, dim=0)[s.completion[place]]


def gradient(model: Transformer, loss: torch.Tensor) -> torch.Tensor:
    parameters = [p for p in model.parameters() if p.numel()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])


@pytest.mark.parametrize("kl", ["none", "k3"])
def test_the_gradient_is_that_of_the_chosen_tokens_alone(kl: str) -> None:
    model, reference, batch = random_model(seed=1), random_model(seed=2), collate(BY_HAND, CPU)
    with torch.no_grad():
        reference_logp = completion_logp(reference, batch, 1.0)[0]
    logp = completion_logp(model, batch, 1.0)[0]
    inputs = LossInputs(logp, batch.advantages_B, batch.mask_BN, 6, batch.sampler_logp_BN, None, reference_logp)
    config = ObjectiveConfig(kl=kl, kl_weight=0.5) if kl != "none" else ObjectiveConfig()
    found = gradient(model, objective(inputs, config).loss)

    loss = torch.zeros(())
    for row, place in CHOSEN:
        mine = logp_by_hand(model, row, place)
        loss = loss - BY_HAND[row].advantage * mine / 6
        if kl == "k3":
            d = logp_by_hand(reference, row, place).detach() - mine
            loss = loss + 0.5 * (d.exp() - 1 - d) / 6
    torch.testing.assert_close(found, gradient(model, loss), atol=1e-5, rtol=1e-4)
    with_all = LossInputs(logp, batch.advantages_B, (batch.completion_BN > 0).float(), 6, batch.sampler_logp_BN,
                          None, reference_logp)  # fmt: skip
    assert float((gradient(model, objective(with_all, config).loss) - found).abs().max()) > 1e-2


@pytest.mark.parametrize("clip", [{"clip": "ppo"}, {"clip": "cispo"}, {"ratio": "sequence"}])
def test_ratios_and_importance_weights_ask_nothing_of_given_tokens(clip: dict) -> None:
    """Whatever log-probabilities stand at the tool's words, loss, gradient and clip shares are the same."""
    config = ObjectiveConfig(updates_per_batch=2, truncate_importance=1.1, kl="k1", kl_weight=0.3, **clip)
    batch = collate(BY_HAND, CPU)
    generator = torch.Generator().manual_seed(0)
    logp, old, reference = (torch.rand(batch.mask_BN.shape, generator=generator) - 2 for _ in range(3))

    def outcome(at_given: float) -> tuple[torch.Tensor, ...]:
        given = (batch.mask_BN == 0) & (batch.completion_BN > 0)
        mine = logp.masked_fill(given, at_given).requires_grad_()
        out = objective(
            LossInputs(mine, batch.advantages_B, batch.mask_BN, 6, batch.sampler_logp_BN.masked_fill(given, -at_given),
                       old.masked_fill(given, 2 * at_given), reference.masked_fill(given, 3 * at_given)),
            config,
        )  # fmt: skip
        (slope,) = torch.autograd.grad(out.loss, mine)
        assert (slope[given] == 0).all() and (slope[batch.mask_BN > 0] != 0).any()
        return out.loss.detach(), slope, out.clipped_low, out.clipped_high, out.truncated

    for a, b in zip(outcome(-0.5), outcome(-4.0), strict=True):
        assert torch.equal(a, b)


def test_a_step_with_calls_counts_and_compares_what_the_policy_said() -> None:
    run = made()
    policy = copy.deepcopy(run.policy)
    figures, groups = run.step(0)
    every = [c for group in groups for c in group.completions]
    chosen = sum(len(c.tokens) - len(c.forced) for c in every)
    given = sum(len(c.forced) for c in every)
    assert given > 20 and any(len(c.forced) > 2 for c in every), "calls were answered, some with a number"
    assert figures["rl/trained_tokens"] == chosen == 16 * figures["rl/completion_length_mean"]
    assert figures["rl/given_tokens_mean"] == given / 16
    assert figures["rl/sampler_logp_difference"] < 1e-4

    telling = [s for s in samples(groups, CONFIG) if s.advantage]
    batch = collate(telling, CPU)
    with torch.no_grad():
        logp, entropy = completion_logp(policy, batch, 1.0)
    n = sum(len(s.completion) - len(s.forced) for s in telling)
    assert batch.mask_BN.sum() == n
    assert figures["rl/entropy_mean"] == pytest.approx(float((entropy * batch.mask_BN).sum() / n), rel=1e-4)
    told = [(i, place) for i, s in enumerate(telling) for place in s.forced]
    assert all(batch.sampler_logp_BN[at] == 0 for at in told)
    assert min(abs(float(logp[at])) for at in told) > 1e-3, "the trainer would have another opinion of them"


def test_lengths_are_what_the_policy_chose() -> None:
    said = Completion([1, 2, 3, 4, 5, 6], [0.0] * 6, True, forced=(2, 3))
    example = examples()[0]
    grades = [Grade(1.0, True, example.reference), Grade(0.0, False, None)]
    group = Group(example, [1], [said] * 2, ["", "x"], grades, [1.0, 0.0])
    sums = count([group])
    assert (said.n_sampled, sums["tokens"], sums["tokens_right"], sums["given"]) == (4, 8, 4, 4)
    assert overlong_penalty(said.n_sampled, 6, 2) == 0.0 > overlong_penalty(len(said.tokens), 6, 2)


def test_without_the_field_nobody_answers() -> None:
    run = made(CONFIG.model_copy(update={"calculator": False}))
    figures, groups = run.step(0)
    assert figures["rl/given_tokens_mean"] == 0 and run.sampler.tool is None
    assert any(START in c.tokens for group in groups for c in group.completions)


def test_held_out_questions_are_answered_with_the_calculator_too() -> None:
    example, tok = examples()[0], tokenizer()
    call, output = [START, *tok.encode("2+3"), END], [OUT, *tok.encode("5"), DONE]
    n = len(render_prompt(tok, example.messages))
    engine = says([*[0] * n, *call, *[1] * len(output), *tok.encode(f"\nAnswer: {example.reference}")])
    with_tool, without = (answer(engine, tok, AQUA, [example], 40, tool=tool)[0] for tool in (calculator(tok), None))
    assert with_tool.correct and tok.decode(output) in with_tool.completion
    assert tok.decode(output) not in without.completion
    run = made()
    asked = []
    generate = run.engine.generate
    run.engine.generate = lambda *args, tool=None, **more: (asked.append(tool), generate(*args, tool=tool, **more))[1]
    run._accuracies()
    assert asked == [run.sampler.tool] and asked[0] is not None
