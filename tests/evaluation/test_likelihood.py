"""Batched likelihoods are those of one plain forward pass for each sequence."""

from __future__ import annotations

import math
import random

import pytest
import torch

from aquarat_core.evaluation import likelihood
from aquarat_core.evaluation.likelihood import Choices, Likelihood, Scorer
from aquarat_core.model.transformer import Transformer
from tests.evaluation.one_at_a_time import with_longer_context
from tests.factories import random_ids, random_model

V, S = 100, 64
OPTIONS = {
    "full": {},
    "2 shared": {"n_kv_head": 2},
    "1 shared": {"n_kv_head": 1},
    "2 taps": {"embedding_taps": 2},
    "5 taps": {"embedding_taps": 5, "n_kv_head": 2},
    "modern": {
        "width_per_layer": 24, "head_size": 12, "value_embeddings": True, "residual_lambdas": True, "smear": True,
        "backout": True, "n_kv_head": 2,
    },
}  # fmt: skip


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return random_model(**request.param)


def ids(n: int, seed: int) -> list[int]:
    return random_ids(n, seed=seed).tolist()


def requests(n: int, longest: int = 40, seed: int = 3) -> list[Choices]:
    """Contexts and continuations of all sizes: one, several, some of one token, some equal."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        texts = [ids(rng.randint(1, 9), seed=1000 * i + j) for j in range(rng.choice((1, 2, 4, 5)))]
        if i % 5 == 4:
            texts = [ids(1, seed=j) for j in range(4)]
        made.append(Choices(ids(rng.randint(1, longest), seed=i), [*texts, texts[0]] if i % 3 == 0 else texts))
    return made


@torch.no_grad()
def alone(model: Transformer, context: list[int], continuation: list[int]) -> Likelihood:
    """By one pass over the context and the continuation, through all of the head."""
    logits = model(torch.tensor([[*context, *continuation]]))[0, len(context) - 1 : -1].double()
    logp = torch.log_softmax(logits, dim=-1)[torch.arange(len(continuation)), continuation]
    greedy = logits.argmax(dim=-1).tolist() == list(continuation)
    leads = [
        float(row[id] - torch.cat([row[:id], row[id + 1 :]]).max())
        for row, id in zip(logits, continuation, strict=True)
    ]
    return Likelihood(float(logp.sum()), len(continuation), greedy, min(leads))


def check(found: list[list[Likelihood]], asked: list[Choices], model: Transformer, atol: float = 2e-4) -> None:
    assert [len(x) for x in found] == [len(r.continuations) for r in asked]
    for request, likelihoods in zip(asked, found, strict=True):
        for continuation, got in zip(request.continuations, likelihoods, strict=True):
            expected = alone(model, list(request.context), list(continuation))
            assert got.logprob == pytest.approx(expected.logprob, abs=atol)
            assert (got.n_tokens, got.is_greedy) == (expected.n_tokens, expected.is_greedy)
            assert got.mean == got.logprob / len(continuation)
            assert got.margin == pytest.approx(expected.margin, abs=atol) and (got.margin > 0) == got.is_greedy


@pytest.mark.parametrize("tokens_per_pass", [1, 100, 8192])
def test_as_one_sequence_at_a_time(model: Transformer, tokens_per_pass: int) -> None:
    asked, told = requests(30), []
    scorer = Scorer(model, tokens_per_pass=tokens_per_pass)
    check(scorer.score(asked, told.append), asked, model)
    assert told == sorted(told) and told[-1] == 30
    assert (scorer.extended, scorer.cropped, scorer.unscorable) == (0, 0, 0)


@pytest.mark.parametrize("window", [1, 2, 4, 9])
@pytest.mark.parametrize("options", [{}, {"embedding_taps": 2, "n_kv_head": 2}])
def test_layers_with_a_window_see_no_further(window: int, options: dict) -> None:
    model, asked = random_model(**options), requests(30)
    model.blocks[0].attention.window = window
    check(Scorer(model).score(asked), asked, model)


def test_a_request_whose_attention_would_not_fit_is_read_row_by_row(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "MAX_ATTENTION_VALUES", 4_000)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 3 * V)
    asked = requests(30)
    check(Scorer(model).score(asked), asked, model)


def test_greedy_continuations_are_known_as_such() -> None:
    model, context = random_model(), ids(7, seed=5)
    text = list(context)
    with torch.no_grad():
        for _ in range(4):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    best = text[7:]
    others = [[*best[:3], (best[3] + 1) % V], [(best[0] + 1) % V, *best[1:]], best[:2]]
    one, *several = Scorer(model).score([Choices(context, [best]), Choices(context, [best, *others])])
    assert one[0].is_greedy
    assert [x.is_greedy for x in several[0]] == [True, False, False, True]


def test_equal_continuations_are_equal_to_the_last_bit() -> None:
    same = ids(5, seed=2)
    asked = [Choices(ids(11, seed=i), [same, ids(5, seed=3), same, ids(3, seed=4), same]) for i in range(9)]
    for found in Scorer(random_model()).score(asked):
        assert found[0] == found[2] == found[4] != found[1]


def test_in_bfloat16_about_the_same() -> None:
    asked = requests(40)
    exact, rounded = (Scorer(random_model(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    pairs = [
        (a, b) for x, y in zip(exact.score(asked), rounded.score(asked), strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert max(abs(a.mean - b.mean) for a, b in pairs) < 0.25
    assert sum(abs(a.mean - b.mean) for a, b in pairs) / len(pairs) < 0.03
    model = random_model(dtype=torch.bfloat16)
    alike = [
        abs(got.mean - alone(model, list(r.context), list(c)).mean)
        for r, row in zip(asked, rounded.score(asked), strict=True)
        for c, got in zip(r.continuations, row, strict=True)
    ]
    assert sum(alike) / len(alike) < 0.03


# --- longer than the context ----------------------------------------------------------------------------------------


def test_longer_requests_are_extrapolated(model: Transformer) -> None:
    """As by a model with a longer rotary table from the start, and without a trace in the one that was used."""
    asked, cos, sin = requests(30, longest=3 * S), model.cos, model.sin
    n_long = sum(len(r.context) + max(map(len, r.continuations)) > S for r in asked)
    scorer = Scorer(model)
    check(scorer.score(asked), asked, with_longer_context(model, 4 * S))
    assert 5 < n_long < 30 and (scorer.extended, scorer.cropped) == (n_long, 0)
    assert model.cos is cos and model.sin is sin and len(cos) == S
    with pytest.raises(ValueError, match="do not fit"):
        model(torch.tensor([ids(S + 1, seed=0)]))


def test_a_short_window_stays_short_beyond_the_context() -> None:
    model, asked = random_model(), requests(30, longest=3 * S)
    model.blocks[0].attention.window = 9
    check(Scorer(model, "extend").score(asked), asked, with_longer_context(model, 4 * S))


def test_the_table_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    monkeypatch.setattr(model, "logits", lambda hidden: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Scorer(model).score([Choices(ids(2 * S, seed=0), [[1], [2]])])
    assert len(model.cos) == len(model.sin) == S


def test_models_with_windows_lose_the_beginning_of_what_is_longer() -> None:
    model = random_model()
    model.blocks[0].attention.window = 9
    asked = requests(30, longest=3 * S)
    scorer = Scorer(model)
    found = scorer.score(asked)
    n_long = sum(len(r.context) + max(map(len, r.continuations)) > S for r in asked)
    assert (scorer.too_long, scorer.cropped, scorer.extended, scorer.unscorable) == ("crop", n_long, 0, 0)
    for request, row in zip(asked, found, strict=True):
        for continuation, got in zip(request.continuations, row, strict=True):
            kept = list(request.context)[-(S - len(continuation)) :]
            assert got.logprob == pytest.approx(alone(model, kept, list(continuation)).logprob, abs=2e-4)


def test_a_continuation_is_never_cut() -> None:
    scorer = Scorer(random_model(), "crop")
    fits, too_long = ids(S - 1, seed=1), ids(S, seed=2)
    (row,) = scorer.score([Choices(ids(5, seed=0), [too_long, fits, too_long])])
    assert [x.is_scored for x in row] == [False, True, False] and (scorer.cropped, scorer.unscorable) == (1, 1)
    assert row[0] == Likelihood(-math.inf, S, False, -math.inf)
    expected = alone(scorer.model, ids(5, seed=0)[-1:], fits)
    assert row[1].logprob == pytest.approx(expected.logprob, abs=1e-3)


def test_full_attention_extends_unless_told() -> None:
    assert Scorer(random_model()).too_long == "extend"
    assert Scorer(random_model(), "crop").too_long == "crop"


@pytest.mark.parametrize("bad", [Choices([], [[1]]), Choices([1], [[2], []])])
def test_nothing_to_condition_on_or_to_score(bad: Choices) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Scorer(random_model()).score([bad])


def test_no_requests() -> None:
    assert Scorer(random_model()).score([]) == []
    assert Scorer(random_model()).next_token([]).shape == (0, V)


# --- the next token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens_per_pass", [1, 8192])
def test_next_tokens(model: Transformer, tokens_per_pass: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 7 * V)
    contexts = [ids(n, seed=n) for n in (3, 40, 1, 64, 12, 12, 90, 5, 6, 7, 8, 9)]
    scorer, reference = Scorer(model, tokens_per_pass=tokens_per_pass), with_longer_context(model, 4 * S)
    with torch.no_grad():
        expected = torch.stack([torch.log_softmax(reference(torch.tensor([c]))[0, -1], dim=-1) for c in contexts])
    torch.testing.assert_close(scorer.next_token(contexts), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(scorer.next_token(contexts, [5, 2]), expected[:, [5, 2]], atol=2e-4, rtol=0)
    assert scorer.extended == 2  # once in each call


def test_the_next_token_after_a_context_that_is_cropped() -> None:
    model = random_model()
    scorer = Scorer(model, "crop")
    found, context = scorer.next_token([ids(90, seed=1)]), ids(90, seed=1)[-S:]
    with torch.no_grad():
        torch.testing.assert_close(found[0], torch.log_softmax(model(torch.tensor([context]))[0, -1], dim=-1))
    assert scorer.cropped == 1
    with pytest.raises(ValueError, match="BOS"):
        scorer.next_token([[]])
