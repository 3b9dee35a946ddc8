"""Decides when a checkpoint is taken, takes it, and restores the latest one."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import numpy as np
import torch

from aquarat_core.artifacts.weights import load_sharded
from aquarat_core.checkpointing import state
from aquarat_core.checkpointing.area import Commit, WorkArea
from aquarat_core.checkpointing.writer import (
    BackgroundWriter,
    RankFiles,
    commit_when_done,
    prune,
    write_rank,
)
from aquarat_core.config import CheckpointConfig, ConfigError
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.runtime.stopped import Abandoned, Stopped

GRACE_VARIABLE = "AQUARAT_GRACE_SECONDS"
"""Environment variable in which the launcher says how long after SIGTERM the stage is killed."""


class Part(Protocol):
    """Something whose state a checkpoint holds: nested mappings of tensors and JSON values."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


class Checkpointer:
    """The checkpoints of one run on this rank; without an area nothing is saved, and SIGTERM still ends the loop.

    `parts` are equal on all ranks and written by rank 0, `shards` are written by each rank for itself.
    """

    def __init__(
        self,
        area: WorkArea | None,
        config: CheckpointConfig,
        world: World,
        parts: Mapping[str, Part],
        shards: Mapping[str, Part],
        log: Callable[[str], None],
        wandb_id: str | None = None,
    ) -> None:
        self.area, self.config, self.world, self.log, self.wandb_id = area, config, world, log, wandb_id
        self._rng = _Rng(world)
        self.parts, self.shards = dict(parts), {**shards, "rng": self._rng}
        self.blocked_seconds = 0.0
        """Seconds that training stood still for checkpoints."""
        self.saved = 0
        self._writer, self._host = BackgroundWriter(), state.HostCopy()
        self._attempt = _agreed_name(world)
        self._asked = False
        self._saved_step = 0
        """Steps done in the latest state that was saved or restored."""
        self._grace = float(os.environ.get(GRACE_VARIABLE) or "inf")
        self._looked_at: float | None = None
        self._saved_at = time.monotonic()
        self._handler: Any = None

    def __enter__(self) -> Checkpointer:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        try:
            self._writer.wait()
        except Exception:
            if kind is None:
                raise

    def restore(self) -> int:
        """Load the latest complete checkpoint into all parts and return the steps it had done; 0 where there is none.

        A damaged checkpoint is passed over for the one before. Raises `ConfigError` if `resume` names a run that
        trained on something else, or if the ranks do not find the same one.
        """
        done = self._saved_step = self._restore_latest()
        if int(self.world.sum(torch.tensor(done, device=self.world.device))) != done * self.world.size:
            raise ConfigError(
                f"rank {self.world.rank} found the state after step {done}, another rank that of another step: "
                "is an earlier attempt at this run still going? End it, then start this one again"
            )
        self._rng.remember()
        return done

    def _restore_latest(self) -> int:
        if self.area is None:
            return 0
        for commit in resumable(self.area, self.config.resume):
            with scratch_folder("resume") as scratch:
                if self.area.fetch(commit, scratch):
                    self._load(commit, scratch)
                    self.log(f"resuming after step {commit.step} from {self.area.backend.uri}/{commit.folder}")
                    return commit.step
            self.log(f"{commit.folder} is damaged: trying the checkpoint before it")
        return 0

    def after_step(self, done: int) -> None:
        """Call after every step with the number of steps done. Saves when due; all ranks decide alike.

        Raises `Stopped`, with everything saved, if any rank was sent SIGTERM.
        """
        self._rng.remember()
        now = time.monotonic()
        minutes, steps = self.config.every_minutes, self.config.every_steps
        by_clock = self.world.rank == 0 and minutes is not None and now - self._saved_at >= 60 * minutes
        flags = torch.tensor([float(self._asked), float(by_clock)], device=self.world.device)
        asked, due = (bool(flag) for flag in self.world.sum(flags).tolist())
        if asked or due or (steps is not None and done % steps == 0):
            self.save(done)
        if asked:
            self._end(done)

    def stop(self) -> bool:
        """Whether this rank was sent SIGTERM; a step asks between its parts, and is given up when it was.

        Says once when two of these questions are further apart than the host's grace: SIGTERM comes too late then.
        """
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at > self._grace:
            self.log(
                f"warning: SIGTERM is heard between the parts of a step, and one of them took "
                f"{now - self._looked_at:.0f} s, but this host grants {self._grace:.0f} s to end in: a stop loses what "
                "was not saved; raise the host's grace_seconds, or lower micro_batch_rows or the size of evaluations"
            )
            self._grace = float("inf")
        self._looked_at = now
        return self._asked

    def any_stops(self) -> bool:
        """Whether any rank was sent SIGTERM; every rank calls this at the same place, and all get the same answer."""
        flag = torch.tensor(float(self.stop()), device=self.world.device)
        return bool(self.world.sum(flag))

    @contextmanager
    def step(self, done: int) -> Iterator[None]:
        """A step that may be given up: on `Abandoned`, which all ranks raise, the state after `done` steps is saved.

        Raises `Stopped` then. What the checkpoint holds must not have changed when `Abandoned` is raised.
        """
        try:
            yield
        except Abandoned:
            if done > self._saved_step:
                self.save(done)
            self._end(done)

    def _end(self, done: int) -> NoReturn:
        self._writer.wait()
        if self.area is None:
            kept = "nothing of it is kept"
        elif self._saved_step:
            kept = "its state is saved: start it again to go on"
        else:
            kept = "there was nothing to save yet: start it again from the beginning"
        raise Stopped(f"stopped by SIGTERM after step {done}; {kept}")

    def save(self, done: int) -> None:
        """Take a checkpoint: returns once it is copied, and it is written meanwhile."""
        if self.area is None:
            return
        started = time.monotonic()
        self._writer.wait()
        parts = {name: part.state_dict() for name, part in (self.parts if self.world.rank == 0 else {}).items()}
        shards = {name: part.state_dict() for name, part in self.shards.items()}
        tensors, skeleton = state.flatten({"parts": parts, "shards": shards})
        copied, skeleton = self._host.take(tensors), json.loads(json.dumps(skeleton))
        area, folder, rank = self.area, self.area.folder(done, self._attempt), self.world.rank

        def write() -> None:
            write_rank(area, folder, rank, copied, skeleton)
            if rank == 0:
                commit_when_done(area, folder, self.world.size, done, self.wandb_id)
                prune(area, self.config.keep_last, self.config.keep_every_steps)

        self._writer.start(write)
        self._saved_step = done
        self._saved_at = time.monotonic()
        self.saved += 1
        self.blocked_seconds += self._saved_at - started

    def _load(self, commit: Commit, folder: Path) -> None:
        states = []
        while (names := RankFiles.of(len(states))).state in commit.files:
            skeleton = json.loads((folder / names.state).read_text())
            states.append(state.unflatten(load_sharded(folder, names.tensors), skeleton))
        merged = reduce(state.merge, states)
        for kind, mine in (("parts", self.parts), ("shards", self.shards)):
            if missing := mine.keys() - merged[kind].keys():
                raise ConfigError(
                    f"{commit.folder} was saved by another version of the code, without "
                    f"{', '.join(sorted(missing))}: set checkpoint.resume to 'never' to train from the beginning"
                )
            for name, part in mine.items():
                part.load_state_dict(merged[kind][name])

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True


