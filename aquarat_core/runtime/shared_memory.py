"""Memory that all ranks of one host can read, for what they would otherwise send to each other over loopback."""

from __future__ import annotations

import os
import secrets
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.runtime.distributed import World

MARK_BYTES = 64
"""A random mark at the start of each rank's memory, by which the others know that they have opened the right one."""


def share_on_host(world: World, numel: int) -> list[Tensor] | None:
    """Float32 memory [numel] of zeros for each rank, in the order of ranks, which all ranks see; this rank's is its own
    to write.

    None, on all ranks, if they compute on GPUs, are on several hosts, or cannot open each other's memory: outside Linux
    or where `/proc` is hidden. A collective operation. The memory has no name in a file system, so its size is not that
    of `/dev/shm`, and nothing is left of it when its processes have ended, however they end.
    """
    alone = world.size == 1 or not dist.is_initialized()
    if alone or world.device.type != "cpu" or os.environ.get("LOCAL_WORLD_SIZE") != str(world.size):
        return None
    mark, mine = secrets.token_hex(MARK_BYTES // 2), None
    try:
        mine = os.memfd_create("aquarat-exchange")
        os.ftruncate(mine, MARK_BYTES + 4 * numel)
        os.pwrite(mine, mark.encode(), 0)
    except (OSError, AttributeError):  # the function exists only on Linux
        pass
    offers: list[dict[str, Any]] = world.gather([{"pid": os.getpid(), "fd": mine, "mark": mark}])
    opened = [_open(offer, numel) for offer in offers]
    there = [memory for memory in opened if memory is not None]
    # This also keeps every rank's descriptor open until all others have opened it.
    everywhere = world.gather([len(there)])
    if mine is not None:
        os.close(mine)
    if min(everywhere) < world.size:
        return None
    return [memory[MARK_BYTES // 4 :] for memory in there]


def _open(offer: dict[str, Any], numel: int) -> Tensor | None:
    """Another rank's memory, without keeping a descriptor, as Python's `mmap` would."""
    place, mark = f"/proc/{offer['pid']}/fd/{offer['fd']}", offer["mark"].encode()
    if offer["fd"] is None:
        return None
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            right = os.pread(descriptor, MARK_BYTES, 0) == mark
        finally:
            os.close(descriptor)
        if right:
            return torch.from_file(place, shared=True, size=MARK_BYTES // 4 + numel, dtype=torch.float32)
    except (OSError, RuntimeError):
        pass
    return None
