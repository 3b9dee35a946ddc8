"""Decides when to take a checkpoint, takes it, and restores the latest one."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from aquarat_core.artifacts.weights import load_sharded
from aquarat_core.checkpointing import state
from aquarat_core.checkpointing.store import CheckpointManifest, CheckpointStore
from aquarat_core.checkpointing.writer import (
    BackgroundWriter,
    RankFiles,
    commit_when_done,
    prune,
    write_rank,
)
from aquarat_core.config import CheckpointConfig, ConfigError
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.preemption import Preempted
from aquarat_core.runtime.scratch import scratch_folder

PARTS, SHARDS = "parts", "shards"
"""Keys of replicated and sharded state in a rank's file."""
GRACE_VARIABLE = "AQUARAT_GRACE_SECONDS"
"""Environment variable in which the launcher states how long after SIGTERM the stage is killed."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a checkpoint holds: nested mappings of tensors and JSON values.

    The attribute `former_names` lists the names that it has in older checkpoints.
    """

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


class Checkpointer:
    """The checkpoints of one run on this rank. Without a store nothing is saved, but SIGTERM still ends the loop.

    `replicated` objects are equal on all ranks and written by rank 0; each rank writes its part of `sharded` objects.
    """

    def __init__(
        self,
        store: CheckpointStore | None,
        config: CheckpointConfig,
        world: World,
        replicated: Mapping[str, Stateful],
        sharded: Mapping[str, Stateful],
        log: Callable[[str], None],
        wandb_id: str | None = None,
    ) -> None:
        self.store, self.config, self.world, self.log, self.wandb_id = store, config, world, log, wandb_id
        self._rng = _RngState(world)
        self.replicated, self.sharded = dict(replicated), {**sharded, "rng": self._rng}
        self.blocked_seconds = 0.0
        """Seconds that training paused for checkpoints."""
        self.saved = 0
        self._writer, self._buffers = BackgroundWriter(), state.HostBuffers()
        self._attempt = _agreed_name(world)
        self._asked = False
        self._saved_step = 0
        """Steps done in the latest saved or restored state."""
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
        """Load the latest complete checkpoint and return the steps it had done; 0 if there is none.

        A damaged checkpoint is skipped in favor of the previous one. Raises `ConfigError` if `resume` names a run that
        trained on something else, or if the ranks do not find the same checkpoint.
        """
        done = self._saved_step = self._restore_latest()
        if int(self.world.sum(torch.tensor(done, device=self.world.device))) != done * self.world.size:
            raise ConfigError(
                f"rank {self.world.rank} found the state after step {done}, but another rank found a different step: "
                "is an earlier attempt at this run still running? End it, then start this one again"
            )
        self._rng.update()
        return done

    def _restore_latest(self) -> int:
        if self.store is None:
            return 0
        manifests = resumable(self.store, self.config.resume)
        if not manifests and self.config.resume == "auto":
            for line in self.store.left_by_other_code():
                self.log(line)
        for manifest in manifests:
            with scratch_folder("resume") as scratch:
                if self.store.fetch(manifest, scratch):
                    self._load(manifest, scratch)
                    self.log(f"resuming after step {manifest.step} from {self.store.backend.uri}/{manifest.folder}")
                    if said := self.store.other_code(manifest):
                        self.log(said)
                    return manifest.step
            self.log(f"{manifest.folder} is damaged: trying the checkpoint before it")
        return 0

    def after_step(self, done: int) -> None:
        """Call after every step with the number of steps done. Saves when due; all ranks decide the same.

        Raises `Preempted`, with everything saved, if any rank received SIGTERM.
        """
        self._rng.update()
        now = time.monotonic()
        minutes, steps = self.config.every_minutes, self.config.every_steps
        by_clock = self.world.rank == 0 and minutes is not None and now - self._saved_at >= 60 * minutes
        flags = torch.tensor([float(self._asked), float(by_clock)], device=self.world.device)
        asked, due = (bool(flag) for flag in self.world.totals(flags))
        if asked or due or (steps is not None and done % steps == 0):
            self.save(done)
        if asked:
            self._end(done)

    def stop(self) -> bool:
        """Whether this rank received SIGTERM. A step calls this between its parts and is abandoned if so.

        Warns once if two calls are further apart than the host's grace period: SIGTERM would be noticed too late.
        """
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at > self._grace:
            self.log(
                f"warning: SIGTERM is noticed between the parts of a step, and one part took "
                f"{now - self._looked_at:.0f} s, but this host only allows {self._grace:.0f} s: a stop loses what was "
                "not saved; raise the host's grace_seconds, or lower micro_batch_rows or the size of evaluations"
            )
            self._grace = float("inf")
        self._looked_at = now
        return self._asked

    def any_stops(self) -> bool:
        """Whether any rank received SIGTERM. All ranks call this at the same point and get the same answer."""
        flag = torch.tensor(float(self.stop()), device=self.world.device)
        return bool(self.world.sum(flag))

    def end_preempted(self, done: int) -> NoReturn:
        """End a run whose next step all ranks have abandoned: save the state after `done` steps if it is not saved yet,
        and raise `Preempted`.

        The checkpointed objects must not have changed since those steps.
        """
        if done > self._saved_step:
            self.save(done)
        self._end(done)

    def _end(self, done: int) -> NoReturn:
        self._writer.wait()
        if self.store is None:
            kept = "none of it is kept"
        elif self._saved_step:
            kept = "its state is saved: start it again to continue"
        else:
            kept = "there was nothing to save yet: start it again from the beginning"
        raise Preempted(f"stopped by SIGTERM after step {done}; {kept}")

    def save(self, done: int) -> None:
        """Take a checkpoint: returns once the state is copied; the copy is then written in the background."""
        if self.store is None:
            return
        started = time.monotonic()
        self._writer.wait()
        replicated = self.replicated if self.world.rank == 0 else {}
        tensors, tree = state.flatten(
            {
                PARTS: {name: part.state_dict() for name, part in replicated.items()},
                SHARDS: {name: part.state_dict() for name, part in self.sharded.items()},
            }
        )
        copied, tree = self._buffers.copy(tensors), json.loads(json.dumps(tree))
        store, folder, rank = self.store, self.store.folder(done, self._attempt), self.world.rank

        def write() -> None:
            write_rank(store, folder, rank, copied, tree)
            if rank == 0:
                commit_when_done(store, folder, self.world.size, done, self.wandb_id)
                prune(store, self.config.keep_last, self.config.keep_every_steps)

        self._writer.start(write)
        self._saved_step = done
        self._saved_at = time.monotonic()
        self.saved += 1
        self.blocked_seconds += self._saved_at - started

    def _load(self, manifest: CheckpointManifest, folder: Path) -> None:
        states: list[Any] = []
        while (names := RankFiles.of(len(states))).state in manifest.files:
            tree = json.loads((folder / names.state).read_text())
            states.append(state.unflatten(load_sharded(folder, names.tensors), tree))
        merged = reduce(state.merge, states)
        for kind, mine in ((PARTS, self.replicated), (SHARDS, self.sharded)):
            found = {name: _saved_as(name, part, merged[kind]) for name, part in mine.items()}
            if missing := sorted(name for name, key in found.items() if key is None):
                raise ConfigError(
                    f"{manifest.folder} was saved by another version of the code, without {', '.join(missing)}: "
                    "set checkpoint.resume to 'never' to train from the beginning"
                )
            for name, part in mine.items():
                part.load_state_dict(merged[kind][found[name]])

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True


