"""Asking a checkpoint: greedy answers in the order of the questions, judged strictly, and bits per byte of text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aquarat_core.config import EvalConfig
from aquarat_core.evaluation.protocols import Evaluator, accuracy, answer, fitting
from aquarat_core.evaluation.summary import summarize
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.rollout.engine import Engine
from aquarat_core.tasks.aqua.question import Question, prompt
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.text.chat import stop_tokens
from tests.factories import AQUA, ONE, guesser, reading_examples, reading_tokenizer


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(guesser(), stop_tokens(reading_tokenizer()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "out").mkdir()
    reading_tokenizer().save(folder / "tokenizer.json")
    save_checkpoint(folder / "out", guesser(), folder / "tokenizer.json")
    return folder / "out"


def test_a_guessers_answers_are_well_formed_and_a_fifth_right(engine: Engine) -> None:
    asked = reading_examples(20)
    records = answer(engine, reading_tokenizer(), AQUA, asked, max_new_tokens=8)
    letters = {r.parsed for r in records}
    assert len(letters) == 1 and None not in letters  # the most likely letter, whatever is asked
    assert [(r.id, r.question, r.gold) for r in records] == [(e.id, prompt(e.answer), e.answer.correct) for e in asked]
    for r in records:
        assert r.completion == f"Answer: {r.parsed}" and (r.truncated, r.stop_reason) == (False, "stop")
        assert r.n_tokens == len(reading_tokenizer().encode(r.completion))
        assert r.correct == (r.parsed == r.gold)
    assert accuracy(engine, reading_tokenizer(), AQUA, asked, 8, ONE) == sum(r.correct for r in records) / 20 == 0.2


def test_an_answer_cut_off_before_its_end_is_none(engine: Engine) -> None:
    # "Answer", ":", " A": all of the answer but not the stop token.
    records = answer(engine, reading_tokenizer(), AQUA, reading_examples(5), max_new_tokens=3)
    assert all(r.completion.startswith("Answer: ") and r.n_tokens == 3 for r in records)
    assert all((r.parsed, r.correct, r.truncated, r.stop_reason) == (None, False, True, "length") for r in records)
    assert answer(engine, reading_tokenizer(), AQUA, [], 3) == []


def test_a_question_that_does_not_fit_counts_as_wrong_and_changes_no_other_answer(engine: Engine) -> None:
    asked = reading_examples(5)
    long = to_example(Question("long", "Say" + " A" * 500, asked[0].choices, "", "A", "reading"))
    records = answer(engine, reading_tokenizer(), AQUA, [*asked[:2], long, *asked[2:]], max_new_tokens=8)
    assert [r for r in records if r.id != "long"] == answer(engine, reading_tokenizer(), AQUA, asked, max_new_tokens=8)
    assert (records[2].stop_reason, records[2].parsed, records[2].correct, records[2].n_tokens) == (
        "too_long",
        None,
        False,
        0,
    )
    assert answer(engine, reading_tokenizer(), AQUA, [long], 8)[0].correct is False
    assert accuracy(engine, reading_tokenizer(), AQUA, [long, long], 8, ONE) == 0.0
    assert fitting([long, *asked], reading_tokenizer(), 8, 96) == asked
    assert summarize(records, "A", 0.2, "ABCDE")["too_long"] == 1


def test_the_evaluator_answers_in_the_order_asked(checkpoint: Path, engine: Engine) -> None:
    asked = reading_examples(11)[::-1]
    evaluator = Evaluator(checkpoint, EvalConfig(task="aqua", max_new_tokens=8, batch_rows=4), ONE)
    found = evaluator.ask(evaluator.config.main, AQUA, asked)
    expected = answer(engine, reading_tokenizer(), AQUA, asked, 8)
    assert found == [replace(record, evaluation="aqua/greedy") for record in expected]


def test_bits_per_byte_by_hand(checkpoint: Path) -> None:
    # One document of exactly one row: <bos> and 96 tokens of text.
    tok, text = reading_tokenizer(), ""
    while len(tok.encode(text)) < 96:
        text += "Say A and B. "
    ids = tok.encode(text)[:96]
    text = tok.decode(ids)
    assert tok.encode(text) == ids
    with torch.no_grad():
        logp = torch.log_softmax(guesser()(torch.tensor([[tok.special("<|bos|>"), *ids[:-1]]]))[0], dim=1)
    nats = -float(logp[range(96), ids].double().sum())
    evaluator = Evaluator(checkpoint, EvalConfig(), ONE)
    assert evaluator.bits_per_byte([text]) == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
