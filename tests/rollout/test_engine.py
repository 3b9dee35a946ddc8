"""The batched engine against one row at a time and no cache."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key, uniform
from aquarat_core.rollout.sampling import Sampling, sample
from aquarat_core.tasks.aqua.question import prompt
from aquarat_core.text.chat import render_prompt
from tests.factories import questions, random_ids, random_model, tokenizer

STOP = 7
BUDGET = 30
N_SAMPLES = 6


def keys(n_prompts: int, n_samples: int = N_SAMPLES) -> list[list[int]]:
    return [[row_key("e", p, s) for s in range(n_samples)] for p in range(n_prompts)]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(vocab_size=40, seed=5)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [random_ids(n, vocab_size=40, seed=n).tolist() for n in (9, 3, 17, 1, 12)]


@pytest.fixture(scope="module")
def groups(model: Transformer, prompts: list[list[int]]) -> list[list[Completion]]:
    return Engine(model, [STOP]).generate(prompts, keys(5), BUDGET, temperature=1.0)


@torch.no_grad()
def alone(model: Transformer, prompt: list[int], key: int, budget: int, temperature: float) -> list[int]:
    """The same draws from full forward passes over one row."""
    tokens: list[int] = []
    for position in range(budget):
        logits = model(torch.tensor([[*prompt, *tokens]]))[:, -1]
        tokens.append(int(sample(logits, Sampling(temperature), uniform(torch.tensor([key]), position))[0]))
        if tokens[-1] == STOP:
            break
    return tokens


def test_every_completion_is_what_its_row_alone_gives(model, prompts, groups) -> None:
    for prompt_ids, row_keys, group in zip(prompts, keys(5), groups, strict=True):
        for key, completion in zip(row_keys, group, strict=True):
            assert completion.tokens == alone(model, prompt_ids, key, BUDGET, 1.0)


def test_rows_end_with_the_stop_token_or_the_budget(groups) -> None:
    completions = [c for group in groups for c in group]
    assert {c.ended for c in completions} == {True, False}
    # Enough rows end early for the engine to drop them from its batch: the other tests walk that path too.
    assert sum(len(c.tokens) <= 16 for c in completions) > len(completions) / 4
    for c in completions:
        assert STOP not in c.tokens[:-1]
        assert c.ended == (c.tokens[-1] == STOP)
        assert len(c.tokens) == BUDGET or (c.ended and len(c.tokens) < BUDGET)
        assert len(c.logprobs) == len(c.tokens)


def test_neighbours_and_chunks_change_nothing(model, prompts, groups) -> None:
    engine = Engine(model, [STOP])

    def tokens(found: list[list[Completion]]) -> list[list[list[int]]]:
        return [[c.tokens for c in group] for group in found]

    expected = tokens(groups)
    for max_rows in (1, N_SAMPLES, 2 * N_SAMPLES + 1, 1000):
        assert tokens(engine.generate(prompts, keys(5), BUDGET, 1.0, max_rows=max_rows)) == expected
    for i in range(5):
        assert tokens(engine.generate([prompts[i]], [keys(5)[i]], BUDGET, 1.0)) == [expected[i]]
    backwards = engine.generate(prompts[::-1], keys(5)[::-1], BUDGET, 1.0)
    assert tokens(backwards) == expected[::-1]


def test_groups_of_any_sizes_share_few_rows(model, prompts, groups) -> None:
    """Rows are refilled while others of their prompt go on, in every mixture of prompts, ages and slots."""
    sizes = (1, 4, 0, 6, 2)
    few = [row_keys[:n] for row_keys, n in zip(keys(5), sizes, strict=True)]
    engine = Engine(model, [STOP])
    for max_rows in (2, 3, 5):
        found = engine.generate(prompts, few, BUDGET, 1.0, max_rows=max_rows)
        assert [[c.tokens for c in g] for g in found] == [
            [c.tokens for c in g[:n]] for g, n in zip(groups, sizes, strict=True)
        ]


def test_memory_is_kept_between_calls_and_holds_nothing_over(model, prompts, groups) -> None:
    engine = Engine(model, [STOP])
    engine.generate([p[::-1] for p in prompts], keys(5), BUDGET, 1.0)
    kv_cache = engine._runner.rows.kv_cache
    assert engine.generate(prompts, keys(5), BUDGET, 1.0) == groups
    assert engine._runner.rows.kv_cache is kv_cache


def test_top_k_of_one_is_greedy(model, prompts) -> None:
    engine = Engine(model, [STOP])
    greedy = engine.generate(prompts, [[1]] * 5, 12, temperature=0.0)
    assert [g[0].tokens for g in engine.generate(prompts, [[1]] * 5, 12, 1.0, top_k=1)] == [g[0].tokens for g in greedy]


def test_the_samples_of_a_group_differ_and_follow_the_model(model, prompts) -> None:
    (group,) = Engine(model, [STOP]).generate([prompts[2]], keys(1, 2000), 1, temperature=1.0)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([prompts[2]]))[0, -1].double(), dim=0)
    counts = torch.bincount(torch.tensor([c.tokens[0] for c in group]), minlength=40)
    common = p * 2000 > 5
    expected = p[common] * 2000
    assert common.sum() > 5
    chi_square = float(((counts[common] - expected) ** 2 / expected).sum())
    assert chi_square < int(common.sum()) + 5 * (2 * int(common.sum())) ** 0.5


def test_logprobs_are_those_of_the_uncached_model(model, prompts, groups) -> None:
    for prompt_ids, group in zip(prompts, groups, strict=True):
        for c in group[:2]:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt_ids, *c.tokens]]))[0, len(prompt_ids) - 1 : -1]
            expected = torch.log_softmax(logits, dim=1)[range(len(c.tokens)), c.tokens]
            torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)


def test_greedy_text_on_real_prompts_needs_no_cache() -> None:
    tok = tokenizer()
    model = random_model(tok.vocab_size, seed=2, sequence_len=256)
    texts = [prompt(q) for q in questions()[:6]]
    asked = [render_prompt(tok, [{"role": "user", "content": text}]) for text in texts]
    assert len({len(p) for p in asked}) > 2
    groups = Engine(model, [STOP]).generate(asked, [[0]] * 6, 24, temperature=0.0)
    for prompt_ids, (completion,) in zip(asked, groups, strict=True):
        assert tok.decode(completion.tokens) == tok.decode(alone(model, prompt_ids, 0, 24, 0.0))


def test_refreshed_weights_are_the_ones_sampled_from(prompts) -> None:
    model, other = random_model(40, seed=5), random_model(40, seed=6)
    engine, fresh = Engine(model, [STOP]), Engine(other, [STOP])
    before = engine.generate(prompts, keys(5), 8, 1.0)
    engine.refresh(other)
    assert engine.generate(prompts, keys(5), 8, 1.0) == fresh.generate(prompts, keys(5), 8, 1.0) != before
    with torch.no_grad():
        model.head.weight.zero_()  # the engine's weights are its own
    assert engine.generate(prompts, keys(5), 8, 1.0) == fresh.generate(prompts, keys(5), 8, 1.0)


def test_the_longest_that_fits_fits_and_one_more_is_refused(model) -> None:
    engine = Engine(model, stop_tokens=[39])
    full = random_ids(34, vocab_size=39, seed=1).tolist()
    (completion,) = engine.generate([full], [[1]], 30, temperature=0.0)[0]
    assert len(completion.tokens) <= 30
    with pytest.raises(ValueError, match=r"prompt of 35 tokens and 30 new tokens .* sequence_len of 64: shorten"):
        engine.generate([[*full, 1], [2]], [[1], [2]], 30, temperature=0.0)
