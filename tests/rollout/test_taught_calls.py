"""A tiny model that learns from solutions with calls uses the calculator, and answers better than without it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from aquarat_core.config import ModelConfig, TokenizerConfig, TrainConfig
from aquarat_core.conversation import Conversation, assistant_message, message_texts
from aquarat_core.data.rows import PackedRows
from aquarat_core.evaluation.protocols import answer
from aquarat_core.evaluation.records import Record
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.tools import calculator
from aquarat_core.tasks.gsm8k import Gsm8kTask, conversation, to_example
from aquarat_core.tasks.task import Example
from aquarat_core.text.chat import render, stop_tokens
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from aquarat_core.training.loop import train
from benchmarks.in_memory import pack_conversations
from tests.factories import context, session

pytestmark = pytest.mark.slow

T, HELD_OUT, STEPS = 64, 60, 150
Asked = Sequence[Example[Decimal]]


def problems() -> list[Example[Decimal]]:
    """Sums of numbers from 11 to 49 in GSM8K's form, each pair once, in random order: too many to learn by heart."""
    pairs = [(a, b) for a in range(11, 50) for b in range(11, 50)]
    random.Random(0).shuffle(pairs)
    rows = (
        {
            "question": f"Tom has {a} pens and buys {b}. How many now?",
            "answer": f"{a}+{b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}",
        }
        for a, b in pairs
    )
    return [to_example(Conversation(f"{i}", conversation(row))) for i, row in enumerate(rows)]


def trained(tok: Tokenizer, examples: Asked, calls: bool) -> Transformer:
    """A model that has learned the examples' targets, or the same ones without their calls."""
    asked = [e.conversation() for e in examples]
    if not calls:
        texts = ["".join(p["text"] for p in e.target_parts if p["type"] == "text") for e in examples]
        asked = [[*e.messages, assistant_message(text)] for e, text in zip(examples, texts, strict=True)]
    packed = pack_conversations((render(tok, m) for m in asked), T, tok.special("<|bos|>"), tok.vocab_size)
    rows = PackedRows(packed.ids, packed.mask.astype(bool))
    config = TrainConfig(steps=STEPS, batch_tokens=T * 16, micro_batch_rows=16, eval_every=1000, eval_tokens=T)
    described = ModelConfig(
        depth=2, width_per_layer=32, head_size=16, sequence_len=T, embedding_taps=3, mimetic_init=True
    )
    model = Transformer(described, tok.vocab_size)
    model.init_weights(torch.Generator().manual_seed(0))
    train(session(config, context(Path())), model, rows, rows, tok.token_bytes())
    return model


def said(model: Transformer, tok: Tokenizer, examples: Asked, tool: bool) -> list[Record]:
    engine = Engine(model, stop_tokens(tok))
    return answer(engine, tok, Gsm8kTask(), examples, 30, 64, calculator(tok) if tool else None)


def accuracy(records: Sequence[Record]) -> float:
    return sum(r.correct for r in records) / len(records)


def test_a_model_taught_to_call_answers_better_than_without() -> None:
    examples = problems()
    held_out, learned = examples[:HELD_OUT], examples[HELD_OUT:]
    texts = (text for e in learned for m in e.conversation() for text in message_texts(m))
    tok = train_tokenizer(texts, TokenizerConfig(vocab_size=420))

    taught = trained(tok, learned, calls=True)
    with_tool, without = said(taught, tok, held_out, tool=True), said(taught, tok, held_out, tool=False)
    plain = said(trained(tok, learned, calls=False), tok, held_out, tool=False)

    as_taught = sum(r.completion == e.target for r, e in zip(with_tool, held_out, strict=True))
    assert as_taught > 0.8 * HELD_OUT, "the sum was calculated by a call, and its output copied"
    assert accuracy(with_tool) > 0.8
    assert accuracy(with_tool) > accuracy(plain) + 0.3, "a model of the same size that calculates by itself"
    assert accuracy(with_tool) > accuracy(without) + 0.3, "the same weights, and nobody answers their calls"
