"""The hashes of a stage's code: one for Dagster and manifests, another to find unfinished training.

Both cover the stage's import closure, which is computed from the sources, so no list has to be maintained. Comments,
docstrings and layout never count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path

from pydantic import BaseModel

from aquarat_core.artifacts.hashing import tree_digest
from aquarat_core.settings import REPO_ROOT, cache_dir
from aquarat_core.stages.import_graph import ImportGraph
from aquarat_core.stages.stage import Stage, module_of

RUNNER = "aquarat_core.stages.run"
DESCRIBING = frozenset({
    "aquarat_core.stages.registry", "aquarat_core.stages.stage", "aquarat_core.stages.code_version",
    "aquarat_core.stages.import_graph", "aquarat_core.stages.memo", "aquarat_core.stages.parsing",
    "aquarat_core.tasks.registry",
})  # fmt: skip
"""Modules that only list stages and tasks and their parts. A stage's result does not depend on them, but on its own
entry and on the tasks that it uses."""
RECORDING = frozenset({
    "artifacts", "checkpointing", "plain_text", "rendezvous", "samples", "scratch", "settings", "tracking",
})  # fmt: skip
"""Packages and modules, by any part of the dotted name, that start, store, record or show a computation without
affecting its result."""
SHARDING = "aquarat_core.sharding"
"""What calls shard functions does not affect their results."""
TOKENIZER = "rustbpe_py"
"""Our only extension module; modules that import it also depend on `rust/src`."""


class StageSources:
    """The sources of one checkout, and the stages' code versions."""

    def __init__(self, root: Path, memo: Path | None = None) -> None:
        self.root = root
        self.graph = ImportGraph(root, ("aquarat_core",), memo)

    def code_version(self, stage: Stage, config: BaseModel | None) -> str:
        """SHA-256 over the stage, the runner, all of their imports, and the config: decides whether an artifact is
        stale."""
        modules = self.modules(stage, config)
        digests = {name: self.graph[name].digest for name in modules}
        return self._hash(stage, digests, config.model_dump_json() if config else "null")

    def result_version(self, stage: Stage, config: BaseModel | None) -> str:
        """SHA-256 over the sources that affect the result of the stage: identifies its unfinished training.

        Leaves out `RECORDING` and what only it imports, and messages in the other modules: stand-alone calls of `log`,
        `progress` and `print`, and the texts of errors. Does not include the config.
        """
        modules = self.deciding_modules(stage, config)
        return self._hash(stage, {name: self.graph[name].quiet_digest for name in modules}, "")

    def function_version(self, entry: str) -> str:
        """SHA-256 over the sources that affect the result of the shard function `module:name`, as in
        `result_version`."""
        modules = self.graph.closure([module_of(entry)], lambda m: _decides_nothing(m) or m.startswith(SHARDING))
        return self._digest([entry], {name: self.graph[name].quiet_digest for name in modules}, "")

    def modules(self, stage: Stage, config: BaseModel | None) -> frozenset[str]:
        """All modules that the stage is made of."""
        return self.graph.closure([RUNNER, *_entries(stage, config)], DESCRIBING.__contains__)

    def deciding_modules(self, stage: Stage, config: BaseModel | None) -> frozenset[str]:
        """The modules that affect its result."""
        return self.graph.closure(_entries(stage, config), _decides_nothing)

    def _hash(self, stage: Stage, digests: dict[str, str], config: str) -> str:
        return self._digest([stage.name, stage.kind, stage.section, stage.entry, *stage.inputs], digests, config)

    def _digest(self, row: list[str | None], digests: dict[str, str], config: str) -> str:
        parts = [json.dumps(row), *(f"{name} {digests[name]}" for name in sorted(digests))]
        if any(TOKENIZER in self.graph.others(name) for name in digests):
            parts.append(self._rust_digest)
        return hashlib.sha256("\0".join([*parts, config]).encode()).hexdigest()

    @cached_property
    def _rust_digest(self) -> str:
        return tree_digest(self.root / "rust" / "src", "*.rs")


def _entries(stage: Stage, config: BaseModel | None) -> Iterable[str]:
    return map(module_of, (stage.entry, *stage.tasks(config)))


def _decides_nothing(module: str) -> bool:
    return module in DESCRIBING or not RECORDING.isdisjoint(module.split("."))


@cache
def sources() -> StageSources:
    """The sources of this checkout, read once per process."""
    checkout = hashlib.sha256(os.fsencode(REPO_ROOT)).hexdigest()[:12]
    return StageSources(REPO_ROOT, cache_dir() / "sources" / f"{checkout}.json")


def code_version(stage: Stage, config: BaseModel | None) -> str:
    """`StageSources.code_version` for this checkout."""
    return sources().code_version(stage, config)


def result_version(stage: Stage, config: BaseModel | None) -> str:
    """`StageSources.result_version` for this checkout."""
    return sources().result_version(stage, config)
