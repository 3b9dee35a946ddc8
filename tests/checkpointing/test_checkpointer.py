"""The room of checkpoints: what is saved comes back, what is damaged is passed over, another run is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquarat_core.artifacts import JobDir, weights
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import Checkpointer, CheckpointStore, Preempted, checkpoint_store, previous_wandb_id
from aquarat_core.checkpointing.state import HostBuffers, flatten, merge, unflatten
from aquarat_core.config import CheckpointConfig, ConfigError
from aquarat_core.stages.run import Superseded, refuse_if_superseded
from tests.factories import ONE

CONFIG = {"steps": 10, "optim": {"lr": 0.1}, "launch": {"nproc": 1}, "checkpoint": {}, "wandb": {}}


class Counter:
    """A part with a tensor and a number."""

    def __init__(self) -> None:
        self.weights, self.n = torch.zeros(3), 0

    def advance(self) -> None:
        self.weights, self.n = self.weights + 0.1, self.n + 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "n": self.n, "nested": {"half": self.weights.bfloat16(), "list": [1, "a"]}}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        assert state["nested"]["list"] == [1, "a"]
        self.weights, self.n = state["weights"], state["n"]


def checkpoints_of(
    name: str | None = None, config: Mapping[str, Any] = CONFIG, inputs: str = "d1", code: str = "c1"
) -> CheckpointStore:
    backend = open_backend(f"memory://{name or uuid.uuid4().hex}")
    return checkpoint_store(backend, "base_checkpoint", config, {"data": inputs}, code)


def checkpointer(
    where: CheckpointStore | None, part: Counter, lines: list[str] | None = None, **config: Any
) -> Checkpointer:
    settings = CheckpointConfig(**{"every_minutes": None} | config)
    say = lines.append if lines is not None else print
    return Checkpointer(where, settings, ONE, {"counter": part}, {}, say, wandb_id="base-run-1")


def advance(where: CheckpointStore, to: int, **config: Any) -> Counter:
    """Go on from what is saved until `to` steps are done."""
    part = Counter()
    with checkpointer(where, part, **config) as saves:
        for step in range(saves.restore(), to):
            part.advance()
            saves.after_step(step + 1)
    return part


def kept(where: CheckpointStore) -> list[int]:
    return [commit.step for commit in where.checkpoints()]


def test_states_come_apart_and_together() -> None:
    state = {"a": {"w": torch.arange(3), "n": 1.5}, "rows": ["x", {"y": None}], "scalar": torch.tensor(2.0)}
    tensors, tree = flatten(state)
    assert tensors.keys() == {"a/w", "scalar"}
    back = unflatten(tensors, json.loads(json.dumps(tree)))
    assert torch.equal(back["a"].pop("w"), torch.arange(3)) and back.pop("scalar") == 2.0
    assert back == {"a": {"n": 1.5}, "rows": ["x", {"y": None}]}
    with pytest.raises(AssertionError, match="keys of a must be strings"):
        flatten({"a": {0: 1}})


def test_shards_of_ranks_are_one_state() -> None:
    a = {"skipped": 2, "moments": {"x": {"m": 1}}}
    b = {"skipped": 2, "moments": {"y": {"m": 2}}}
    assert merge(a, b) == {"skipped": 2, "moments": {"x": {"m": 1}, "y": {"m": 2}}}


def test_a_copy_does_not_follow_what_it_was_taken_of() -> None:
    host, x = HostBuffers(), torch.ones(4)
    first = host.copy({"x": x})
    x.zero_()
    assert first["x"].tolist() == [1.0] * 4
    again = host.copy({"x": x, "y": torch.ones(2, dtype=torch.bfloat16)})
    assert again["x"].data_ptr() == first["x"].data_ptr() and again["y"].dtype == torch.bfloat16


def test_a_run_goes_on_where_it_was_saved() -> None:
    where = checkpoints_of()
    advance(where, 7, every_steps=3)
    assert kept(where) == [6, 3]
    part = Counter()
    with checkpointer(where, part) as saves:
        assert saves.restore() == 6
    assert part.n == 6 and torch.equal(part.weights, sum([torch.full((3,), 0.1)] * 6, torch.zeros(3)))
    assert torch.equal(advance(where, 10).weights, advance(checkpoints_of(), 10).weights)


def test_a_large_state_is_saved_in_shards_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", 15)  # two tensors of 12 bytes do not share one
    where = checkpoints_of()
    advance(where, 6, every_steps=3)
    files = set(where.checkpoints()[0].files)
    shards = {f for f in files if f.endswith(".safetensors")}
    assert len(shards) > 2 and "rank-00000.safetensors" not in shards
    assert files - shards == {"rank-00000.json", "rank-00000.safetensors.index.json"}
    assert torch.equal(advance(where, 10).weights, advance(checkpoints_of(), 10).weights)
    where.backend.delete(f"{where.checkpoints()[0].folder}/{min(shards)}")
    with checkpointer(where, part := Counter()) as saves:
        assert saves.restore() == 3, "a checkpoint that lacks a shard is passed over"
    assert part.n == 3


def test_the_last_ones_and_milestones_are_kept() -> None:
    where = checkpoints_of()
    advance(where, 12, every_steps=1, keep_last=2, keep_every_steps=5)
    assert kept(where) == [12, 11, 10, 5]
    assert {where.step_of(folder) for folder in where.folders()} == {12, 11, 10, 5}
    where.clear()
    assert list(where.backend.keys("")) == []


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes_with_the_next_save() -> None:
    where = checkpoints_of()
    advance(where, 4, every_steps=2)
    where.backend.write(f"{where.prefix}/00000004-dead0000/rank-00000.safetensors", b"half of a file")
    where.backend.write(f"{where.prefix}/00000099-dead0000/rank-00000.json", b"later: another rank may be writing it")
    assert advance(where, 4).n == 4 and kept(where) == [4, 2]
    advance(where, 6, every_steps=2)
    assert sorted(where.step_of(folder) for folder in where.folders()) == [4, 6, 99]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage: str) -> None:
    where, lines = checkpoints_of(), []
    advance(where, 6, every_steps=2)
    key = f"{where.checkpoints()[0].folder}/rank-00000.safetensors"
    if damage == "gone":
        where.backend.delete(key)
    else:
        where.backend.write(key, where.backend.read(key).data[:-1])
    part = Counter()
    with checkpointer(where, part, lines) as saves:
        assert saves.restore() == 4
    assert part.n == 4
    assert lines[0].endswith("is damaged: trying the checkpoint before it") and "resuming after step 4" in lines[1]


def test_the_place_depends_on_what_decides_the_result_alone() -> None:
    one = checkpoints_of("same")
    moved = CONFIG | {"launch": {"nproc": 8, "compile": "never", "attention": "sdpa", "float8": False}}
    moved["launch"] |= {"bucket_mb": 1.0, "two_level": True, "gather_dtype": "float32"}
    moved |= {"checkpoint": {"every_steps": 1}, "wandb": {"mode": "disabled"}, "samples": {"every": 7}}
    assert checkpoints_of("same", moved).prefix == one.prefix
    in_float32 = CONFIG | {"launch": {"nproc": 1, "dtype": "float32"}}
    in_float8 = CONFIG | {"launch": {"nproc": 1, "float8": True}}
    in_rounded_weights = CONFIG | {"launch": {"nproc": 1, "gather_dtype": "bfloat16"}}
    for other in (
        checkpoints_of("same", CONFIG | {"steps": 11}),
        checkpoints_of("same", in_float32),
        checkpoints_of("same", in_float8),
        checkpoints_of("same", in_rounded_weights),
        checkpoints_of("same", inputs="d2"),
        checkpoints_of("same", code="c2"),
    ):
        assert other.prefix != one.prefix
    assert one.prefix.startswith("work/base_checkpoint/") and len(one.prefix.rpartition("/")[2]) == 16


def test_the_state_of_another_run_is_refused_with_both_values() -> None:
    one = checkpoints_of("refused")
    advance(one, 4, every_steps=2)
    key = one.prefix.rpartition("/")[2]
    slower = checkpoints_of("refused", CONFIG | {"optim": {"lr": 0.05}}, inputs="d2")
    with pytest.raises(ConfigError) as e, checkpointer(slower, Counter(), resume=key) as saves:
        saves.restore()
    assert "config.optim.lr: 0.1 in the checkpoint, 0.05 now" in str(e.value)
    assert "inputs.data: 'd1' in the checkpoint, 'd2' now" in str(e.value)
    # Other code may go on with it, if it is told to.
    newer, part = checkpoints_of("refused", code="c2"), Counter()
    with checkpointer(newer, part, resume=one.prefix) as saves:
        assert saves.restore() == 4
    assert part.n == 4
    with (
        pytest.raises(ConfigError, match="names 'nothing', where memory://refused has no"),
        checkpointer(newer, Counter(), resume="nothing") as saves,
    ):
        saves.restore()
    assert advance(one, 4, resume="never").n == 4


def test_the_number_of_ranks_and_what_follows_from_it_are_no_part_of_the_key() -> None:
    divided = {"launch": {"nproc": 8, "nodes": 4, "min_nodes": 1}, "micro_batch_rows": 32, "rollout_rows": 128}
    assert checkpoints_of(config=CONFIG | divided).prefix == checkpoints_of().prefix
    exact = checkpoints_of(config=CONFIG | {"launch": {"float8": True}})
    assert checkpoints_of(config=CONFIG | {"launch": {"float8": True}, "micro_batch_rows": 4}).prefix != exact.prefix


def test_an_older_key_with_the_rows_of_a_pass_is_taken_where_it_is_named() -> None:
    now = checkpoints_of("older", CONFIG | {"micro_batch_rows": 4})
    identity = {**now.identity, "config": {**now.identity["config"], "micro_batch_rows": 8}}
    before = replace(now, prefix=f"work/base_checkpoint/{'0' * 16}", identity=identity)
    advance(before, 2, every_steps=2)
    with checkpointer(now, part := Counter(), resume=before.prefix) as saves:
        assert saves.restore() == 2
    assert part.n == 2


def test_a_part_that_was_not_saved_is_refused() -> None:
    where = checkpoints_of()
    advance(where, 2, every_steps=2)
    settings = CheckpointConfig()
    with (
        pytest.raises(ConfigError, match="saved by another version of the code, without curriculum"),
        Checkpointer(where, settings, ONE, {"counter": Counter(), "curriculum": Counter()}, {}, print) as saves,
    ):
        saves.restore()


@pytest.mark.parametrize("saved", [True, False])
def test_sigterm_saves_and_stops_after_the_step(saved: bool) -> None:
    where, part = checkpoints_of() if saved else None, Counter()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="stopped by SIGTERM after step 1"), checkpointer(where, part) as saves:
        part.advance()
        os.kill(os.getpid(), signal.SIGTERM)
        saves.after_step(1)
    assert signal.getsignal(signal.SIGTERM) is before
    if where:
        assert kept(where) == [1] and advance(where, 1).n == 1


@pytest.mark.parametrize(("done", "said"), [(0, "there was nothing to save yet"), (1, "its state is saved")])
def test_a_step_that_is_given_up_says_what_is_kept(done: int, said: str) -> None:
    where, part = checkpoints_of(), Counter()
    with pytest.raises(Preempted, match=f"after step {done}; {said}"), checkpointer(where, part) as saves:
        saves.restore()
        saves.end_preempted(done)
    assert kept(where) == ([done] if done else [])


def test_an_error_of_the_background_writer_reaches_the_run(tmp_path: Path) -> None:
    where = checkpoint_store(open_backend(f"file://{tmp_path}/store"), "base_checkpoint", CONFIG, {}, "c")
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(ValueError, match="store"), checkpointer(where, Counter(), every_steps=1) as saves:
        saves.after_step(1)
        saves.after_step(2)


def test_nothing_is_committed_once_another_attempt_has_taken_over(tmp_path: Path) -> None:
    job = JobDir(open_backend(f"file://{tmp_path}/store"), "jobs/run/base_checkpoint/1")
    where = replace(checkpoints_of(), fence=lambda: refuse_if_superseded(job))
    part = advance(where, 2, every_steps=2)
    assert kept(where) == [2]
    job.create_json("superseded.json", {"by": 2})
    with pytest.raises(Superseded, match="attempt 2 has taken this step over"), checkpointer(where, part) as saves:
        saves.save(4)
    assert kept(where) == [2]


def test_generators_go_on() -> None:
    where = checkpoints_of()

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    with checkpointer(where, Counter()) as saves:
        saves.save(1)
    drawn = draw()
    with checkpointer(where, Counter()) as saves:
        saves.restore()
        assert draw() == drawn


def test_the_wandb_run_is_continued() -> None:
    where = checkpoints_of()
    assert previous_wandb_id(where, "auto") is None is previous_wandb_id(None, "auto")
    advance(where, 2, every_steps=2)
    assert previous_wandb_id(where, "auto") == "base-run-1" and previous_wandb_id(where, "never") is None


def test_what_other_code_has_saved_is_said() -> None:
    one = replace(checkpoints_of("codes"), code_version="1" * 64)
    advance(one, 4, every_steps=2)

    def restored(where: CheckpointStore, **config: Any) -> tuple[int, list[str]]:
        lines: list[str] = []
        with checkpointer(where, Counter(), lines, **config) as saves:
            return saves.restore(), lines

    done, lines = restored(one)
    assert done == 4 and len(lines) == 1, "the same code says nothing more"
    done, lines = restored(replace(one, code_version="2" * 64))
    assert done == 4 and "saved by code version 111111111111, and this is 222222222222" in lines[1]
    other = checkpoints_of("codes", code="c2")
    done, lines = restored(other)
    key = one.prefix.rpartition("/")[2]
    assert done == 0 and lines[0].endswith(
        f"(c1, now c2): this run does not use it. To continue from it, set checkpoint.resume to '{key}'"
    )
    assert restored(other, resume="never") == (0, [])
    done, lines = restored(other, resume=key)
    assert done == 4 and "by other code that affects the result (c1, now c2)" in lines[1]
