"""The disk space that a run's stages need on this machine, at least, and the space that is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from aquarat_core.artifacts import Manifest
from aquarat_core.settings import cache_dir, cache_limit
from aquarat_core.stages.costs import KNOWN_REPO, Cost, Sections, cost_of
from aquarat_core.stages.registry import STAGES


@dataclass(slots=True)
class Disk:
    """A file system of this machine."""

    path: Path
    """A folder on it that will be written to."""
    free: int
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by purpose."""

    @property
    def needs(self) -> int:
        return sum(self.parts.values())

    def complaint(self) -> str:
        """A sentence that says that it is too small, and what to do."""
        parts = ", ".join(f"{what} {decimal(size)}" for what, size in self.parts.items())
        return (
            f"the disk of {self.path} has {decimal(self.free)} free, but the stages need at least about "
            f"{decimal(self.needs)} there ({parts}). Free some (`aquarat store gc --delete` removes what nothing "
            "needs), or move a part to another disk with AQUARAT_STORE, AQUARAT_CACHE, AQUARAT_SCRATCH or HF_HOME"
        )


def needed(
    home: Path,
    store: str,
    sections: Sections,
    costs: Mapping[str, Cost],
    made: Mapping[str, Manifest],
    here: set[str],
) -> list[Disk]:
    """The disks that stages with these `costs` write to; those in `here` use this machine's cache and scratch space.

    Artifacts that were `made` before with the same config should have the same bytes again, which are stored once.
    """
    new = {name: cost for name, cost in costs.items() if name not in made}
    writes: list[tuple[Path, str, int]] = []
    if store.startswith("file://"):
        root = Path(store.removeprefix("file://"))
        writes.append((root, "artifacts", sum(cost.published for cost in new.values())))
        # Training stages run one after another, and each clears its state at the end.
        writes.append((root, "the state of unfinished training", max((c.state for c in new.values()), default=0)))
    inputs = {name for stage in here for name in STAGES[stage].needs(sections[stage]) if name not in made}
    copies = sum(cost_of(name, sections).published for name in inputs)
    writes.append((cache_dir(), "local copies of inputs", min(copies, cache_limit())))
    scratch = Path(os.environ.get("AQUARAT_SCRATCH") or home)
    writes.append((scratch, "scratch space", max((new[n].published for n in here & new.keys()), default=0)))
    if downloads := sum(cost.downloads for cost in new.values()):
        hub = _hub_cache()
        writes.append((hub, "downloads", max(0, downloads - _held(hub))))
    return _by_disk(writes)


def _by_disk(writes: list[tuple[Path, str, int]]) -> list[Disk]:
    disks: dict[int, Disk] = {}
    for path, what, size in writes:
        if size:
            there = _existing(path)
            disk = disks.setdefault(there.stat().st_dev, Disk(path, shutil.disk_usage(there).free))
            disk.parts[what] = disk.parts.get(what, 0) + size
    return list(disks.values())


def _existing(path: Path) -> Path:
    """The folder itself, or its nearest existing parent."""
    while not os.path.exists(path):  # pathlib raises if it has no permission to look
        path = path.parent
    return path


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _held(hub: Path) -> int:
    """Bytes of the text data set in the Hub's own cache."""
    blobs = hub / f"datasets--{KNOWN_REPO.replace('/', '--')}" / "blobs"
    total = 0
    for path in blobs.glob("*"):
        with suppress(FileNotFoundError):  # a download that is complete gets another name
            total += path.stat().st_size
    return total
