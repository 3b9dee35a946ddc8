"""Peak memory of this process, all processes it started and the jobs of a store, for the demo and the benchmarks."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread

from aquarat_core.agent.processes import ENV_TAG, processes_with_env

SAMPLE_SECONDS = 0.5


class PeakMemory:
    """During the block, samples the proportional set size of its processes; `.peak_mb` is the largest sum.

    Its processes are this one and its descendants and, because supervisors outlive us, all processes on this machine
    that belong to a job under `store`. Proportional instead of resident sizes, so that pages shared by ranks (mainly
    torch's libraries) count once. `.peak_resident_mb` is the largest sum of resident sizes, which counts them once per
    process.
    """

    def __init__(self, store: str) -> None:
        self.peak_mb = self.peak_resident_mb = 0.0
        self._jobs = f"{store}/jobs/"
        self._stop = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            pids = {*process_tree(os.getpid()), *processes_with_env(ENV_TAG, self._jobs, prefix=True)}
            sizes = [_sizes_kb(pid) for pid in pids]
            self.peak_mb = max(self.peak_mb, sum(s.get("Pss", 0) for s in sizes) / 1024)
            self.peak_resident_mb = max(self.peak_resident_mb, sum(s.get("Rss", 0) for s in sizes) / 1024)


def process_tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            parents.setdefault(parent, []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree.extend(parents.get(pid, []))
    return tree


def _parent(pid: int) -> int | None:
    try:
        # The command name, in parentheses, may itself contain spaces and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _sizes_kb(pid: int) -> dict[str, int]:
    """The sizes of a process by name; none of one that has ended."""
    try:
        _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ValueError):
        return {}
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
