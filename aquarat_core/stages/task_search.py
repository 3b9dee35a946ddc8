"""Where the questions of a task are, for who evaluates a checkpoint outside of a chain.

Named data sets come first, then those that the checkpoint was made from, then the store's latest. So a checkpoint is
asked questions that its own chain kept from training, where there are such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from aquarat_core.artifacts import Artifact
from aquarat_core.config import TaskDefinition, validate
from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError, UsageError
from aquarat_core.stages.task_inputs import TaskInput, input_from
from aquarat_core.tasks.registry import DATASETS, OTHER_DATASET, TASKS, dataset_of

MAX_ANCESTORS = 1000


class TaskSearch:
    """The data sets in which tasks are sought for `checkpoint`: `given` ones first.

    `experiment` is the checkpoint's, whose latest data sets come before those of the main one. Code that a data set
    holds for a task of its own is run only if `run_code`.
    """

    def __init__(
        self, checkpoint: Artifact, given: Sequence[Artifact] = (), experiment: str = "", run_code: bool = False
    ) -> None:
        self.checkpoint, self._run_code = checkpoint, run_code
        wanted = (*DATASETS, OTHER_DATASET)
        for artifact in given:
            if artifact.asset not in wanted:
                raise UsageError(f"{artifact.asset} holds no questions: {' and '.join(wanted)} do")
        prefixes = (f"{experiment}/", "") if experiment else ("",)
        latest = (checkpoint.store.latest(f"{prefix}{asset}") for prefix in prefixes for asset in wanted)
        found = [*given, *(a for a in ancestors(checkpoint) if a.asset in wanted), *(a for a in latest if a)]
        self.datasets = list({artifact.sha256: artifact for artifact in found}.values())
        """In the order in which they are searched."""

    def find(self, name: str, split: str) -> TaskInput:
        """The task with questions of that split. Raises `UserError` that says what to do where there are none."""
        asset = dataset_of(name)
        own = [d for d in self.datasets if d.asset == asset and name in self._definitions(d)]
        if name not in TASKS and not own:
            hint = did_you_mean(name, self.known())
            raise UsageError(f"there is no task {name!r}: {hint}the tasks are {', '.join(self.known())}")
        for dataset in own if name not in TASKS else self.datasets:
            if dataset.asset == asset and (found := self._input(dataset, name)).rows(split):
                return found
        raise DataError(f"no {split} questions of {name} are at hand: {self._advice(name, asset, split)}")

    def known(self) -> list[str]:
        """The built-in tasks and those that the data sets define."""
        return sorted({*TASKS, *(name for dataset in self.datasets for name in self._definitions(dataset))})

    def _input(self, dataset: Artifact, name: str) -> TaskInput:
        definitions = {} if name in TASKS else self._definitions(dataset)
        if name in definitions and definitions[name].code is not None and not self._run_code:
            raise UsageError(
                f"the task {name} is graded by code that {dataset.asset} ({dataset.sha256[:12]}) holds: read it with "
                f"`aquarat show {dataset.sha256[:12]} --json`, and say --run-code if you trust it"
            )
        return input_from(dataset, name, definitions)

    def _definitions(self, dataset: Artifact) -> dict[str, TaskDefinition]:
        """The tasks that a data set was made with by a profile's definition."""
        defined: Any = dataset.manifest.config.get("tasks", {}) if dataset.asset == OTHER_DATASET else {}
        fields = TaskDefinition.model_fields.keys()
        return {
            name: validate(TaskDefinition, {k: v for k, v in task.items() if k in fields}, f"task {name}")
            for name, task in cast("dict[str, dict[str, Any]]", defined).items()
        }

    def _advice(self, name: str, asset: str, split: str) -> str:
        store = self.checkpoint.store.uri
        searched = ", ".join(f"{d.asset} {d.sha256[:12]}" for d in self.datasets if d.asset == asset)
        where = f"{searched} {'have' if ',' in searched else 'has'} none" if searched else f"{store} has no {asset}"
        needed = f"with n_{split} above 0" if asset in DATASETS else f"with {{name: {name}}} in chat_datasets.sources"
        return (
            f"{where}. Materialize {asset} {needed} (`aquarat materialize {asset}`), or name a data set that has some "
            "with --data"
        )


def ancestors(artifact: Artifact) -> Iterator[Artifact]:
    """The artifacts that one was made from, nearest first; what the store no longer has is left out."""
    seen: set[str] = set()
    waiting = [artifact]
    while waiting and len(seen) < MAX_ANCESTORS:
        one = waiting.pop(0)
        for parent in one.manifest.parents:
            if parent.manifest_sha256 not in seen and one.store.has(parent.manifest_sha256):
                seen.add(parent.manifest_sha256)
                waiting.append(found := one.store.get(parent.manifest_sha256))
                yield found
