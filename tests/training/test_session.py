"""The step loop that all training stages share, with a counter for a model."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import CheckpointStore, Preempted, checkpoint_store
from aquarat_core.config import CheckpointConfig, TrainConfig
from aquarat_core.runtime.preemption import Abandoned
from aquarat_core.tracking.context import DetachedContext
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.callbacks import Callback, TrainingStep
from aquarat_core.training.session import StepLoop
from tests.factories import session


class Counter:
    """Stands for model, optimizer and any other state."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.total = state_dict["total"].clone()


class Seen(Callback):
    """A callback without state."""

    def __init__(self, name: str = "seen") -> None:
        self.name, self.steps = name, list[int]()

    def before_training(self, step: TrainingStep) -> None:
        self.steps.append(step.done)
        step.metrics["start"] = 1.0

    def after_step(self, step: TrainingStep) -> None:
        self.steps.append(step.done)


class Doubled(Counter, Callback):
    """A callback with state, under a name of its own."""

    name = "doubled"
    former_names = ("oldname",)

    def after_step(self, step: TrainingStep) -> None:
        self.total = self.total + 2 * step.done
        step.metrics["doubled"] = float(self.total)


class Run:
    """One start of a run of `total` steps; `body` is called in each."""

    def __init__(self, folder: Path, work: CheckpointStore | None, total: int = 6) -> None:
        self.counter, self.optimizer, self.doubled, self.seen = Counter(), Counter(), Doubled(), Seen()
        self.ctx = DetachedContext(folder, work)
        self.log = MetricLog(folder / "metrics.jsonl", None)
        checkpoint = CheckpointConfig(every_minutes=None, every_steps=2)
        self.session = session(TrainConfig(steps=total, checkpoint=checkpoint), self.ctx, self.log)

    def go(self, body: Callable[[TrainingStep, StepLoop], None] = lambda step, loop: None) -> list[dict[str, float]]:
        state, sharded = {"model": self.counter}, {"updater": self.optimizer}
        with self.session.loop(state, sharded, (self.seen, self.doubled), ("loss",)) as loop:
            for step in loop:
                body(step, loop)
                self.counter.total = self.counter.total + step.index
                step.metrics["loss"] = float(self.counter.total)
        return self.rows()

    def rows(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.ctx.extras_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def work() -> CheckpointStore:
    return checkpoint_store(open_backend(f"memory://{uuid.uuid4().hex}"), "base_checkpoint", {}, {}, "code")


def fail_at(done: int) -> Callable[[TrainingStep, StepLoop], None]:
    def body(step: TrainingStep, loop: StepLoop) -> None:
        if step.done == done:
            raise KeyError("the machine is gone")

    return body


def saved_names(work: CheckpointStore) -> dict[str, set[str]]:
    """Names of the replicated and sharded state in the latest checkpoint."""
    tree = work.read_json(work.checkpoints()[0].folder, "rank-00000.json")
    assert tree is not None
    return {kind: set(tree[kind]) for kind in ("parts", "shards")}


def rename_saved(work: CheckpointStore, renamed: Mapping[str, str]) -> None:
    """Write the latest checkpoint anew with other names of its replicated state, as another version saved it."""
    (manifest, *_) = work.checkpoints()
    tree = work.read_json(manifest.folder, "rank-00000.json")
    assert tree is not None
    tree["parts"] = {renamed.get(name, name): state for name, state in tree["parts"].items()}
    digest = work.write_json(manifest.folder, "rank-00000.json", tree)
    key = f"{manifest.folder}/commit.json"
    found = work.backend.read(key)
    assert found is not None
    commit = json.loads(found.data)
    commit["files"]["rank-00000.json"] = [digest.size, digest.sha256, digest.crc32c]
    work.backend.write(key, json.dumps(commit).encode())


def test_body_callbacks_and_record_come_in_their_order(tmp_path: Path) -> None:
    run = Run(tmp_path, None, total=3)
    assert run.go() == [
        {"step": 0, "start": 1.0},
        {"step": 1, "loss": 0.0, "doubled": 2.0},
        {"step": 2, "loss": 1.0, "doubled": 6.0},
        {"step": 3, "loss": 3.0, "doubled": 12.0},
    ]
    assert run.seen.steps == [0, 1, 2, 3]


def test_a_run_that_broke_off_continues_as_if_nothing_had_been(tmp_path: Path, work: CheckpointStore) -> None:
    undisturbed = Run(tmp_path, None).go()
    with pytest.raises(KeyError):
        Run(tmp_path, work).go(fail_at(6))
    again = Run(tmp_path, work)
    assert again.go() == undisturbed
    assert again.seen.steps == [5, 6], "a resumed run does not begin anew"


def test_state_has_stable_names_and_who_has_none_is_not_saved(tmp_path: Path, work: CheckpointStore) -> None:
    Run(tmp_path, work, total=2).go()
    assert saved_names(work) == {"parts": {"model", "doubled", "record"}, "shards": {"updater", "rng"}}


def test_two_of_one_name_are_refused_before_anything_is_saved(tmp_path: Path, work: CheckpointStore) -> None:
    run = Run(tmp_path, work)
    for twice in (Seen("doubled"), Seen("model"), Seen("record")):
        with (
            pytest.raises(AssertionError, match=f"two parts of a run's state are named {twice.name}"),
            run.session.loop({"model": run.counter}, {}, (run.doubled, twice), ()),
        ):
            pass
    assert work.checkpoints() == []


def test_a_checkpoint_with_a_former_name_is_read(tmp_path: Path, work: CheckpointStore) -> None:
    """RL's record was saved as `log` once."""
    undisturbed = Run(tmp_path, None).go()
    with pytest.raises(KeyError):
        Run(tmp_path, work).go(fail_at(6))
    rename_saved(work, {"doubled": "oldname", "record": "log"})
    assert Run(tmp_path, work).go() == undisturbed


def test_a_checkpoint_without_a_name_is_refused_with_the_name(tmp_path: Path, work: CheckpointStore) -> None:
    Run(tmp_path, work, total=2).go()
    rename_saved(work, {"doubled": "unknown"})
    with pytest.raises(ValueError, match="saved by another version of the code, without doubled: set checkpoint"):
        Run(tmp_path, work).go()


def test_sigterm_ends_after_the_step_with_its_state_saved(tmp_path: Path, work: CheckpointStore) -> None:
    undisturbed = Run(tmp_path, None).go()

    def signalled(step: TrainingStep, loop: StepLoop) -> None:
        if step.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            assert loop.stop() and loop.any_stops()

    with pytest.raises(Preempted, match="stopped by SIGTERM after step 3; its state is saved"):
        Run(tmp_path, work).go(signalled)
    assert Run(tmp_path, work).go() == undisturbed


def test_a_step_that_is_given_up_leaves_the_one_before(tmp_path: Path, work: CheckpointStore) -> None:
    undisturbed = Run(tmp_path, None).go()

    def abandoned(step: TrainingStep, loop: StepLoop) -> None:
        if step.done == 4:
            raise Abandoned

    with pytest.raises(Preempted, match="after step 3; its state is saved"):
        Run(tmp_path, work).go(abandoned)
    assert [manifest.step for manifest in work.checkpoints()] == [3, 2]
    assert Run(tmp_path, work).go() == undisturbed
