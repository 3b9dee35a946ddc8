"""The memory of a process on a CPU: freed blocks are kept for reuse until released, and pages have 2 MiB.

`free_bytes` is how much is free, on any device.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20
"""Bytes."""


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc's malloc reuse large blocks, and torch put them into huge pages. With newly faulted 4 KiB pages, a
    training step with one thread takes a tenth longer.

    Call it before the first tensor is made, because torch reads its variable then. With another C library or system
    it does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return the memory that malloc and Arrow hold but do not use to the system, even after `keep_freed_memory`.

    Call it after work that needs a lot of memory once. With a C library other than glibc, only Arrow's is returned.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def use_compact_arrow_memory() -> None:
    """From now on, let Arrow allocate with jemalloc if it was built with it.

    To read a file of conversations, which needs 7 MB, mimalloc (the default) takes 46 MB from the system, jemalloc 11.
    """
    import pyarrow as pa

    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def huge_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros in 2 MiB pages if Linux grants them, so that reading them once per step causes fewer TLB misses.

    On other systems and devices, ordinary zeros.
    """
    x = torch.empty(shape, dtype=dtype, device=device)
    start = -(-x.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    end = (x.data_ptr() + x.nbytes) // HUGE_PAGE * HUGE_PAGE
    if x.device.type == "cpu" and end > start and hasattr(mmap, "MADV_HUGEPAGE"):
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(mmap.MADV_HUGEPAGE))
    return x.zero_()


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that this process could still take: on the GPU, or on the host within its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free