def resumable(area: WorkArea, resume: str) -> list[Commit]:
    """Checkpoints that a run with this `checkpoint.resume` may go on from, the latest first.

    Raises `ConfigError` if it names a run with no checkpoint, or one that trained on something else.
    """
    if resume == "never":
        return []
    if resume == "auto":
        return area.commits()
    commits = area.at(resume).commits()
    if not commits:
        raise ConfigError(f"checkpoint.resume names {resume!r}, where {area.backend.uri} has no checkpoint")
    area.refuse_another_run(commits[0])
    return commits


def continued_run(area: WorkArea | None, resume: str) -> str | None:
    """Id of the W&B run that a resumed run goes on with; None where there is nothing to resume."""
    commits = resumable(area, resume) if area else []
    return commits[0].wandb_id if commits else None


class _Rng:
    """The states of the generators of Python, NumPy and torch, for code that draws from them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[str, Any] | None = None

    def remember(self) -> None:
        """Keep the states as they are: those of the last completed step, also where the next one is given up."""
        self._kept = self._now()

    def state_dict(self) -> dict[str, Any]:
        return self._kept or self._now()

    def _now(self) -> dict[str, Any]:
        kind, keys, position, has_gauss, gauss = np.random.get_state()
        mine = {
            "python": json.dumps(random.getstate()),
            "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
            "numpy_keys": torch.from_numpy(keys.astype(np.int64)),
            "torch": torch.get_rng_state(),
        }
        if self._world.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self._world.device)
        return {f"rank{self._world.rank}": mine}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        mine = state_dict.get(f"rank{self._world.rank}")
        if mine is None:
            return
        version, internal, gauss_next = json.loads(mine["python"])
        random.setstate((version, tuple(internal), gauss_next))
        kind, position, has_gauss, gauss = mine["numpy"]
        np.random.set_state((kind, mine["numpy_keys"].numpy().astype(np.uint32), position, has_gauss, gauss))
        torch.set_rng_state(mine["torch"])
        if "cuda" in mine and self._world.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"], self._world.device)


def _agreed_name(world: World) -> str:
    """Eight hex digits of this start of the run, the same on all ranks."""
    drawn = uuid.uuid4().int >> 96 if world.rank == 0 else 0
    return f"{int(world.sum(torch.tensor(drawn, dtype=torch.long, device=world.device))):08x}"
