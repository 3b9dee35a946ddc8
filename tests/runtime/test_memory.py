"""Memory that is kept for reuse, and given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HOLDS_AND_RELEASES = """
import numpy as np
from aquarat_core.runtime.memory import keep_freed_memory, release_freed_memory

def anonymous_mb():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024

keep_freed_memory()
before = anonymous_mb()
blocks = [np.ones(1 << 20, np.uint8) for _ in range(200)]
held = anonymous_mb() - before
# One block at the end stays: the others are not at the top of the heap, from which alone free() would return them.
blocks[:-1] = []
freed = anonymous_mb() - before
release_freed_memory()
print(held, freed, anonymous_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc keeps and returns memory like this in glibc")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    done = subprocess.run([sys.executable, "-c", HOLDS_AND_RELEASES], capture_output=True, text=True, check=True)
    held, freed, released = map(float, done.stdout.split())
    assert held > 190 and freed > 190
    assert released < 50
