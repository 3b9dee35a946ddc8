"""Scores of heads made by hand: one that looks a fixed way back, and one that really copies."""

from __future__ import annotations

import math

import pytest
import torch

from aquarat_core.evaluation.interpret.induction import induction_scores, plain_tokens, repeated_sequences
from tests.evaluation.interpret.hand_made import copying_model, empty_model, look_back
from tests.factories import random_model, tokenizer

PLAIN = range(1, 20)


def test_sequences_are_different_tokens_said_twice() -> None:
    ids = repeated_sequences(PLAIN, 0, 3, 8, seed=4)
    assert ids.shape == (3, 17) and ids[:, 0].tolist() == [0, 0, 0]
    assert torch.equal(ids[:, 1:9], ids[:, 9:])
    assert all(len(set(row)) == 8 and 0 not in row for row in ids[:, 1:9].tolist())
    assert torch.equal(repeated_sequences(PLAIN, 0, 5, 8, seed=4)[:3], ids)
    assert not torch.equal(repeated_sequences(PLAIN, 0, 3, 8, seed=5), ids)
    assert ids[0, 1:].tolist() != ids[1, 1:].tolist()


def test_plain_tokens_are_text() -> None:
    tok = tokenizer()
    plain = set(plain_tokens(tok))
    assert set(tok.encode("a 7 +")) - set(tok.encode(" ")) <= plain
    assert plain.isdisjoint(tok.special_ids.values())
    assert plain.isdisjoint([tok.token_id(b) for b in (b"\n", b" ", b"\xe2", b"\x00")])
    assert len(plain) >= 94  # what ASCII shows


@pytest.mark.parametrize(("offset", "name"), [(1, "previous"), (8, "matching"), (7, "induction")])
def test_a_head_that_looks_a_fixed_way_back(offset: int, name: str) -> None:
    model = empty_model()
    look_back(model, 0, 1, offset)
    found = induction_scores(model, repeated_sequences(PLAIN, 0, 4, 8, seed=1))
    for score in ("previous", "matching", "induction"):
        even, sharp = found[score][0]
        assert even == pytest.approx(found["uniform"][0], abs=1e-5)
        assert sharp == pytest.approx(float(score == name), abs=1e-2)
    assert found["uniform"] == [pytest.approx(sum(1 / t for t in range(10, 18)) / 8, abs=1e-6)]


def test_a_model_that_copies() -> None:
    found = induction_scores(copying_model(), repeated_sequences(PLAIN, 0, 6, 10, seed=2))
    assert found["previous"][0][0] == pytest.approx(1.0, abs=1e-2)
    assert found["induction"][1][0] == pytest.approx(1.0, abs=1e-2)
    assert found["matching"][1][0] == pytest.approx(0.0, abs=1e-2)
    assert found["loss_second"] < 0.01
    assert found["loss_first"] > math.log(20)  # it says what came first, and is wrong


def test_losses_are_those_of_the_model() -> None:
    model, ids = random_model(), repeated_sequences(range(1, 100), 0, 3, 12, seed=3)
    found = induction_scores(model, ids)
    with torch.no_grad():
        logp = torch.log_softmax(model(ids[:, :-1]).double(), dim=2)
    losses = -logp.gather(2, ids[:, 1:, None]).squeeze(2)
    assert found["loss_first"] == pytest.approx(float(losses[:, 1:12].mean()), rel=1e-4)
    assert found["loss_second"] == pytest.approx(float(losses[:, 13:].mean()), rel=1e-4)


def test_what_lies_beyond_a_window_gets_nothing() -> None:
    model = random_model(window_pattern="SL", sequence_len=512, vocab_size=300)
    found = induction_scores(model, repeated_sequences(range(1, 300), 0, 2, 140, seed=3))
    assert model.config.windows == (128, 512)
    assert found["matching"][0] == [0.0] * 4 == found["induction"][0]
    assert min(found["matching"][1]) > 0
    assert found["uniform"][0] == pytest.approx(1 / 128, abs=1e-6)
