"""The processes of one stage: this process's rank, its device, and sums over all ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.config import ConfigError, LaunchConfig
from aquarat_core.errors import UserError
from aquarat_core.runtime.memory import keep_freed_memory
from aquarat_core.runtime.rendezvous import RANKS, ranks_store
from aquarat_core.settings import cache_dir

T = TypeVar("T")
JOIN_TIMEOUT = timedelta(minutes=10)
"""How long ranks wait for each other, at the start and in every exchange."""


class StartError(RuntimeError):
    """The processes of a stage did not find each other, because of a host, the network or another rank."""


class OtherRankFailed(RuntimeError):
    """Another rank failed to produce a result that this rank waited for; the message is that rank's."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """How the ranks exchange gradients and weights."""

    groups: tuple[dist.ProcessGroup, ...] = ()
    """With two levels: this host's ranks, and the ranks of all hosts with this local rank; otherwise empty."""
    bucket_bytes: float = 32e6
    """Gradients of at least this many bytes are exchanged at a time."""
    gather_dtype: torch.dtype = torch.float32
    """Type in which owners send updated weights."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among the stage's processes."""

    rank: int
    size: int
    device: torch.device
    compute_dtype: torch.dtype
    local_rank: int = 0
    """Index among the processes on its host, whose ranks are consecutive."""
    exchange: Exchange = Exchange()

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def totals(self, x: Tensor) -> list[float]:
        """The sums over all ranks of the numbers in a vector, as Python floats."""
        # torch does not declare the return type.
        return cast("list[float]", self.sum(x).tolist())  # pyright: ignore[reportUnknownMemberType]

    def gather(self, obj: list[Any]) -> list[Any]:
        """The concatenated lists of all ranks, on every rank.

        The lists are sent as JSON text, so they must hold JSON values.
        """
        if self.size == 1:
            return obj
        data = torch.frombuffer(bytearray(json.dumps(obj).encode()), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([data.numel()], device=self.device))
        padded = data.new_zeros(max(int(s) for s in sizes))
        padded[: data.numel()] = data
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        texts = [bytes(part[: int(size)].cpu().numpy()).decode() for part, size in zip(parts, sizes, strict=True)]
        return [item for text in texts for item in json.loads(text)]

    def gather_to_rank0(self, obj: list[Any]) -> list[Any]:
        """Like `gather` on rank 0; an empty list elsewhere."""
        gathered = self.gather(obj)
        return [] if self.rank else gathered

    def once_per_host(self, make: Callable[[], T]) -> T:
        """The value, a JSON value, that `make` returns on the first rank of this host; each host calls it once.

        The other ranks wait, at most `JOIN_TIMEOUT`. If it fails on any host, all ranks end: the failing rank raises
        its error, the others raise a `UserError` with the same message, or `OtherRankFailed` if it was another kind of
        error.
        """
        if self.size == 1:
            return make()
        made: dict[str, Any] = {}
        failure: Exception | None = None
        if self.local_rank == 0:
            try:
                made = {"value": make()}
            except Exception as e:
                failure = e
                said = str(e) if isinstance(e, UserError) else f"rank {self.rank} failed: {type(e).__name__}: {e}"
                made = {"failure": said, "user": isinstance(e, UserError)}
        everywhere: list[dict[str, Any]] = self.gather([made])
        if failure is not None:
            raise failure
        for other in everywhere:
            if "failure" in other:
                raise (UserError if other["user"] else OtherRankFailed)(other["failure"])
        return everywhere[self.rank - self.local_rank]["value"]

    def shard(self, items: list[T]) -> list[T]:
        """This rank's part of `items`: every size-th item, starting at index `rank`."""
        return items[self.rank :: self.size]

    def largest_share(self, count: int) -> int:
        """The most of `count` items that a rank has in `shard`."""
        return -(-count // self.size)


@contextmanager
def distributed_world(launch: LaunchConfig) -> Generator[World]:
    """Join the process group that torchrun describes in the environment; a single process is a world of size one."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = launch.device == "cuda" or (launch.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("launch.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"launch.nproc {launch.nproc} asks for more processes than this host has GPUs "
            f"({torch.cuda.device_count()}): lower launch.nproc, or set launch.device to 'cpu'"
        )
    torch.set_num_threads(launch.threads)
    # Read when torch's compiler is imported, which happens at the first compilation.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    if not cuda:
        keep_freed_memory()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        # Read by the first matrix product; without it, cuBLAS may choose its algorithm by what else is running.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if size > 1:
        _join("nccl" if cuda else "gloo", rank, size, device)
    try:
        world = World(rank, size, device, compute_dtype(launch, device), local_rank)
        yield replace(world, exchange=_exchange(launch, world))
    finally:
        if size > 1:
            dist.destroy_process_group()


def _join(backend: str, rank: int, size: int, device: torch.device) -> None:
    """Wait for all ranks. Raises `StartError`, one line on each rank, if they do not find each other."""
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    try:
        # Bound to its GPU, NCCL connects here instead of in the first exchange, and no rank guesses another's device.
        bound = device if device.type == "cuda" else None
        # On a single host the ranks meet in a file. On several, or under a manually started torchrun, they meet at its
        # address.
        store = ranks_store(size)
        place = os.environ[RANKS] if store else place
        where: dict[str, Any] = {} if store is None else {"store": store, "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=JOIN_TIMEOUT, device_id=bound, **where)
    except RuntimeError as e:
        raise StartError(
            f"rank {rank} of {size} could not join the others at {place} ({str(e).splitlines()[0]}): start all ranks "
            f"within {JOIN_TIMEOUT.total_seconds():.0f} s of each other, and let them reach that place"
        ) from e


def _exchange(launch: LaunchConfig, world: World) -> Exchange:
    """Raises `ConfigError`, on all ranks, for options that these ranks or this compute type cannot use."""
    if launch.gather_dtype == "bfloat16" and world.compute_dtype != torch.bfloat16:
        raise ConfigError(
            "launch.gather_dtype 'bfloat16' would round weights that are multiplied in float32 here: set launch.dtype "
            "to 'bfloat16', or launch.gather_dtype to 'float32'"
        )
    groups = _two_levels(world) if launch.two_level and world.size > 1 else ()
    return Exchange(groups, launch.bucket_mb * 1e6, getattr(torch, launch.gather_dtype))


def _two_levels(world: World) -> tuple[dist.ProcessGroup, ...]:
    """A group of this host's ranks and one across hosts; none if all ranks are on one host, or each on its own."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    consecutive = world.rank % here == world.local_rank
    everywhere: list[dict[str, Any]] = world.gather([{"ranks": here, "consecutive": consecutive}])
    counts = sorted({each["ranks"] for each in everywhere})
    if len(counts) > 1 or world.size % here or not all(each["consecutive"] for each in everywhere):
        raise ConfigError(
            "launch.two_level needs the same number of ranks on every host, numbered host by host, but this job's "
            f"hosts have {' and '.join(map(str, counts))}: set launch.two_level to false"
        )
    if here in (1, world.size):
        return ()
    # Every rank takes part in making every group.
    inside = [dist.new_group(list(range(first, first + here))) for first in range(0, world.size, here)]
    across = [dist.new_group(list(range(local, world.size, here))) for local in range(here)]
    # Only groups without this rank are numbers.
    return cast("tuple[dist.ProcessGroup, ...]", (inside[world.rank // here], across[world.local_rank]))


def compute_dtype(launch: LaunchConfig, device: torch.device) -> torch.dtype:
    """The type of matrix products: as configured; "auto" is bfloat16 with native support, else float32."""
    if launch.dtype != "auto":
        return getattr(torch, launch.dtype)
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
    return torch.bfloat16 if native else torch.float32


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))
