"""Checkpoints with the names that version 0.1 gave their state: the class's in lower case, or RL's own."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import CheckpointStore, checkpoint_store
from aquarat_core.config import CheckpointConfig, SamplesConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.tracking.context import DetachedContext
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.loop import train
from aquarat_core.training.samples import Samples, text_prompts
from tests.factories import random_ids, random_model, session, tokenizer
from tests.rl.test_trainer import any_start, flat, made  # noqa: F401
from tests.training.test_session import rename_saved, saved_names

PRETRAINING = {"model", "latest", "throughput", "validation", "samples", "record"}
RL = {"model", "progress", "alarms", "curriculum", "samples", "log", "best"}
SHARDS = {"updater", "rng"}
SAVING = CheckpointConfig(every_minutes=None, every_steps=2)


class Cut(Exception):
    """The end of a start before its time."""


class CutContext(DetachedContext):
    """Breaks off after a step; what is logged is kept."""

    def __init__(self, folder: Path, work: CheckpointStore | None, after: int | None = None) -> None:
        super().__init__(folder, work)
        self.after, self.lines = after, list[str]()

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        if done == self.after:
            raise Cut

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def work() -> CheckpointStore:
    return checkpoint_store(open_backend(f"memory://{uuid.uuid4().hex}"), "base_checkpoint", {}, {}, "code")


def pretrained(ctx: CutContext) -> torch.Tensor:
    tok = tokenizer()
    model = random_model(tok.vocab_size)
    rows = PackedRows(random_ids(16, 65, vocab_size=tok.vocab_size).numpy())
    config = TrainConfig(
        steps=5, batch_tokens=128, micro_batch_rows=1, eval_every=2, eval_tokens=64, checkpoint=SAVING,
        samples=SamplesConfig(every=2, prompts=("The",), max_new_tokens=4),
    )  # fmt: skip
    log = MetricLog(ctx.extras_dir / "metrics.jsonl", None)
    samples = Samples(config.samples, model, tok, text_prompts(config.samples.prompts, tok), log, ctx)
    train(session(config, ctx, log), model, rows, rows, tok.token_bytes(), (samples,))
    return flat(model)


def reinforced(ctx: CutContext) -> torch.Tensor:
    run = made(steps=5, eval_every=2, curriculum={"enabled": True}, checkpoint=SAVING.model_dump())
    run.run(session(run.config, ctx, MetricLog(ctx.extras_dir / "metrics.jsonl", None)))
    return flat(run.policy)


def test_pretraining_continues(tmp_path: Path, work: CheckpointStore) -> None:
    undisturbed = pretrained(CutContext(tmp_path, None))
    with pytest.raises(Cut):
        pretrained(CutContext(tmp_path, work, after=5))
    assert saved_names(work) == {"parts": PRETRAINING, "shards": SHARDS}, "no name has changed since"
    again = CutContext(tmp_path, work)
    assert torch.equal(pretrained(again), undisturbed)
    assert any("resuming after step 4" in line for line in again.lines)


@pytest.mark.usefixtures("any_start")
def test_rl_continues(tmp_path: Path, work: CheckpointStore) -> None:
    undisturbed = reinforced(CutContext(tmp_path, None))
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with pytest.raises(Cut):
        reinforced(CutContext(tmp_path, work, after=5))
    rename_saved(work, {"record": "log"})
    assert saved_names(work) == {"parts": RL, "shards": SHARDS}
    again = CutContext(tmp_path, work)
    assert torch.equal(reinforced(again), undisturbed)
    assert any("resuming after step 4" in line for line in again.lines)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(rows) == 6
