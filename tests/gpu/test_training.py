"""Training on a GPU: every way to compute the loss, kernels that repeat themselves, and a run that is cut short."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import CheckpointStore, checkpoint_store
from aquarat_core.config import CheckpointConfig, LaunchConfig, ModelConfig, TrainConfig, WandbConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import distributed_world
from aquarat_core.tracking.context import DetachedContext
from aquarat_core.training.callbacks import Callback, TrainingStep
from aquarat_core.training.loop import train
from aquarat_core.training.session import training_session
from tests.gpu.conftest import GPU, NEEDS_GPU
from tests.training.test_device import OPTIONS

pytestmark = [NEEDS_GPU, pytest.mark.timeout(300)]

SHAPE = {"depth": 3, "width_per_layer": 128, "head_size": 64, "sequence_len": 512}
VOCABULARY, ROWS, STEPS = 1000, 8, 6


class Cut(Exception):
    """The end of a run before its time."""


@dataclass
class CutAfter(Callback):
    """Ends the run after so many steps; keeps the losses up to there."""

    name = "cut"
    steps: int
    losses: list[float] = field(default_factory=list)

    def after_step(self, step: TrainingStep) -> None:
        if step.done == self.steps:
            raise Cut
        self.losses.append(step.metrics["train/loss"])


class Listening(DetachedContext):
    """A context that keeps what is logged."""

    def __init__(self, folder: Path, work: CheckpointStore | None) -> None:
        super().__init__(folder, work)
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def trained(
    folder: Path,
    options: dict[str, Any],
    launch: dict[str, Any],
    work: CheckpointStore | None = None,
    cut_after: int = STEPS + 1,
) -> tuple[list[float], dict[str, torch.Tensor], list[str]]:
    """Losses, weights and the log's lines of a run of `STEPS` steps of three micro-batches."""
    described = ModelConfig(**options | SHAPE)
    T, rows = described.sequence_len, 3 * ROWS
    ids = np.random.default_rng(0).zipf(1.3, size=(STEPS * rows, T + 1)) % VOCABULARY
    data = PackedRows(ids.astype(np.uint16))
    launched = LaunchConfig(nproc=1, device="cuda", **launch)
    config = TrainConfig(
        steps=STEPS, batch_tokens=rows * T, micro_batch_rows=ROWS, eval_every=STEPS, eval_tokens=4 * T, launch=launched,
        wandb=WandbConfig(mode="disabled"), checkpoint=CheckpointConfig(every_steps=2, every_minutes=None),
    )  # fmt: skip
    ctx, cut = Listening(folder, work), CutAfter(cut_after)
    torch.compiler.reset()
    with training_session(ctx, config) as session:
        model = Transformer(described, VOCABULARY, session.world.compute_dtype)
        model.init_weights(torch.Generator().manual_seed(0))
        model.to(session.world.device)
        train(session, model, data, data, np.ones(VOCABULARY, np.int32), [cut])
    return cut.losses, {name: p.detach().cpu() for name, p in model.named_parameters()}, ctx.lines


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_fastest_kernels_work_and_learn_what_eager_ones_learn(options: str, float8: bool, tmp_path: Path) -> None:
    plain, _, _ = trained(tmp_path, OPTIONS[options], {"compile": "never", "attention": "sdpa"})
    losses, _, lines = trained(tmp_path, OPTIONS[options], {"float8": float8})
    assert not [line for line in lines if "failed" in line]
    assert plain[0] == pytest.approx(math.log(VOCABULARY), abs=0.05) and plain[-1] < plain[0] - 0.5
    assert losses == pytest.approx(plain, abs=0.05 if float8 else 0.02)


@pytest.mark.parametrize("launch", [{}, {"compile": "never"}, {"float8": True}], ids=str)
def test_a_run_repeats_itself_and_goes_on_bit_for_bit(launch: dict[str, Any], tmp_path: Path) -> None:
    options = OPTIONS["modern"]
    losses, weights, _ = trained(tmp_path, options, launch)
    again, weights_again, _ = trained(tmp_path, options, launch)
    assert again == losses and same(weights, weights_again)

    work = checkpoint_store(open_backend(f"memory://{uuid.uuid4().hex}"), "base_checkpoint", {}, {}, "code")
    with pytest.raises(Cut):
        trained(tmp_path, options, launch, work, cut_after=5)
    rest, resumed, lines = trained(tmp_path, options, launch, work)
    assert rest == losses[4:] and same(weights, resumed), lines


def test_it_computes_in_bfloat16_on_this_gpu() -> None:
    with distributed_world(LaunchConfig(nproc=1)) as world:
        assert (world.device, world.compute_dtype) == (GPU.device, torch.bfloat16)
