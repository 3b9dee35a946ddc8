"""Writes one checkpoint at a time in a thread, while training continues.

Ranks do not communicate here, because a collective operation in this thread could mix with one of the training loop.
Instead, each rank leaves `rank-N.done.json`, and rank 0 commits when it has read all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any

from torch import Tensor

from aquarat_core.artifacts.errors import StoreError
from aquarat_core.artifacts.hashing import Digest
from aquarat_core.artifacts.weights import save_sharded
from aquarat_core.checkpointing.store import CheckpointManifest, CheckpointStore
from aquarat_core.runtime.scratch import scratch_folder

RANKS_TIMEOUT = 600.0
"""Seconds for which rank 0 waits for the files of the other ranks."""


@dataclass(frozen=True, slots=True)
class RankFiles:
    """Names of the files that one rank writes."""

    tensors: str
    """Stem of its tensor shards."""
    state: str
    """The rest of its state."""
    done: str
    """Marks that it has written everything, with the digests."""

    @classmethod
    def of(cls, rank: int) -> RankFiles:
        stem = f"rank-{rank:05d}"
        return cls(stem, f"{stem}.json", f"{stem}.done.json")


class BackgroundWriter:
    """At most one checkpoint in flight; the next `wait` raises an error that occurred in the thread."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread. Call `wait` for the previous one first."""
        assert self._thread is None, "a checkpoint is still being written"

        def run() -> None:
            try:
                work()
            except BaseException as e:
                self._error = e

        self._thread = Thread(target=run, name="checkpoint-writer")
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Block until nothing is in flight. Raises the thread's error, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def write_rank(store: CheckpointStore, folder: str, rank: int, tensors: Mapping[str, Tensor], tree: Any) -> None:
    """Write one rank's part of a checkpoint: its files, then its mark."""
    names = RankFiles.of(rank)
    with scratch_folder("checkpoint") as scratch:
        state_file = scratch / names.state
        state_file.write_text(json.dumps(tree))
        paths = [*save_sharded(scratch, tensors, names.tensors), state_file]
        written = {path.name: store.put(folder, path) for path in paths}
    store.write_json(folder, names.done, {name: [d.size, d.sha256, d.crc32c] for name, d in written.items()})


def commit_when_done(store: CheckpointStore, folder: str, ranks: int, step: int, wandb_id: str | None) -> None:
    """On rank 0: wait for every rank's mark, then write the commit."""
    files: dict[str, Digest] = {}
    deadline = time.monotonic() + RANKS_TIMEOUT
    for rank in range(ranks):
        while (marked := store.read_json(folder, RankFiles.of(rank).done)) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"rank {rank} did not write its share of {folder} within {RANKS_TIMEOUT:.0f} s: "
                    f"do all hosts reach {store.backend.uri}?"
                )
            time.sleep(0.05)
        files |= {name: Digest(*digest) for name, digest in marked.items()}
    store.commit(CheckpointManifest(folder, step, store.identity, wandb_id, files))


def prune(store: CheckpointStore, keep_last: int, keep_every: int | None) -> None:
    """Delete all checkpoints except the `keep_last` latest ones and the milestones, and leftovers of killed writers.

    Folders of later steps stay, because another rank may already be writing the next checkpoint.
    """
    complete = store.checkpoints()
    kept = {c.folder for c in complete[:keep_last]}
    kept |= {c.folder for c in complete if keep_every and c.step % keep_every == 0}
    for folder in list(store.folders()):
        if folder not in kept and store.step_of(folder) <= complete[0].step:
            store.remove(folder)
