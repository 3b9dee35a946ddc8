"""The tasks that a stage's config names, each with the artifact that contains its examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aquarat_core.artifacts import Artifact
from aquarat_core.config import TaskDefinition
from aquarat_core.errors import StageError
from aquarat_core.stages.base import StageContext
from aquarat_core.tasks.mixture import TaskExamples
from aquarat_core.tasks.registry import DATASETS, SOURCES_FILE, dataset_of, defined_task, load_task
from aquarat_core.tasks.task import Example, Task


@dataclass(frozen=True, slots=True)
class TaskInput:
    """A task and the artifact with its examples."""

    task: Task[Any]
    dataset: Artifact

    def rows(self, split: str) -> int:
        """How many questions of the split there are; 0 without a file for it."""
        import pyarrow.parquet as pq

        file = f"{split}.parquet" if self.dataset.asset in DATASETS else f"{self.task.name}.{split}.parquet"
        if all(f.path != file for f in self.dataset.manifest.files):
            return 0
        # The stubs leave open of what the metadata is.
        return pq.read_metadata(self.dataset.path(file)).num_rows  # pyright: ignore[reportUnknownMemberType]

    def examples(self, split: str) -> list[Example[Any]]:
        """The examples of a split. Raises `StageError` if there are none."""
        if self.rows(split):
            return self.task.examples(self.dataset.path, split)
        own = self.dataset.asset in DATASETS
        where = f"{self.dataset.asset}.n_{split}" if own else f"n_{split} of the task {self.task.name}"
        raise StageError(
            f"{self.dataset.asset} has no {split} questions of {self.task.name}: set {where} above 0, or choose "
            "another split (eval_report.split)"
        )

    def choice_split(self, split: str) -> str:
        """The split by which models are chosen where the config says `split`: data sets of many tasks have no
        hold-out."""
        return split if self.dataset.asset in DATASETS else "validation"

    def source(self, split: str) -> TaskExamples:
        """The examples of a split for a mixture; nothing is read before it is needed."""
        return TaskExamples(self.task, self.dataset.path, split)

    def references(self, split: str) -> Sequence[str]:
        """The right answers of a split."""
        return self.task.references(self.dataset.path, split)


def task_input(ctx: StageContext, name: str) -> TaskInput:
    """The task with that name, as defined by the stage's config or built in.

    Raises `StageError` if the data set was made without the task.
    """
    definitions: dict[str, TaskDefinition] = getattr(ctx.config, "definitions", {})
    return input_from(ctx.inputs[dataset_of(name)], name, definitions)


def input_from(dataset: Artifact, name: str, definitions: Mapping[str, TaskDefinition]) -> TaskInput:
    """The same from a data set; raises likewise."""
    if name not in definitions:
        return TaskInput(load_task(name), dataset)
    described = json.loads(dataset.path(SOURCES_FILE).read_text(encoding="utf-8"))
    if name not in described:
        raise StageError(
            f"{dataset.asset} ({dataset.sha256[:12]}) has no task {name}: it was made before the task was added to the "
            f"profile. Make {dataset.asset} and everything after it again"
        )
    return TaskInput(defined_task(name, definitions[name], described[name]), dataset)
