"""Which code a stage is made of: the hash that Dagster and manifests hold, and the one that finds unfinished training.

Both are over the stage's import closure, computed from the sources, so that there is no list to keep. Comments,
docstrings and layout never count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from aquarat_core.settings import REPO_ROOT, cache_dir
from aquarat_core.stages.import_graph import ImportGraph
from aquarat_core.stages.stage import Stage, module_of

RUNNER = "aquarat_core.stages.run"
DESCRIBING = frozenset({
    "aquarat_core.stages.registry", "aquarat_core.stages.stage", "aquarat_core.stages.code_version",
    "aquarat_core.stages.import_graph", "aquarat_core.stages.memo", "aquarat_core.stages.parsing",
    "aquarat_core.tasks.registry",
})  # fmt: skip
"""Modules that say what stages and tasks there are and what they are made of. Nothing that a stage makes depends on
them: on its own row it does, and on the tasks that it uses."""
RECORDING = frozenset({
    "artifacts", "checkpointing", "plain_text", "rendezvous", "samples", "scratch", "settings", "tracking",
})  # fmt: skip
"""Rooms and modules, by any part of the dotted name, that start, store, record or show what a stage computes, and
decide nothing of it."""
TOKENIZER = "rustbpe_py"
"""The one extension of ours; who imports it is made of `rust/src` too."""


class StageSources:
    """The sources of one checkout, as stages are made of them."""

    def __init__(self, root: Path, memo: Path | None = None) -> None:
        self.root = root
        self.graph = ImportGraph(root, ("aquarat_core",), memo)
        self._rust: str | None = None

    def code_version(self, stage: Stage, config: BaseModel | None) -> str:
        """SHA-256 over the stage, the runner, all they import, and the config: tells stale from fresh."""
        modules = self.modules(stage, config)
        digests = {name: self.graph[name].digest for name in modules}
        return self._hash(stage, digests, config.model_dump_json() if config else "null")

    def result_version(self, stage: Stage, config: BaseModel | None) -> str:
        """SHA-256 over the sources that decide what the stage computes: what is unfinished is found by it.

        `RECORDING` is left out, with what only it imports, and of the rest the messages: calls of `log`,
        `progress` and `print` that stand alone, and the texts of errors. The config is not in it.
        """
        modules = self.deciding_modules(stage, config)
        return self._hash(stage, {name: self.graph[name].quiet_digest for name in modules}, "")

    def modules(self, stage: Stage, config: BaseModel | None) -> frozenset[str]:
        """The modules that the stage is made of."""
        return self.graph.closure([RUNNER, *_entries(stage, config)], DESCRIBING.__contains__)

    def deciding_modules(self, stage: Stage, config: BaseModel | None) -> frozenset[str]:
        """Those that decide what it computes."""
        return self.graph.closure(_entries(stage, config), _decides_nothing)

    def _hash(self, stage: Stage, digests: dict[str, str], config: str) -> str:
        row = [stage.name, stage.kind, stage.section, stage.entry, *stage.inputs]
        parts = [json.dumps(row), *(f"{name} {digests[name]}" for name in sorted(digests))]
        if any(TOKENIZER in self.graph.others(name) for name in digests):
            parts.append(self._rust_digest())
        return hashlib.sha256("\0".join([*parts, config]).encode()).hexdigest()

    def _rust_digest(self) -> str:
        if self._rust is None:
            digest, source = hashlib.sha256(), self.root / "rust" / "src"
            for path in sorted(source.rglob("*.rs")):
                digest.update(f"{path.relative_to(source).as_posix()}\0".encode() + path.read_bytes() + b"\0")
            self._rust = digest.hexdigest()
        return self._rust


def _entries(stage: Stage, config: BaseModel | None) -> Iterable[str]:
    return map(module_of, (stage.entry, *stage.tasks(config)))


def _decides_nothing(module: str) -> bool:
    return module in DESCRIBING or not RECORDING.isdisjoint(module.split("."))


@cache
def sources() -> StageSources:
    """The sources of this checkout, read once in a process."""
    checkout = hashlib.sha256(os.fsencode(REPO_ROOT)).hexdigest()[:12]
    return StageSources(REPO_ROOT, cache_dir() / "sources" / f"{checkout}.json")


def code_version(stage: Stage, config: BaseModel | None) -> str:
    """`StageSources.code_version` of this checkout."""
    return sources().code_version(stage, config)


def result_version(stage: Stage, config: BaseModel | None) -> str:
    """`StageSources.result_version` of this checkout."""
    return sources().result_version(stage, config)