def _saved_as(name: str, part: Stateful, saved: Mapping[str, Any]) -> str | None:
    """The key under which the state of `part` was saved, or None if it was not."""
    names: tuple[str, ...] = (name, *getattr(part, "former_names", ()))
    return next((key for key in names if key in saved), None)


def resumable(store: CheckpointStore, resume: str) -> list[CheckpointManifest]:
    """Checkpoints from which a run with this `checkpoint.resume` may continue, the latest first.

    Raises `ConfigError` if it names a run without a checkpoint, or one that trained on something else.
    """
    if resume == "never":
        return []
    if resume == "auto":
        return store.checkpoints()
    found = store.at(resume).checkpoints()
    if not found:
        raise ConfigError(f"checkpoint.resume names {resume!r}, where {store.backend.uri} has no checkpoint")
    store.refuse_another_run(found[0])
    return found


def previous_wandb_id(store: CheckpointStore | None, resume: str) -> str | None:
    """Id of the W&B run that a resumed run continues; None if there is nothing to resume."""
    found = resumable(store, resume) if store else []
    return found[0].wandb_id if found else None


class _RngState:
    """The states of the generators of Python, NumPy and torch, for code that draws from them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[str, Any] | None = None

    def update(self) -> None:
        """Record the current states. They stay those of the last completed step, even if the next one is abandoned."""
        self._kept = self._now()

    def state_dict(self) -> dict[str, Any]:
        return self._kept or self._now()

    def _now(self) -> dict[str, Any]:
        # The other return type is only for callers that ask for it.
        state_now = cast("tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state())
        kind, keys, position, has_gauss, gauss = state_now
        mine = {
            "python": json.dumps(random.getstate()),
            "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
            "numpy_keys": torch.as_tensor(keys.astype(np.int64)),
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
    """Eight hex digits that identify this start of the run, the same on all ranks."""
    drawn = uuid.uuid4().int >> 96 if world.rank == 0 else 0
    return f"{int(world.sum(torch.tensor(drawn, dtype=torch.long, device=world.device))):08x}"
