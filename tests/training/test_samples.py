"""What the model says while it trains: when it is asked, where it is written, and that nothing else changes by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from aquarat_core.config import SamplesConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.tasks.aqua.question import conversation
from aquarat_core.text.chat import render
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.tracking.sample_table import SAMPLES_FILE
from aquarat_core.training.callbacks import TrainingStep
from aquarat_core.training.loop import train
from aquarat_core.training.samples import COLUMNS, Samples, chat_prompts, text_prompts
from benchmarks.in_memory import pack_conversations
from tests.factories import context, examples, questions, random_model, session, tokenizer

CONFIG = SamplesConfig(every=3, prompts=("12 + 7 =", "The"), max_new_tokens=6)


def samples(folder: Path, rank: int = 0, **changes: object) -> Samples:
    ctx = context(folder)
    ctx.rank = rank
    config = CONFIG.model_copy(update=changes)
    prompts = text_prompts(config.prompts, tokenizer())
    model = random_model(tokenizer().vocab_size)
    return Samples(config, model, tokenizer(), prompts, MetricLog(None, None), ctx)


def written(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SAMPLES_FILE).read_text().splitlines()]


def asked(callback: Samples, total: int) -> list[TrainingStep]:
    steps = [TrainingStep(done, total) for done in range(1, total + 1)]
    for step in steps:
        callback.after_step(step)
    return steps


def test_prompts_are_continued_when_due_and_at_the_end(tmp_path: Path) -> None:
    steps = asked(samples(tmp_path), 7)
    rows = written(tmp_path)
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in (3, 6, 7) for p in CONFIG.prompts]
    assert all(tuple(row) == COLUMNS and row["text"] and 1 <= row["tokens"] <= 6 for row in rows)
    assert rows[0]["text"] != rows[2]["text"], "another step draws other tokens"
    assert [s.done for s in steps if s.metrics] == [3, 6, 7]
    mean = sum(row["tokens"] for row in rows[:2]) / 2
    assert steps[2].metrics["samples/tokens_mean"] == mean and steps[2].metrics["time/samples"] > 0


def test_a_resumed_run_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    asked(samples(tmp_path / "one"), 7)
    first = samples(tmp_path / "two")
    for done in range(1, 4):
        first.after_step(TrainingStep(done, 7))
    saved = json.loads(json.dumps(first.state_dict()))
    again = samples(tmp_path / "two")
    again.load_state_dict(saved)
    for done in range(4, 8):
        again.after_step(TrainingStep(done, 7))
    assert written(tmp_path / "two") == written(tmp_path / "one")


def test_who_is_not_asked_says_nothing(tmp_path: Path) -> None:
    asked(samples(tmp_path, rank=1), 3)
    asked(samples(tmp_path, every=None), 3)
    asked(samples(tmp_path, max_new_tokens=64), 3)  # leaves no room in 64 tokens
    assert not (tmp_path / SAMPLES_FILE).exists()


def test_chat_stages_ask_users_messages_and_questions() -> None:
    prompts = chat_prompts(("Who are you?",), examples(), tokenizer())
    assert [p.text.splitlines()[0] for p in prompts] == ["Who are you?", *(q.question for q in questions()[:2])]
    assert all(p.ids[-1] == tokenizer().special("<|assistant_start|>") for p in prompts)


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    tok = tokenizer()
    packed = pack_conversations((render(tok, conversation(q)) for q in questions()), 128, tok.special("<|bos|>"), 400)
    rows = PackedRows(packed.ids, packed.mask.astype(bool))
    config = TrainConfig(steps=4, batch_tokens=512, micro_batch_rows=4, eval_every=4, eval_tokens=128, samples=CONFIG)
    ends = []
    for with_samples in (False, True):
        model, log = random_model(tok.vocab_size, sequence_len=128), MetricLog(tmp_path / "metrics.jsonl", None)
        ctx = context(tmp_path)
        callback = Samples(CONFIG, model, tok, text_prompts(CONFIG.prompts, tok), log, ctx)
        train(session(config, ctx, log), model, rows, rows, tok.token_bytes(), (callback,) if with_samples else ())
        log.close()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "samples/ended" in row] == [3, 4]
    assert np.isfinite([row["train/loss"] for row in metrics]).all()
