"""Where generations end: at one of several tokens, at texts, or once their tokens are enough."""

from __future__ import annotations

from functools import partial
from itertools import takewhile

import pytest
import torch

from aquarat_core.errors import UsageError
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import SYNC_EVERY, Engine
from aquarat_core.rollout.stops import Said, StopTexts
from aquarat_core.text.chat import reading_text, stop_tokens
from aquarat_core.text.reading import Reader
from tests.factories import random_ids, random_model, tokenizer

BUDGET = 30
KEYS = [[100 * p + s for s in range(8)] for p in range(3)]
PROMPTS = [random_ids(n, vocab_size=40, seed=n).tolist() for n in (9, 3, 17)]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(vocab_size=40, seed=5)


def said(model: Transformer, *stop_tokens: int, **how) -> list[Completion]:
    groups = Engine(model, stop_tokens).generate(PROMPTS, KEYS, BUDGET, 1.0, max_rows=7, **how)
    return [completion for group in groups for completion in group]


def test_any_stop_token_ends_a_row_and_changes_nothing_before(model: Transformer) -> None:
    whole = said(model)
    assert all(len(c.tokens) == BUDGET and not c.ended for c in whole)
    for stops in ((7,), (7, 11), (11, 3, 7)):
        ended = said(model, *stops)
        for completion, without in zip(ended, whole, strict=True):
            content = list(takewhile(lambda token, stops=stops: token not in stops, without.tokens))
            assert completion.content == content
            assert completion.ended == (len(content) < BUDGET)
            assert completion.tokens == without.tokens[: len(content) + completion.ended]
            torch.testing.assert_close(
                completion.logprobs, without.logprobs[: len(completion.tokens)], atol=1e-4, rtol=0
            )
        assert {c.tokens[-1] for c in ended if c.ended} == set(stops)


def test_a_turn_and_a_document_end_a_generation() -> None:
    tok = tokenizer()
    assert stop_tokens(tok) == (tok.special("<|assistant_end|>"), tok.special("<|bos|>"))


def test_rows_with_enough_tokens_are_left_and_the_others_are_as_without(model: Transformer) -> None:
    wanted = {3, 7, 11, 19}
    whole, left = said(model), said(model, enough=lambda ids: not wanted.isdisjoint(ids))
    for completion, without in zip(left, whole, strict=True):
        needed = next((i + 1 for i, token in enumerate(without.tokens) if token in wanted), BUDGET)
        assert completion.tokens == without.tokens[: len(completion.tokens)] and not completion.ended
        assert needed <= len(completion.tokens) < needed + SYNC_EVERY
    assert sum(len(c.tokens) for c in left) < sum(len(c.tokens) for c in whole) * 2 / 3


def completion(text: str, *more: int) -> Completion:
    tokens = [*tokenizer().encode(text), *more]
    return Completion(tokens, [-1.0] * len(tokens), bool(more))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), "12 + 30 = 42\nAnswer: B"),
        (("\n",), "12 + 30 = 42"),
        (("Answer", "= 4", "no such text"), "12 + 30 "),
        (("12",), ""),
        (("r: B",), "12 + 30 = 42\nAnswe"),
    ],
)
def test_a_text_is_cut_off_where_it_first_appears(texts: tuple[str, ...], expected: str) -> None:
    end = tokenizer().special("<|bos|>")
    stops, one = StopTexts(tokenizer(), texts), completion("12 + 30 = 42\nAnswer: B", end)
    found = stops.cut(one)
    assert (found.text, found.ended) == (expected, True)
    if not texts:
        assert stops.enough is None and found.n_tokens == len(one.tokens)
        return
    assert stops.enough(one.tokens[: found.n_tokens]) and not stops.enough(one.tokens[: found.n_tokens - 1])


def test_what_no_stop_has_ended_is_cut_off_by_the_budget() -> None:
    one = completion("12 + 30")
    assert StopTexts(tokenizer(), ["x"]).cut(one) == Said("12 + 30", len(one.tokens), False)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(UsageError, match="a stop text is empty"):
        StopTexts(tokenizer(), ["a", ""])


def test_a_stop_text_is_looked_for_in_the_text_that_is_returned() -> None:
    tok = tokenizer()
    start, end = tok.special("<|python_start|>"), tok.special("<|python_end|>")
    ids = [*tok.encode("is "), start, *tok.encode("6*7"), end, *tok.encode("42 = 6*7")]
    one = Completion(ids, [-1.0] * len(ids), False)
    stops = StopTexts(tok, ["6*7"], partial(reading_text, tok))
    assert stops.enough is not None and not stops.enough(ids[:6])
    assert stops.cut(one) == Said("is 42 = ", len(ids), True)
    assert StopTexts(tok, ["6*7"]).cut(one).text == "is <|python_start|>"


def test_of_two_stop_texts_the_one_that_is_complete_first_ends_an_answer() -> None:
    tok = tokenizer()
    for text, stops, expected in (("so abcd.", ("abcd", "c"), "so ab"), ("x END y", ("END y", "ND"), "x E")):
        completion = Completion(tok.encode(text), [0.0] * len(tok.encode(text)), False)
        reader = Reader(tok, stops)
        said = "".join(reader.push([token]) for token in completion.tokens) + reader.finish()
        assert StopTexts(tok, stops).cut(completion).text == said == expected
