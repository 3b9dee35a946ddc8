"""RL on real AQuA rows, where a copy of them lies beside the checkout: it runs, is paid, and logs everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from aquarat_core.config import ModelConfig, RLConfig, TokenizerConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.preflight import check_reward
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tasks.aqua.cleaning import clean
from aquarat_core.tasks.aqua.question import LETTERS, Question, conversation, prompt, target
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.loop import train
from benchmarks.in_memory import pack_conversations
from tests.factories import AQUA, ONE, context, session
from tests.rl.test_trainer import FIGURES

ROOM = 320
SHORT = 400
"""Characters of a prompt: all of it must fit a small model's row."""


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[Question]:
    raw = pq.read_table(shared / "hub/deepmind/aqua_rat/raw/validation-00000-of-00001.parquet").to_pylist()
    found = clean({"validation": raw}, "deepmind/aqua_rat").splits["validation"]
    return [q for q in found if len(prompt(q)) <= SHORT]


def guesser_of(rows: list[Question], tok: Tokenizer) -> Transformer:
    """A policy that has learned the form of an answer from real prompts, with letters drawn at random."""
    rng = np.random.default_rng(0)
    said = [replace(q, rationale="", correct=LETTERS[rng.integers(5)]) for q in rows]
    packed = pack_conversations((render(tok, conversation(q)) for q in said), ROOM, tok.special("<|bos|>"), 600)
    packed_rows = PackedRows(packed.ids, packed.mask.astype(bool))
    config = TrainConfig(steps=50, batch_tokens=ROOM * 4, micro_batch_rows=4, eval_every=1000, eval_tokens=ROOM)
    model = Transformer(ModelConfig(depth=2, width_per_layer=16, head_size=16, sequence_len=ROOM), tok.vocab_size)
    model.init_weights(torch.Generator().manual_seed(0))
    train(session(config, context(Path())), model, packed_rows, packed_rows, tok.token_bytes())
    return model


@pytest.mark.slow
def test_the_stage_runs_on_real_rows_and_its_rewards_are_not_zero(rows: list[Question], tmp_path: Path) -> None:
    assert len(rows) > 100
    tok = train_tokenizer((f"{prompt(q)}\n{target(q)}" for q in rows), TokenizerConfig(vocab_size=600))
    asked = [to_example(q) for q in rows]
    check_reward(AQUA, asked, tok)
    config = RLConfig(
        steps=3, prompts_per_step=16, group_size=8, max_new_tokens=24, eval_every=3, eval_questions=20,
        probe_questions=20, curriculum={"enabled": True}, optim={"lr_scale": 0.1},
    )  # fmt: skip
    trainer = Trainer(guesser_of(rows, tok), tok, config, ONE, AQUA, asked[:80], asked[80:])
    log = MetricLog(tmp_path / "metrics.jsonl", None)
    summary = trainer.run(session(trainer.config, context(tmp_path), log))
    log.close()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == [0, 1, 2, 3]
    for row in found[1:]:
        assert 0.05 < row["rl/mean_reward"] < 0.5 and row["rl/parse_rate"] > 0.5 and row["rl/grad_norm"] > 0
    assert set(found[3]) >= FIGURES | {"rl/length_wrong_mean", "rl/alarms", "time/probe_share"}
    assert 0 <= summary["held_out_accuracy_after"] <= 1
