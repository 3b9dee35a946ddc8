"""Letters and attention at the place of the answer, against full forward passes over token ids."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from aquarat_core.evaluation.letters import letter_ids
from aquarat_core.model.transformer import Transformer, norm, rotate
from aquarat_core.rl.probes import Probes, attention_entropies, letter_kl, letter_margin
from aquarat_core.tasks.aqua.question import conversation
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.text.chat import render
from tests.factories import AQUA, ONE, examples, questions, random_ids, random_model, tokenizer

SIZE = {"vocab_size": tokenizer().vocab_size, "sequence_len": 256}


def test_letter_kl_and_margin_by_hand() -> None:
    ln = math.log
    p, q = torch.tensor([[ln(0.5), ln(0.125), ln(0.125), ln(0.125), ln(0.125)]]), torch.zeros(1, 5)
    # 0.5 ln(0.5 / 0.2) + 4 x 0.125 ln(0.125 / 0.2)
    assert float(letter_kl(p, q)) == pytest.approx(0.5 * ln(2.5) + 0.5 * ln(0.625), abs=1e-6)
    assert float(letter_kl(p + 3, p)) == pytest.approx(0.0, abs=1e-6)  # logits count up to a constant
    assert float(letter_margin(torch.tensor([[1.0, 4.0, -2.0, 3.5, 0.0]]))) == 0.5


def test_figures_are_those_at_the_token_before_the_letter() -> None:
    policy, reference, asked = random_model(**SIZE), random_model(**SIZE, seed=1), examples()[:7]
    figures = Probes(AQUA, asked, tokenizer(), reference, ONE).metrics(policy)
    ids = letter_ids(tokenizer(), AQUA)
    kl, margin, entropy, right = [], [], [], []
    for q in (e.answer for e in asked):
        whole, _ = render(tokenizer(), conversation(q))
        assert whole[-2] == ids[q.gold]
        with torch.no_grad():
            p, r = (torch.softmax(m(torch.tensor([whole[:-2]]))[0, -1, ids].double(), 0) for m in (policy, reference))
            logits = policy(torch.tensor([whole[:-2]]))[0, -1, ids]
        kl.append(float((p * (p / r).log()).sum()))
        entropy.append(float(-(p * p.log()).sum()))
        top = sorted(logits.tolist())
        margin.append(top[-1] - top[-2])
        right.append(int(logits.argmax()) == q.gold)
    assert figures["rl/kl_letter_mean"] == pytest.approx(sum(kl) / 7, rel=1e-4) and sum(kl) > 0.1
    assert figures["rl/letter_margin_mean"] == pytest.approx(sum(margin) / 7, rel=1e-4)
    assert figures["rl/letter_entropy_mean"] == pytest.approx(sum(entropy) / 7, rel=1e-4)
    assert figures["rl/letter_acc"] == pytest.approx(sum(right) / 7)
    layers = [figures[f"attn/entropy_layer_{i}"] for i in range(2)]
    assert figures["attn/entropy_mean"] == pytest.approx(sum(layers) / 2) and all(0 < x < 1 for x in layers)


def test_nothing_has_moved_at_the_start() -> None:
    model = random_model(**SIZE)
    assert Probes(AQUA, examples()[:4], tokenizer(), model, ONE).metrics(model)["rl/kl_letter_mean"] == 0.0


def test_questions_whose_rationale_names_letters_are_left_out() -> None:
    named = to_example(replace(questions()[0], rationale="Option B is right."))
    probes = Probes(AQUA, [named, examples()[1]], tokenizer(), random_model(**SIZE), ONE)
    assert len(probes.contexts) == len(probes.gold) == 1
    nothing = Probes(AQUA, [named], tokenizer(), random_model(**SIZE), ONE)
    assert nothing.metrics(random_model(**SIZE)) == {}


@pytest.mark.parametrize("config", [{}, {"n_kv_head": 2}, {"embedding_taps": 2}], ids=["full", "shared", "taps"])
def test_attention_entropies_by_the_definition(config: dict[str, int]) -> None:
    model = random_model(**config)
    contexts = [random_ids(n, seed=n).tolist() for n in (5, 17, 2)]
    found = attention_entropies(model, contexts)
    assert found.shape == (2, 3)
    for column, context in enumerate(contexts):
        expected = _entropies(model, context)
        torch.testing.assert_close(found[:, column], torch.tensor(expected), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def _entropies(model: Transformer, context: list[int]) -> list[float]:
    """Layer by layer from the model's own matrices."""
    ids, t = torch.tensor([context]), len(context)
    x, found = norm(model._embed(ids, None)), []
    rotary = (model.cos[None, :t, None], model.sin[None, :t, None])
    for block in model.blocks:
        a, h = block.attention, norm(x)
        q, k = a.q(h).view(1, t, a.n_head, -1), a.k(h).view(1, t, a.n_kv_head, -1)
        q, k = (a.qk_scale * norm(rotate(y, *rotary)) for y in (q, k))
        entropies = []
        for head in range(a.n_head):
            keys = k[0, :, head * a.n_kv_head // a.n_head]
            p = F.softmax(keys @ q[0, -1, head] / math.sqrt(q.size(-1)), dim=0)
            entropies.append(float(-(p * p.log()).sum()) / math.log(t))
        found.append(sum(entropies) / a.n_head)
        x = block(x, rotary, None, None)
    return found
