"""RL on a GPU: it learns there, with recorded steps, and does the same twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.trainer import Trainer
from aquarat_core.runtime.distributed import World
from aquarat_core.tracking.metrics import MetricLog
from tests.factories import AQUA, context, guesser, reading_examples, reading_tokenizer, session
from tests.gpu.conftest import GPU, NEEDS_GPU
from tests.rl.test_learning import CONFIG, HELD_OUT

pytestmark = [NEEDS_GPU, pytest.mark.timeout(300)]
SINGLE = World(0, 1, GPU.device, torch.float32)


def policy(world: World) -> Transformer:
    start = guesser()
    model = Transformer(start.config, start.vocab_size, world.compute_dtype)
    model.load_state_dict(start.state_dict())
    return model.to(world.device)


def trained(folder: Path, world: World, steps: int) -> tuple[Trainer, dict[str, float], list[dict[str, float]]]:
    folder.mkdir()
    config = CONFIG.model_copy(update={"steps": steps})
    trainer = Trainer(policy(world), reading_tokenizer(), config, world, AQUA, reading_examples(320), HELD_OUT)
    log = MetricLog(folder / "metrics.jsonl", None)
    summary = trainer.run(session(config, context(folder), log, world))
    log.close()
    return trainer, summary, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("world", "difference"), [(SINGLE, 1e-4), (GPU, 1e-2)], ids=["float32", "bfloat16"])
def test_a_guesser_learns_to_read_and_the_sampler_agrees_with_the_trainer(
    world: World, difference: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, summary, rows = trained(tmp_path / "run", world, CONFIG.steps)
    assert summary["held_out_accuracy_before"] == 0.2 and summary["held_out_accuracy_after"] >= 0.95
    assert max(row["rl/sampler_logp_difference"] for row in rows if "rl/sampler_logp_difference" in row) < difference
    assert trainer.engine._runner._captured and not caplog.records


def test_it_does_the_same_twice(tmp_path: Path) -> None:
    (a, _, rows), (b, _, again) = (trained(tmp_path / name, GPU, 10) for name in ("a", "b"))

    def timeless(rows: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if not k.startswith("time/") and "seconds" not in k} for row in rows]

    assert timeless(rows) == timeless(again)
    for mine, other in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        assert torch.equal(mine, other)
