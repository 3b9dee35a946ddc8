"""The lens at the last layer is the model's own answer, and at any layer what the model says without those after it."""

from __future__ import annotations

import math

import pytest
import torch

from aquarat_core.evaluation.interpret import lens as lens_module
from aquarat_core.evaluation.interpret.lens import letter_lens, residual_streams
from aquarat_core.evaluation.letters import logits_after
from aquarat_core.model.transformer import norm
from tests.evaluation.interpret.test_watching import every_option
from tests.factories import random_ids, random_model

IDS = [7, 3, 50, 22]
CONTEXTS = [random_ids(n, seed=n).tolist() for n in (9, 30, 2, 17)]
GOLD = [2, 0, 3, 1]


@every_option
def test_the_last_layer_is_the_model(config: dict) -> None:
    model = random_model(**config)
    *_, last = residual_streams(model, CONTEXTS)
    with torch.no_grad():
        assert torch.equal(model.logits(norm(last)), logits_after(model, CONTEXTS))
    assert not model.blocks[0]._forward_pre_hooks and not any(b._forward_hooks for b in model.blocks)


@every_option
def test_readings_at_the_last_layer_by_hand(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens_module, "ROWS", 3)
    model = random_model(**config)
    found = letter_lens(model, CONTEXTS, GOLD, "ABCD", IDS)
    assert [len(found[x]) for x in ("accuracy", "gold_probability", "entropy", "letter_mass")] == [3] * 4
    logits = logits_after(model, CONTEXTS).double()
    p = torch.softmax(logits[:, IDS], dim=1)
    assert found["gold_probability"][-1] == pytest.approx(float(p[range(4), GOLD].mean()), abs=1e-5)
    assert found["entropy"][-1] == pytest.approx(float(-(p * p.log()).sum(dim=1).mean()), abs=1e-5)
    assert found["letter_mass"][-1] == pytest.approx(float(torch.softmax(logits, 1)[:, IDS].sum(1).mean()), abs=1e-5)
    assert found["accuracy"][-1] == sum(int(row.argmax()) == g for row, g in zip(p, GOLD, strict=True)) / 4


def test_a_layer_says_what_the_model_says_when_the_later_ones_are_silent() -> None:
    model = random_model(depth=3, width_per_layer=16, vocab_size=80)
    found = letter_lens(model, [[i % 80 for i in c] for c in CONTEXTS], GOLD, "ABCD", IDS)
    for layer in (2, 1, 0):
        with torch.no_grad():
            model.blocks[layer].attention.out.weight.zero_()
            model.blocks[layer].mlp.down.weight.zero_()
        silenced = letter_lens(model, [[i % 80 for i in c] for c in CONTEXTS], GOLD, "ABCD", IDS)
        assert silenced["entropy"][-1] == pytest.approx(found["entropy"][layer], abs=1e-5)
        assert silenced["gold_probability"][-1] == pytest.approx(found["gold_probability"][layer], abs=1e-5)
    assert len({round(x, 3) for x in found["entropy"]}) == 4
    assert max(found["entropy"]) <= math.log(4) + 1e-6


def test_backout_is_taken_out_from_the_middle_on() -> None:
    model = random_model(depth=4, width_per_layer=8, backout=True)
    with torch.no_grad():
        model.backout_lambda.fill_(0.3)
        out = residual_streams(model, CONTEXTS)
        model.backout_lambda.zero_()
        raw = residual_streams(model, CONTEXTS)
    torch.testing.assert_close(out[:3], raw[:3])
    torch.testing.assert_close(out[3], 0.7 * raw[3])
    torch.testing.assert_close(out[4], raw[4] - 0.3 * raw[3])


def test_hooks_are_gone_after_a_failed_pass() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="do not fit"):
        residual_streams(model, [[1] * 65])
    assert not model.blocks[0]._forward_pre_hooks and not any(b._forward_hooks for b in model.blocks)
