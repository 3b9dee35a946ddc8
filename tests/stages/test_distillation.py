"""Self-distillation as a stage: it teaches what its teacher reads in the solution, resumes, and refuses in time."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import checkpoint_store
from aquarat_core.config import ModelConfig, TrainConfig
from aquarat_core.conversation import assistant_message, user_message
from aquarat_core.data.rows import PackedRows
from aquarat_core.errors import StageError
from aquarat_core.evaluation.protocols.generating import ORDER_TOKENS
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.demonstration import LEAD
from aquarat_core.rl.trainer import Stopping, Trainer
from aquarat_core.stages import rl_checkpoint
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.question import LETTERS, Question, prompt, target
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.text.chat import render, render_prompt
from aquarat_core.training.loop import train
from benchmarks.in_memory import pack_conversations
from tests.factories import context, reading_questions, reading_tokenizer, session
from tests.stages.conftest import ALONE, Bench

pytestmark = pytest.mark.slow

ROOM = 192
RL = {
    "launch": ALONE, "steps": 60, "prompts_per_step": 16, "group_size": 4, "max_new_tokens": 8, "micro_batch_rows": 64,
    "eval_every": 30, "eval_questions": 60, "optim": {"lr_scale": 1.0, "warmdown": 0.5}, "publish": "last",
    "distillation": {"teacher": "average", "average_decay": 1.0},
}  # fmt: skip


def solved(n: int, first: int = 0) -> list[Question]:
    """Questions that say which letter to answer, with a solution."""
    return [replace(q, rationale="So it says.") for q in reading_questions(n, first)]


@functools.cache
def copier() -> Transformer:
    """A policy that says the letter of a worked solution if it sees one, and otherwise any letter: what the question
    says means nothing to it."""
    tok, rng = reading_tokenizer(), np.random.default_rng(0)
    rows = []
    for i, q in enumerate(solved(1600)):
        said = replace(q, correct=LETTERS[rng.integers(5)])
        shown = f"{prompt(said)}\n\n{LEAD}\n{target(said)}" if i % 2 else prompt(said)
        rows.append(render(tok, [user_message(shown), assistant_message(f"Answer: {said.correct}")]))
    packed = pack_conversations(rows, ROOM, tok.special("<|bos|>"), tok.vocab_size)
    data = PackedRows(packed.ids, packed.mask.astype(bool))
    config = TrainConfig(steps=250, batch_tokens=ROOM * 8, micro_batch_rows=8, eval_every=1000, eval_tokens=ROOM)
    model = Transformer(
        ModelConfig(depth=2, width_per_layer=16, head_size=16, sequence_len=ROOM, mimetic_init=True), tok.vocab_size
    )
    model.init_weights(torch.Generator().manual_seed(0))
    train(session(config, context(Path())), model, data, data, tok.token_bytes())
    return model


@pytest.fixture(scope="module")
def inputs(bench: Bench) -> dict[str, Artifact]:
    return {"sft_checkpoint": _sft(bench), "aqua_dataset": _questions(bench, solved(320), "solved")}


def _sft(bench: Bench) -> Artifact:
    folder = bench.scratch / "copier"
    folder.mkdir(parents=True)
    reading_tokenizer().save(folder / "trained.json")
    save_checkpoint(folder, copier(), folder / "trained.json")
    (folder / "trained.json").unlink()
    return bench.publish("sft_checkpoint", folder)


def _questions(bench: Bench, train_rows: list[Question], name: str) -> Artifact:
    folder = bench.scratch / name
    folder.mkdir(parents=True)
    write_questions(folder / "train.parquet", train_rows)
    write_questions(folder / "validation.parquet", reading_questions(60, first=1000))
    return bench.publish("aqua_dataset", folder)


def test_what_the_solution_says_is_learned_without_a_reward(bench: Bench, inputs: dict[str, Artifact]) -> None:
    ctx = bench.context("rl_checkpoint", RL, **inputs)
    metrics = rl_checkpoint.run(ctx)
    rows = [json.loads(line) for line in (ctx.extras_dir / "metrics.jsonl").read_text().splitlines()]
    assert metrics["held_out_accuracy_before"] <= 0.35 and metrics["held_out_accuracy_after"] >= 0.9
    assert rows[-1]["rl/teacher_kl"] < rows[1]["rl/teacher_kl"] / 2
    assert (metrics["questions"], metrics["questions_without_solution"], metrics["solutions_cut"]) == (320, 0, 0)


def test_a_crashed_run_goes_on_with_the_same_average(
    bench: Bench, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = RL | {
        "steps": 6, "checkpoint": {"every_steps": 2}, "distillation": {"teacher": "average", "average_decay": 0.5},
    }  # fmt: skip
    undisturbed = bench.context("rl_checkpoint", changes, **inputs)
    rl_checkpoint.run(undisturbed)
    work = checkpoint_store(open_backend(f"file://{tmp_path}/work"), "rl_checkpoint", {}, {}, "code")
    whole, crash_at = Trainer.step, list[int]()

    def crash(self: Trainer[Any], step: int, asked: Stopping | None = None) -> Any:
        if step in crash_at:
            raise RuntimeError("a crash")
        return whole(self, step, asked)

    monkeypatch.setattr(Trainer, "step", crash)
    for at in (3, 5, None):
        crash_at[:] = [] if at is None else [at]
        ctx = bench.context("rl_checkpoint", changes, **inputs)
        ctx.work = work
        if at is None:
            rl_checkpoint.run(ctx)
            continue
        with pytest.raises(RuntimeError, match="a crash"):
            rl_checkpoint.run(ctx)
    ours, resumed = ((c.outdir / "model.safetensors").read_bytes() for c in (undisturbed, ctx))
    assert ours == resumed
    rows = [
        [json.loads(x).get("rl/teacher_kl") for x in (c.extras_dir / "metrics.jsonl").open()]
        for c in (undisturbed, ctx)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 7


def test_questions_without_a_solution_are_left_out_or_refused(
    bench: Bench, inputs: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = solved(20)
    some = [*rows, *reading_questions(5, first=100), replace(rows[0], id="long", rationale="So it says. " * 60)]
    changes = RL | {"steps": 1, "eval_every": 1}
    ctx = bench.context("rl_checkpoint", changes, **inputs | {"aqua_dataset": _questions(bench, some, "some")})
    metrics = rl_checkpoint.run(ctx)
    counted = [metrics[x] for x in ("questions", "questions_without_solution", "solutions_cut", "questions_left_out")]
    assert counted == [21, 5, 1, 0]
    assert "self-distillation on 21 of 26 questions of aqua: 5 have no worked" in capsys.readouterr().err
    none = _questions(bench, reading_questions(40), "none")
    ctx = bench.context("rl_checkpoint", changes, **inputs | {"aqua_dataset": none})
    with pytest.raises(StageError, match=r"none of the 40 training questions of aqua has a worked solution .*'none'"):
        rl_checkpoint.run(ctx)
    # Just enough for the policy's prompts, which leaves nothing for the last line of a solution after them.
    prompts = [len(render_prompt(reading_tokenizer(), to_example(q).messages)) for q in solved(320)]
    budget = ROOM - ORDER_TOKENS - max(prompts)
    ctx = bench.context("rl_checkpoint", changes | {"max_new_tokens": budget}, **inputs)
    with pytest.raises(StageError, match=rf"leave room for rl_checkpoint\.max_new_tokens {budget} \(aqua: 0 training"):
        rl_checkpoint.run(ctx)
