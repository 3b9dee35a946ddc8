"""How a stage works shard by shard: what is in the store is used, and the rest is made by processes of this machine, or
by a Ray cluster if `AQUARAT_RAY_ADDRESS` names one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import ray_address
from aquarat_core.sharding.driver import make_shards
from aquarat_core.sharding.executor import Executor
from aquarat_core.sharding.inline import Inline
from aquarat_core.sharding.processes import Processes
from aquarat_core.sharding.ray_cluster import RayCluster
from aquarat_core.sharding.records import ShardRecord, ShardStore
from aquarat_core.sharding.spec import Counts, ShardSpec, Source, Stored, function_of, work_here
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.code_version import sources

SMALL = 32 << 20
"""If the missing shards have fewer bytes than this together, they are made in this process, because starting others
would take longer."""


@dataclass(frozen=True, slots=True)
class Made:
    """A shard that is done."""

    counts: Counts
    read: Callable[[str], bytes]
    """Returns the content of one of its files."""
    publish: Callable[[str, str], None]
    """`publish(file, path)`: makes one of its files the file `path` of the stage's artifact."""

    def number(self, name: str) -> int:
        """One of the counts, as a whole number."""
        return int(self.counts[name] or 0)


@cache
def function_version(entry: str) -> str:
    """The digest of the sources that decide the result of a shard function of this checkout."""
    return sources().function_version(entry)


def shard_spec(
    name: str,
    function: str,
    size: int,
    *,
    settings: Mapping[str, Any] | None = None,
    aside: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Source | Stored] | None = None,
) -> ShardSpec:
    """A shard of a function of this checkout; `ShardSpec` says what the parameters are."""
    return ShardSpec(name, function, function_version(function), settings or {}, aside or {}, inputs or {}, size)


def made_shards(ctx: StageContext, specs: Sequence[ShardSpec], processes: int | None = None) -> Iterator[Made]:
    """The shards in order, made if they are not in the store; `processes` is one per core by default.

    Without a store for them, each is made when its turn comes, in this process. Raises what a shard function raises,
    or the driver.
    """
    if not specs:
        return
    if ctx.shards is None:
        yield from _made_here(ctx, specs)
        return
    shards = ShardStore(ctx.shards, ctx.spec.stage)
    records = make_shards(
        specs,
        shards,
        lambda missing: _executor(shards, missing, processes),
        progress=lambda done, total: ctx.progress(done, total, unit="shards"),
        log=ctx.log,
    )
    for record in records:
        yield _made_of(ctx, ctx.shards, record)


def _executor(shards: ShardStore, missing: Sequence[ShardSpec], processes: int | None) -> Executor:
    cores = len(os.sched_getaffinity(0))
    slots = min(processes or cores, len(missing))
    address = ray_address()
    # A store in memory belongs to this process alone.
    small = sum(spec.size for spec in missing) < SMALL or shards.store.uri.startswith("memory:")
    if small or (slots == 1 and not address):
        return Inline(shards)
    if address:
        return RayCluster(shards, address, min(processes or len(missing), len(missing)))
    return Processes(shards, slots, max(1, cores // slots))


def _made_of(ctx: StageContext, store: ArtifactStore, record: ShardRecord) -> Made:
    def publish(file: str, path: str) -> None:
        ctx.stored.append(record.file(file).model_copy(update={"path": path}))

    def read(file: str) -> bytes:
        with scratch_folder("read") as folder:
            Stored(store, record.file(file)).fetch(folder / "file")
            return (folder / "file").read_bytes()

    return Made(record.counts, read, publish)


def _made_here(ctx: StageContext, specs: Sequence[ShardSpec]) -> Iterator[Made]:
    for number, spec in enumerate(specs):
        ctx.progress(number, len(specs), unit="shards")
        with scratch_folder("shard") as folder, scratch_folder("inputs") as held:

            def publish(file: str, path: str, folder: Path = folder) -> None:
                shutil.move(folder / file, ctx.outdir / path)

            def read(file: str, folder: Path = folder) -> bytes:
                return (folder / file).read_bytes()

            yield Made(function_of(spec.function)(work_here(spec, folder, held)), read, publish)
    ctx.progress(len(specs), len(specs), unit="shards")
